"""Optimizer steps that are recorded once and replayed: a GPU computes a step faster than its kernels are launched."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from gam_kg.ops.packing import Packing
from gam_kg.training.batch_workers import is_of_ended_worker
from gam_kg.training.padded_batch import PaddableBatch
from gam_kg.training.step_batch import StepBatch, to_device
from gam_kg.training.step_sizes import StepSizes
from gam_kg.training.stopwatch import Stopwatch

MOST_SIZES, MOST_RECORDINGS = 8, 16
"""Sizes of batches with the same dimensions; recordings in memory, where the one not used for longest goes first."""

Work = Callable[[], None]

logger = logging.getLogger("gam_kg")


class Recorder(Protocol):
    """Records work on a device. Work reads and writes memory in place, and returns nothing."""

    def rehearse(self, work: Work) -> None:
        """Do work that will be recorded next, so that all that is made once for it is made before."""

    def record(self, work: Work) -> Work:
        """Do work, and return how to do it again, with the numbers that the memory has by then."""


class CUDARecorder:
    """Records CUDA graphs, which share one pool of memory: nothing in it is read after the graph that wrote it.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._last: torch.cuda.CUDAGraph | None = None  # without any graph the pool would end

    def rehearse(self, work: Work) -> None:
        """See `Recorder`."""
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            work()
        outside.wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # The outer block puts back the current stream, which torch does not do where recording fails. Other threads may
        # use the device meanwhile, which other modes forbid.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self._stream.device)),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            work()
        self._last = graph
        graph.replay()
        return graph.replay


@dataclass
class _Recording:
    """The recording of a step over one buffer.

    Attributes:
        packing: Where in the buffer the batch is.
        buffer: Where its batch is packed, uint8 (num_bytes,).
        batch: The batch, views of the buffer.
        is_rehearsed: Whether it can be recorded.
        replay: None while it is not recorded.
    """

    packing: Packing[StepBatch]
    buffer: Tensor
    batch: StepBatch
    is_rehearsed: bool = False
    replay: Work | None = None


class StepGraphs:
    """Does optimizer steps; those whose batches have the same sizes, which are padded for it, are recorded once.

    The first batch of new sizes is a rehearsal, the second is recorded, and from the third on they are replayed; all
    are steps like any other. A batch that cannot be padded is a step without a recording. If recording fails, it warns
    once, and does all further steps without recordings.

    Args:
        step: The step, see `OptimizerStep`.
        device: Where it computes.
        watch: Measures the phases of steps; a replay is one phase.
        recorder: None: nothing is recorded.
    """

    def __init__(
        self,
        step: Callable[[StepBatch, Stopwatch], None],
        device: torch.device,
        watch: Stopwatch,
        recorder: Recorder | None = None,
    ) -> None:
        self._step, self._device, self._watch, self._recorder = step, device, watch, recorder
        self._sizes = StepSizes(MOST_SIZES)
        # By sizes: all else of a batch that is no number in a tensor is alike in a training.
        self._recordings: dict[tuple[tuple[str, int], ...], _Recording] = {}

    def __call__(self, batch: StepBatch) -> None:
        """Do the step of a batch that is on the CPU."""
        if self._recorder is not None:
            with self._watch.phase("batch"):
                recording = self._recording_of(batch)
            if recording is not None:
                self._do(recording, self._recorder)
                return
        with self._watch.phase("batch"):
            batch = to_device(batch, self._device)
        self._step(batch, self._watch)

    def forget(self) -> None:
        """Drop all recordings, since what they read or write is now elsewhere."""
        self._recordings.clear()

    def _recording_of(self, batch: StepBatch) -> _Recording | None:
        """The recording for a batch, which is written into its buffer; None: there is none for such a batch."""
        paddable = PaddableBatch.of(batch)
        if paddable is None:
            return None
        sizes = self._sizes.above(paddable.sizes)
        padded = paddable.padded(sizes)
        if padded is None:
            return None
        key = tuple(sizes.items())
        recording = self._recordings.pop(key, None)
        if recording is None:
            packing: Packing[StepBatch] = Packing.of(padded)
            buffer = torch.empty(packing.num_bytes, dtype=torch.uint8, device=self._device)
            recording = _Recording(packing, buffer, packing.unpack(buffer))
        self._recordings[key] = recording
        if len(self._recordings) > MOST_RECORDINGS:
            del self._recordings[next(iter(self._recordings))]
        recording.packing.send(padded, recording.buffer)
        return recording

    def _do(self, recording: _Recording, recorder: Recorder) -> None:
        work = partial(self._step, recording.batch, self._watch)
        if recording.replay is not None:
            with self._watch.phase("step"):
                recording.replay()
        elif not recording.is_rehearsed:
            recorder.rehearse(work)
            recording.is_rehearsed = True
        else:
            try:
                recording.replay = recorder.record(work)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or is_of_ended_worker(error):
                    raise
                reason = error.__context__ or error  # torch may hide the first error behind a second one
                logger.warning("steps run without CUDA graphs, and take longer, since recording one failed: %s", reason)
                self._recorder = None
                self.forget()
                work()
