"""The memory of entities across snapshots, and the LSTM that updates it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gam_kg.nn.vectors import unit


@dataclass(frozen=True)
class Memory:
    """The LSTM states of entities (of a shard, or of those active in a window), one row for each.

    Attributes:
        hidden, cell: LSTM state, (num_rows, dim); zero before an entity is first seen.
        last_seen: Snapshot of the entity's most recent facts, int64 (num_rows,); -1 before the first.
    """

    hidden: Tensor
    cell: Tensor
    last_seen: Tensor

    @classmethod
    def empty(cls, num_rows: int, dim: int, *, like: Tensor) -> "Memory":
        """The memory before the first snapshot, of the dtype and device of `like`."""
        zeros = like.new_zeros(num_rows, dim)
        return cls(zeros, zeros.clone(), torch.full((num_rows,), -1, device=like.device))

    def clear(self) -> None:
        """Make it that before the first snapshot, in place."""
        self.hidden.zero_()
        self.cell.zero_()
        self.last_seen.fill_(-1)

    def resized(self, num_rows: int) -> "Memory":
        """The first rows, in place; or a copy with empty rows behind, up to a number of rows."""
        if num_rows <= len(self.hidden):
            return Memory(*(state[:num_rows] for state in vars(self).values()))
        more = Memory.empty(num_rows - len(self.hidden), self.hidden.shape[1], like=self.hidden)
        pairs = zip(vars(self).values(), vars(more).values(), strict=True)
        return Memory(*(torch.cat(pair) for pair in pairs))

    def copy(self) -> "Memory":
        """A copy of all rows."""
        return Memory(*(state.clone() for state in vars(self).values()))

    def rows(self, index: Tensor) -> "Memory":
        """A copy of some rows."""
        return Memory(*(state.index_select(0, index) for state in vars(self).values()))

    def replaced(self, index: Tensor, rows: "Memory") -> "Memory":
        """A copy with some rows replaced, each once; gradients flow through both."""
        pairs = zip(vars(self).values(), vars(rows).values(), strict=True)
        return Memory(*(state.index_copy(0, index.long(), new) for state, new in pairs))

    def where(self, changes: Tensor | None, other: "Memory") -> "Memory":
        """These rows where they change, bool (num_rows,), otherwise those of another memory; None: all change."""
        if changes is None:
            return self
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Memory(*(torch.where(changes.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in pairs))

    def store(self, index: Tensor, rows: "Memory") -> None:
        """Write rows in place, without gradients."""
        for stored, new in zip(vars(self).values(), vars(rows).values(), strict=True):
            stored.index_copy_(0, index.long(), new.detach())


class EntityLSTM(nn.Module):
    """One LSTM step of the active entities; the input includes how long each had no facts.

    (h, c) ← LSTMCell(unit(gam) + time(log1p(t − last_seen)), (h, c)), where time is tanh of a linear map. The cell's
    four gates each have input and recurrent weights of their own (stacked in `nn.LSTMCell`).

    Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(dim, dim)
        self.time = nn.Linear(1, dim)

    def forward(self, attended: Tensor, memory: Memory, time: Tensor) -> Memory:
        """The memory after a snapshot.

        Args:
            attended: GAM output of the active entities, (num_active, dim).
            memory: Their memory before the snapshot.
            time: The snapshot, `last_seen` of the result; integer ().
        """
        gap = torch.log1p((time - memory.last_seen.clamp(min=0)).to(attended.dtype))
        x = unit(attended) + torch.tanh(self.time(gap[:, None]))
        hidden, cell = self.cell(x, (memory.hidden, memory.cell))
        # Under autocast on a GPU the cell returns bfloat16, which the memory is not.
        hidden, cell = hidden.to(memory.hidden.dtype), cell.to(memory.cell.dtype)
        return Memory(hidden, cell, time.to(memory.last_seen).expand_as(memory.last_seen))
