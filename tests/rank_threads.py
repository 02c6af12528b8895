"""Ranks that are threads of one process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier, Thread
from typing import Any

import torch
from torch import Tensor

from gam_kg.distributed.communicator import Communicator


class Sum:
    """Sums over threads, in place."""

    def __init__(self, world_size: int) -> None:
        self.barrier, self.parts = Barrier(world_size, timeout=20), []

    def __call__(self, value: Tensor) -> Tensor:
        self.parts.append(value.clone())
        self.barrier.wait()
        value.copy_(torch.stack(self.parts).sum(0))
        if self.barrier.wait() == 0:
            self.parts.clear()
        self.barrier.wait()
        return value


def in_threads(world_size: int, function: Callable[[int, Any], Any]) -> list[Any]:
    """What `function(rank, total)` returns on each rank."""
    total, found = Sum(world_size), {}

    def run(rank: int) -> None:
        found[rank] = function(rank, total)

    threads = [Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(world_size)]


@dataclass(frozen=True)
class ThreadCommunicator(Communicator):
    """Ranks that are threads of one process; all that they exchange, all of them see."""

    meeting: "Meeting | None" = None

    def _all(self, value: Tensor) -> list[Tensor]:
        assert self.meeting is not None
        return self.meeting(self.rank, value)

    def sum(self, value: Tensor, purpose: str) -> Tensor:
        return value.copy_(torch.stack(self._all(value)).sum(0))

    def max(self, value: Tensor, purpose: str) -> Tensor:
        return value.copy_(torch.stack(self._all(value)).amax(0))

    def gather(self, value: Tensor, purpose: str) -> Tensor:
        return torch.cat(self._all(value))

    def gather_even(self, value: Tensor, purpose: str) -> Tensor:
        found = self._all(value)
        assert len({len(one) for one in found}) == 1
        return torch.cat(found)

    def all_to_all(self, value: Tensor, send: list[int], receive: list[int], purpose: str) -> Tensor:
        assert sum(send) == len(value)
        sizes, values = self._all(torch.tensor(send)), self._all(value)
        parts = [one.split(size.tolist())[self.rank] for one, size in zip(values, sizes, strict=True)]
        assert [len(part) for part in parts] == receive
        return torch.cat(parts)


class Meeting:
    """Where threads meet, each with a tensor, and leave with copies of all."""

    def __init__(self, world_size: int) -> None:
        self.barrier, self.values = Barrier(world_size, timeout=20), {}

    def __call__(self, rank: int, value: Tensor) -> list[Tensor]:
        self.values[rank] = value.clone()
        self.barrier.wait()
        found = [self.values[other] for other in sorted(self.values)]
        self.barrier.wait()
        return found


def ranks_in_threads(world_size: int, function: Callable[[Communicator], Any]) -> list[Any]:
    """What `function(communicator)` returns on each rank."""
    meeting = Meeting(world_size)

    def run(rank: int) -> Any:
        try:
            return function(ThreadCommunicator(rank, world_size, meeting=meeting))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(run, range(world_size)))
