"""The ranks, and collectives without gradients; the traffic of each is counted by its purpose."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from gam_kg.distributed.traffic import Traffic
from gam_kg.errors import GamKGError
from gam_kg.ops.ragged import sort_with_positions

Result = TypeVar("Result")

# torch 2.13 has renamed these two.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class Communicator:
    """A process among the ranks that train together; the default is a world of one.

    In a world of one, sums, maxima, gathers and barriers do nothing; callers do not use the others there.

    Attributes:
        rank: The process, in `[0, world_size)`.
        world_size: Number of ranks.
        traffic: What this rank has sent.
        group: Process group of the ranks; None: the default one.
    """

    rank: int = 0
    world_size: int = 1
    traffic: Traffic = field(default_factory=Traffic, compare=False, repr=False)
    group: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not in [0, world_size={self.world_size})")

    @classmethod
    def current(cls) -> "Communicator":
        """The communicator of the process group, or a world of one where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def apart(self) -> "Communicator":
        """The same ranks for another thread: with traffic and a process group of its own, on CPUs. A collective."""
        group = dist.new_group(backend="gloo") if self.world_size > 1 else None
        return replace(self, traffic=Traffic(), group=group)

    def sum(self, value: Tensor, purpose: str) -> Tensor:
        """Sum over the ranks; in place, and returned."""
        return self._reduce(value, dist.ReduceOp.SUM, purpose)

    def begin_sum(self, value: Tensor, purpose: str) -> Callable[[], None]:
        """Begin a sum over the ranks, in place, while this rank goes on; the function that is returned waits for it."""
        if self.world_size == 1:
            return lambda: None
        work = dist.all_reduce(value, group=self.group, async_op=True)
        assert work is not None

        def wait() -> None:
            self._run(purpose, self._reduced(value), value, work.wait)

        return wait

    def max(self, value: Tensor, purpose: str) -> Tensor:
        """Maximum over the ranks; in place, and returned."""
        return self._reduce(value, dist.ReduceOp.MAX, purpose)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.world_size > 1:
            dist.barrier(self.group)

    def together(self, work: Callable[[], Result]) -> Result:
        """Do what may fail on one rank alone; where it does, all ranks fail. A collective.

        Raises:
            GamKGError: That of this rank, or one that says that another rank has failed.
        """
        error = result = None
        try:
            result = work()
        except GamKGError as found:
            error = found
        failed = torch.tensor([error is not None], dtype=torch.int64)
        if self.world_size > 1:
            dist.all_reduce(failed, group=self.group)
        if error is not None:
            raise error
        if failed.item():
            raise GamKGError("another rank has failed; its message says why")
        return cast("Result", result)

    def gather(self, value: Tensor, purpose: str) -> Tensor:
        """Rows of all ranks, (num_rows, ...), one rank after another; each may have any number of rows."""
        if self.world_size == 1:
            return value
        sizes = value.new_zeros(self.world_size, dtype=torch.int64)
        sizes[self.rank] = len(value)
        lengths = self.sum(sizes, purpose).tolist()
        width = max(lengths)
        gathered = self.gather_even(padded(value, width), purpose)
        return torch.cat([gathered[p * width : p * width + length] for p, length in enumerate(lengths)])

    def gather_even(self, value: Tensor, purpose: str) -> Tensor:
        """See `gather`, where all ranks have the same number of rows."""
        if self.world_size == 1:
            return value
        out = value.new_empty(self.world_size * len(value), *value.shape[1:])
        sent = (self.world_size - 1) * value.nbytes
        self._run(purpose, sent, value, lambda: _all_gather(out, value.contiguous(), group=self.group))
        return out

    def reduce_scatter(self, value: Tensor, purpose: str) -> Tensor:
        """Sum over the ranks; each receives its part of the rows, (world_size * n, ...) → (n, ...)."""
        out = value.new_empty(len(value) // self.world_size, *value.shape[1:])
        sent = (self.world_size - 1) * out.nbytes
        self._run(purpose, sent, value, lambda: _reduce_scatter(out, value.contiguous(), group=self.group))
        return out

    def all_to_all(self, value: Tensor, send: list[int], receive: list[int], purpose: str) -> Tensor:
        """Send `send[p]` rows to rank p, one rank after another, and receive `receive[p]` rows from it."""
        out = value.new_empty(sum(receive), *value.shape[1:])
        sent = (len(value) - send[self.rank]) * value[:1].nbytes
        exchange = partial(dist.all_to_all_single, out, value.contiguous(), receive, send, group=self.group)
        self._run(purpose, sent, value, exchange)
        return out

    def send_rows(self, rows: Tensor, owner: Tensor, purpose: str, counts: Tensor | None = None) -> Tensor:
        """Send rows to ranks.

        Args:
            rows: (num_rows, ...).
            owner: The rank to which each is sent, int64 (num_rows,).
            purpose: See `traffic`.
            counts: How many rows each rank sends to each, int64 (world_size, world_size); None: no rank knows yet.

        Returns:
            The rows sent to this rank, those of one rank after those of another, in their order.
        """
        if counts is None:
            own = torch.bincount(owner, minlength=self.world_size)
            counts = self.gather_even(own[None], purpose)
        rows = rows.index_select(0, sort_with_positions(owner)[1])
        return self.all_to_all(rows, counts[self.rank].tolist(), counts[:, self.rank].tolist(), purpose)

    def _run(self, purpose: str, sent: float, value: Tensor, collective: Callable[[], object]) -> None:
        """Run a collective and count it."""
        with torch.no_grad(), self.traffic.collective(purpose, sent, value.device):
            collective()

    def _reduce(self, value: Tensor, operation: dist.ReduceOp.RedOpType, purpose: str) -> Tensor:
        if self.world_size > 1:
            self._run(purpose, self._reduced(value), value, lambda: dist.all_reduce(value, operation, self.group))
        return value

    def _reduced(self, value: Tensor) -> float:
        """Bytes that a rank sends for an all-reduce."""
        return 2 * (self.world_size - 1) / self.world_size * value.nbytes


def padded(value: Tensor, num_rows: int) -> Tensor:
    """Rows with zero rows behind them, (num_rows, ...)."""
    if len(value) == num_rows:
        return value
    return torch.cat([value, value.new_zeros(num_rows - len(value), *value.shape[1:])])
