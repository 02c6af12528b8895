"""Who the ranks are and which part of the graph each owns."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Topology:
    """A process among the ranks that train together; the default is a world of one.

    Attributes:
        rank: The process, in `[0, world_size)`.
        world_size: Number of ranks.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not in [0, world_size={self.world_size})")

    @classmethod
    def current(cls) -> "Topology":
        """The topology of the process group, or a world of one where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the ranks, without gradients; in place, and returned."""
        return self._reduce(value, dist.ReduceOp.SUM)

    def max(self, value: Tensor) -> Tensor:
        """Maximum over the ranks, without gradients; in place, and returned."""
        return self._reduce(value, dist.ReduceOp.MAX)

    def _reduce(self, value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.world_size > 1:
            with torch.no_grad():
                dist.all_reduce(value, operation)
        return value
