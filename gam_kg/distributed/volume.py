"""How much ranks send each other in a step, computed from counts of the data: what `Traffic` should measure."""

from dataclasses import dataclass

import torch
from torch import Tensor


def expected_halo_rows(num_neighbours: Tensor, world_size: int) -> float:
    """Rows that a rank receives for one snapshot, on average over ranks, if owners are as good as random.

    An entity with n distinct neighbours is requested by each rank but its own with probability 1 − (1 − 1/P)^n.

    Args:
        num_neighbours: Distinct neighbours of each active entity of the snapshot, all ranks together, (num_active,).
        world_size: P.
    """
    requested = 1 - (1 - 1 / world_size) ** num_neighbours.double()
    return float(requested.sum()) * (world_size - 1) / world_size


@dataclass(frozen=True)
class StepVolume:
    """Counts that decide what a rank sends in a step of one snapshot.

    Attributes:
        world_size: Number of ranks, P.
        num_queries: Queries of the step, those ahead included.
        num_answers: Answers of its own snapshot.
        halo_rows: Rows that a rank sends, and receives, for one update of memory.
        num_shared: Elements of the parameters that all ranks have alike.
        dim: Width of entity vectors.
        history_dim: Width of the keys of the history.
        window: Updates of memory that gradients flow through.
        element_size: Bytes of a number.
    """

    world_size: int
    num_queries: float
    num_answers: float
    halo_rows: float
    num_shared: int
    dim: int
    history_dim: int
    window: int
    element_size: int = 4

    def bytes_sent(self) -> dict[str, float]:
        """Bytes that a rank sends, by purpose, without history look-ups and draws."""
        others, size = self.world_size - 1, self.element_size
        own_queries, own_answers = self.num_queries / self.world_size, self.num_answers / self.world_size
        query_width = self.dim + 3 * self.history_dim
        return {
            # Keys and values of a row, and their gradients; one more update carries memory forward.
            "halo": (2 * self.window + 1) * self.halo_rows * 2 * self.dim * size,
            # All-gather of query vectors and reduce-scatter of their gradients; snapshot, subject, relation and answer.
            "queries": others * (2 * own_queries * query_width * size + own_answers * 4 * 8),
            "softmax": others * 4 * self.num_queries * size,
            "gradients": 2 * others / self.world_size * (self.num_shared + 1) * size,
        }


def num_neighbours(anchor: Tensor, other: Tensor) -> Tensor:
    """Distinct neighbours of each distinct anchor of a snapshot's rows, int64 (num_active,)."""
    pairs = torch.unique(torch.stack([anchor, other]), dim=1)
    return torch.unique_consecutive(pairs[0], return_counts=True)[1]
