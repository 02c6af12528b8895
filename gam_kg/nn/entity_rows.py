"""What is known of entities apart from memory: a row of their own or the shared one, plus the words that they share."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gam_kg.ops.dimensions import Along, Within
from gam_kg.ops.sparse import CSRPattern


@dataclass(frozen=True)
class WeightedWords:
    """The words of some entities, as a sparse matrix of shape (num_rows, num_words); a word may occur twice in a row.

    Attributes:
        pattern: Where its entries are.
        weight: Their values, (num_entries,).
    """

    pattern: Annotated[CSRPattern, Within(rows="rows", columns=None, entries="entries")]
    weight: Annotated[Tensor, Along("entries")]

    def select(self, rows: Tensor, num_words: int) -> "WeightedWords":
        """Those of some rows, integer (num_selected,)."""
        pattern, entry = self.pattern.select(rows, num_words)
        return WeightedWords(pattern, self.weight[entry])


@dataclass(frozen=True)
class SelectedRows:
    """Some rows of the shard, and what they are made of.

    Attributes:
        index: The rows, each once, (num_requested,).
        own: Places among them of those that have a row of their own, ascending, (num_own,). Where it is padded, the
            last one is there several times, with the same gradient each time.
        words: Their words; None without words.
    """

    index: Annotated[Tensor, Along("places", "shard")]
    own: Annotated[Tensor, Along(".own", "places", is_repeated=True)]
    words: Annotated[WeightedWords | None, Within(rows="places", entries=".words")]


@dataclass(frozen=True)
class EntitySources:
    """What the rows of a rank's entities are made of.

    Attributes:
        trained: Whether each has a row of its own, bool (num_rows,).
        words: Their words; None without words.
        num_words: Number of words.
    """

    trained: Tensor
    words: WeightedWords | None
    num_words: int

    def select(self, index: Tensor, dropped: Tensor | None = None) -> SelectedRows:
        """Some rows.

        Args:
            index: The rows, each once, (num_requested,).
            dropped: Which of them get the shared row in place of their own, bool (num_requested,); None: none.
        """
        own = self.trained.index_select(0, index)
        own = own if dropped is None else own & ~dropped
        words = self.words and self.words.select(index, self.num_words)
        return SelectedRows(index, torch.nonzero(own)[:, 0], words)


def named_rows(
    entity: Tensor, shared: Tensor, own: Tensor, word: Tensor | None = None, words: WeightedWords | None = None
) -> Tensor:
    """The own row of each entity that has one, else the shared row; plus its words, weighted; (num_rows, dim).

    Args:
        entity: Own rows, (num_rows, dim).
        shared: The shared row, (dim,).
        own: Whether each entity has a row of its own, bool (num_rows,).
        word: Rows of the words, (num_words, dim); None without words.
        words: The words of each entity.
    """
    return _NamedRows.apply(entity, shared, own, word, words)


def own_or_shared(entity: Tensor, shared: Tensor, at: Tensor, num_rows: int) -> Tensor:
    """Own rows at some positions, the shared row at all others: `named_rows` where only the own rows are in memory.

    Args:
        entity: Own rows, (num_own, dim).
        shared: The shared row, (dim,).
        at: Position of each own row, unique, (num_own,).
        num_rows: Number of rows to make.
    """
    return _OwnOrShared.apply(entity, shared, at.long(), num_rows)


class _OwnOrShared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, entity: Tensor, shared: Tensor, at: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(at)
        return shared.repeat(num_rows, 1).index_copy_(0, at, entity)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (at,) = ctx.saved_tensors
        is_shared = grad.new_ones(len(grad)).index_fill_(0, at, 0)
        return grad.index_select(0, at), is_shared @ grad, None, None


class _NamedRows(torch.autograd.Function):
    """Autograd's own backward takes twice as long, and this runs over all entities at every step."""

    @staticmethod
    def forward(
        ctx: Any, entity: Tensor, shared: Tensor, own: Tensor, word: Tensor | None, words: WeightedWords | None
    ) -> Tensor:
        rows, ctx.words = torch.where(own[:, None], entity, shared), words
        if word is not None and words is not None:
            rows.add_(words.pattern.product(words.weight, word))
        ctx.save_for_backward(own)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (own,), words = ctx.saved_tensors, ctx.words
        is_own = own.to(grad.dtype)
        of_word = None if words is None else words.pattern.transposed_product(words.weight, grad)
        return grad * is_own[:, None], (1 - is_own) @ grad, None, of_word, None
