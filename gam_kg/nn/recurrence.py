"""LSTM: what each entity remembers across snapshots."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gam_kg.nn.vectors import unit


@dataclass(frozen=True)
class Memory:
    """What entities remember, one row an entity (of a shard, or of a window's active entities).

    Attributes:
        hidden, cell: LSTM state, (num_rows, dim); zero before an entity is first seen.
        last_seen: Snapshot of the entity's last facts, int64 (num_rows,); -1 before the first.
    """

    hidden: Tensor
    cell: Tensor
    last_seen: Tensor

    @classmethod
    def empty(cls, num_rows: int, dim: int, *, like: Tensor) -> "Memory":
        """The memory before the first snapshot, of the dtype and device of `like`."""
        zeros = like.new_zeros(num_rows, dim)
        return cls(zeros, zeros.clone(), torch.full((num_rows,), -1, device=like.device))

    def rows(self, index: Tensor) -> "Memory":
        """A copy of some rows."""
        return Memory(*(state.index_select(0, index) for state in vars(self).values()))

    def replaced(self, index: Tensor, rows: "Memory") -> "Memory":
        """A copy with some rows replaced; gradients flow through both."""
        return Memory(
            self.hidden.index_copy(0, index, rows.hidden),
            self.cell.index_copy(0, index, rows.cell),
            self.last_seen.index_copy(0, index, rows.last_seen),
        )

    def store(self, index: Tensor, rows: "Memory") -> None:
        """Write rows in place, without gradients."""
        for stored, new in zip(vars(self).values(), vars(rows).values(), strict=True):
            stored.index_copy_(0, index, new.detach())


class EntityLSTM(nn.Module):
    """One LSTM step for the active entities, told how long each was silent.

    (h, c) ← LSTMCell(unit(gam) + time(log1p(t − last_seen)), (h, c)), where time is tanh of a linear map. The cell's
    four gates each have input and recurrent weights of their own (stacked in `nn.LSTMCell`).

    Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(dim, dim)
        self.time = nn.Linear(1, dim)

    def forward(self, attended: Tensor, memory: Memory, time: int) -> Memory:
        """Remember snapshot `time`.

        Args:
            attended: GAM output of the active entities, (num_active, dim).
            memory: Their memory before, (num_active, dim) a state.
            time: The snapshot, after which `last_seen` is `time`.
        """
        gap = torch.log1p((time - memory.last_seen.clamp(min=0)).to(attended.dtype))
        told = unit(attended) + torch.tanh(self.time(gap[:, None]))
        hidden, cell = self.cell(told, (memory.hidden, memory.cell))
        return Memory(hidden, cell, torch.full_like(memory.last_seen, time))
