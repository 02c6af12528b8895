"""Processes that make the batches of steps, where one process would make them more slowly than a GPU trains on them.

Each has a history of its own, into which it inserts all snapshots, and makes the batches of every n-th. So batches are
the same with any number of processes.
"""

import multiprocessing
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from gam_kg.errors import GamKGError
from gam_kg.history.index import HistoryIndex
from gam_kg.history.sharded import copy_history
from gam_kg.ops.out_of_memory import naming_knobs
from gam_kg.ops.packing import Packing
from gam_kg.training.batches import Batches, Share, Step

SNAPSHOTS_AHEAD = 2
"""Snapshots whose batches each process makes ahead, at least."""

Packed = tuple[Packing[Step], Tensor]
"""A step in a buffer: a process sends one tensor faster than a hundred."""


class BatchWorkers:
    """Worker processes of one training, in a world of one. They start with the first steps, and stay until `close`.

    Args:
        batches: Makes the batches; each process has a copy, with the history as it is now.
        times: Snapshots of an epoch, in time order.
        number: Number of processes.
        ahead: Snapshots whose batches each makes ahead, at most.
    """

    def __init__(self, batches: Batches, times: Sequence[int], number: int, ahead: int) -> None:
        self._batches, self._times = batches, times
        self._snapshots = _Snapshots(batches, times)
        self._thread, self._closed = ThreadPoolExecutor(1, thread_name_prefix="history"), Event()
        self._history: Future[HistoryIndex] | None = None
        self._loader: DataLoader[list[Packed] | GamKGError] | None = DataLoader(
            self._snapshots,
            batch_size=None,
            num_workers=number,
            prefetch_factor=ahead,
            persistent_workers=True,  # they cache batches from epoch to epoch
            multiprocessing_context=multiprocessing.get_context("fork"),
        )

    def steps(self, index: int, step: int) -> Generator[Step]:
        """See `Batches.steps`.

        Raises:
            GamKGError: A process could not make a batch.
        """
        assert self._loader is not None, "the workers are closed"
        self._snapshots.start.copy_(torch.tensor([index, step]))
        made = iter(self._loader)
        # A thread that runs while processes are forked might have locks that these would wait for.
        self._history = self._history or self._thread.submit(self._fill)
        try:
            for found in made:
                if isinstance(found, GamKGError):
                    raise found
                for packing, buffer in found:
                    yield packing.unpack(buffer)
        finally:
            del made  # an error has this frame, and processes end with the last use of them

    def _fill(self) -> HistoryIndex:
        return self._batches.history_after(self._times, lambda: not self._closed.is_set())

    def history(self) -> HistoryIndex:
        """A history that has all snapshots of an epoch, after the first steps."""
        assert self._history is not None, "no step was made"
        return copy_history(self._history.result())

    def close(self) -> None:
        """End the processes, and the thread that fills a history."""
        self._loader = None
        self._closed.set()
        self._thread.shutdown()


@contextmanager
def ended_workers_named() -> Generator[None]:
    """Raise GamKGError where a process that makes batches was killed: torch says so by a signal, in whatever runs."""
    try:
        yield
    except RuntimeError as error:
        if not is_of_ended_worker(error):
            raise
        raise GamKGError(
            f"a process that makes batches has ended ({str(error).splitlines()[0]}); if it ran out of memory, "
            "lower train.batch_workers, or set it to 0; in a container /dev/shm must have room too (--shm-size)"
        ) from error


def is_of_ended_worker(error: RuntimeError) -> bool:
    """Whether torch says by an error that a process has ended, and not what the code that it runs has raised."""
    return str(error).startswith("DataLoader worker")


class _Snapshots(IterableDataset[list[Packed] | GamKGError]):
    """The steps of a process's share of the snapshots, one snapshot after another."""

    def __init__(self, batches: Batches, times: Sequence[int]) -> None:
        super().__init__()
        self._batches, self._times = batches, times
        # Number of the first snapshot and of the first step: the processes see what is written here.
        self.start = torch.zeros(2, dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[list[Packed] | GamKGError]:
        worker = get_worker_info()
        assert worker is not None
        index, step = self.start.tolist()
        share, steps = Share(worker.id, worker.num_workers), []
        try:
            with naming_knobs(lambda: "making batches", "train.batch_workers=0", "train.read_ahead=0"):
                for one in self._batches.steps(self._times, index, step, share):
                    steps.append(_packed(one))
                    if one.end is not None:
                        yield steps
                        steps = []
        except GamKGError as error:
            yield error  # torch would add its own traceback


def _packed(step: Step) -> Packed:
    packing = Packing.of(step)
    buffer = torch.empty(packing.num_bytes, dtype=torch.uint8)
    packing.pack(step, buffer)
    return packing, buffer
