"""The vector of scores: products of queries and columns with popularity, and what is added to some of them."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def add_scores(scores: Tensor, positions: Tensor, added: Tensor) -> Tensor:
    """Add to a vector of scores, in place.

    Args:
        scores: (num_scores,). Overwritten.
        positions: (num_added,), duplicates allowed.
        added: (num_added,).
    """
    return _AddScores.apply(scores, positions, added)


class _AddScores(torch.autograd.Function):
    """The backward copies no gradient of all scores, as autograd's own does."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, positions: Tensor, added: Tensor) -> Tensor:
        ctx.mark_dirty(scores)
        ctx.save_for_backward(positions)
        return scores.index_add_(0, positions, added)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        (positions,) = ctx.saved_tensors
        return grad, None, grad.index_select(0, positions)


def column_scores(
    query: Tensor, columns: Tensor, popularity: Tensor | None, of_query: Tensor | None, num_apart: int
) -> Tensor:
    """Inner products of queries and columns plus the popularity of columns, then zeros, of the dtype of `columns`.

    Args:
        query: (num_queries, dim).
        columns: (num_columns, dim).
        popularity: Popularity scores of each relation, (num_relations, num_columns); None for none.
        of_query: Relation of each query, (num_queries,).
        num_apart: Number of zeros.
    """
    if popularity is not None and of_query is not None and not torch.is_autocast_enabled(columns.device.type):
        return _ColumnScores.apply(query, columns, popularity, of_query, num_apart)
    table = (query @ columns.T).to(columns.dtype)
    if popularity is not None and of_query is not None:
        table = table + popularity.index_select(0, of_query)
    return torch.cat([table.flatten(), table.new_zeros(num_apart)]) if num_apart else table.flatten()


class _ColumnScores(torch.autograd.Function):
    """Products added in place to the popularity: autograd's own makes two more passes over all scores."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, columns: Tensor, popularity: Tensor, of_query: Tensor, num_apart: int
    ) -> Tensor:
        ctx.save_for_backward(query, columns, of_query)
        ctx.num_relations, size = len(popularity), len(query) * len(columns)
        scores = query.new_empty(size + num_apart)
        scores[size:].zero_()
        table = scores[:size].view(len(query), len(columns))
        torch.index_select(popularity, 0, of_query, out=table).addmm_(query, columns.T)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, columns, of_query = ctx.saved_tensors
        grad = grad[: len(query) * len(columns)].view(len(query), len(columns))
        of_popularity = grad.new_zeros(ctx.num_relations, grad.shape[1]).index_add_(0, of_query, grad)
        return grad @ columns, grad.T @ query, of_popularity, None, None
