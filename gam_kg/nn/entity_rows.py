"""What is known of entities apart from memory: a row of their own or the shared one, plus the words of the name."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gam_kg.data.ragged import ragged_ranges


class WordLinks(NamedTuple):
    """Which words the names of entities have; or turned round, which entities have a word.

    Attributes:
        index: Words of all entities, one entity after another, int64 (num_links,).
        offsets: Where each entity's words start, and where the last end, int64 (num_rows + 1,).
        length: How many words the entity of a link has, int64 (num_links,).
    """

    index: Tensor
    offsets: Tensor
    length: Tensor

    @classmethod
    def of(cls, index: Tensor, offsets: Tensor) -> "WordLinks":
        """The links of entities to the words of their names; arguments as of the attributes."""
        length = offsets.diff()
        return cls(index, offsets, length.repeat_interleave(length))

    def turned(self, num_words: int) -> "WordLinks":
        """The links of words to entities; `length` stays that of the entity."""
        order = torch.argsort(self.index, stable=True)
        count = torch.bincount(self.index, minlength=num_words)
        entity = torch.repeat_interleave(self.offsets.diff())
        return WordLinks(entity[order], functional.pad(torch.cumsum(count, 0), (1, 0)), self.length[order])

    def select(self, rows: Tensor) -> "WordLinks":
        """The links of some rows, int64 (num_asked,)."""
        first, count = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        _, position = ragged_ranges(first, count)
        return WordLinks(self.index[position], functional.pad(torch.cumsum(count, 0), (1, 0)), self.length[position])

    def sums(self, rows: Tensor) -> Tensor:
        """Rows over `length`, summed over each row's links: for names the mean of their words.

        Args:
            rows: What `index` tells, (num_words, dim).

        Returns:
            (num_rows, dim); zero for a row without links.
        """
        share = self.length.to(rows.dtype).reciprocal()
        return functional.embedding_bag(
            self.index, rows, self.offsets, mode="sum", include_last_offset=True, per_sample_weights=share
        )


def named_rows(
    entity: Tensor,
    shared: Tensor,
    own: Tensor,
    word: Tensor | None = None,
    words: WordLinks | None = None,
    named: WordLinks | None = None,
) -> Tensor:
    """The own row of each entity that has one, else the shared one; plus the mean of the words of its name.

    Args:
        entity: Own rows, (num_rows, dim).
        shared: The shared row, (dim,).
        own: Whether each entity has a row of its own, bool (num_rows,).
        word: Rows of the words, (num_words, dim); None for none.
        words: The words of the entities.
        named: The same turned round.

    Returns:
        (num_rows, dim).
    """
    return _NamedRows.apply(entity, shared, own, word, words, named)


def own_or_shared(entity: Tensor, shared: Tensor, at: Tensor, num_rows: int) -> Tensor:
    """The shared row everywhere but where there are own ones.

    Args:
        entity: Own rows, (num_own, dim).
        shared: The shared row, (dim,).
        at: Place of each own row, each once, int64 (num_own,).
        num_rows: How many rows to make.

    Returns:
        (num_rows, dim).
    """
    return _OwnOrShared.apply(entity, shared, at, num_rows)


class _OwnOrShared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, entity: Tensor, shared: Tensor, at: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(at)
        return shared.repeat(num_rows, 1).index_copy_(0, at, entity)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (at,) = ctx.saved_tensors
        without = grad.new_ones(len(grad)).index_fill_(0, at, 0)
        return grad.index_select(0, at), without @ grad, None, None


class _NamedRows(torch.autograd.Function):
    """Autograd's own backward takes twice as long, and this runs over all entities at every step."""

    @staticmethod
    def forward(
        ctx: Any,
        entity: Tensor,
        shared: Tensor,
        own: Tensor,
        word: Tensor | None,
        words: WordLinks | None,
        named: WordLinks | None,
    ) -> Tensor:
        ctx.save_for_backward(own)
        ctx.named = named
        rows = torch.where(own[:, None], entity, shared)
        return rows if word is None or words is None else rows.add_(words.sums(word))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (own,) = ctx.saved_tensors
        mine = own.to(grad.dtype)
        of_words = None if ctx.named is None else ctx.named.sums(grad)
        return grad * mine[:, None], (1 - mine) @ grad, None, of_words, None, None
