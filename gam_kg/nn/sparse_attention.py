"""The attention of GAM over edges, after the linear maps, in two implementations with the same result.

In dense form softmax(Q Kᵀ/√d_head + mask) V, where the key and the value of an edge are the sum of the source's and the
relation's. `GatheredAttention` makes a row for each edge and is faster for few edges. `SparseAttention` makes none: its
time and memory grow with edges × heads and nodes × width. Index tensors are int32 or int64.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gam_kg.ops.sparse import sddmm_kernel, sort_by_row, spmm

Edges = Tensor | tuple[Tensor, Tensor]
"""Sources and destinations of edges, as two rows or apart, in any order."""

_FEW_EDGES = 1000  # the two cross between 500 and 1000 edges 200 wide, and later where narrower, on a CPU


def edge_softmax(scores: Tensor, dst: Tensor, num_dst: int) -> Tensor:
    """Softmax of edge scores over the edges with the same destination.

    Args:
        scores: (num_edges, heads).
        dst: Destination of each edge, (num_edges,).
        num_dst: Number of destinations; some may have no edges.
    """
    dst = dst.long()  # `scatter_reduce` requires it, and `index_add` is faster
    top = torch.full((num_dst, scores.shape[1]), -torch.inf, dtype=scores.dtype, device=scores.device)
    # The maximum only limits the range of exp: the softmax does not depend on it, so no gradient goes through it.
    top = top.scatter_reduce(0, dst[:, None].expand_as(scores), scores.detach(), "amax")
    weights = (scores - top.index_select(0, dst)).exp()
    return weights / torch.zeros_like(top).index_add(0, dst, weights).index_select(0, dst)


def edge_attention(
    query: Tensor, message: Tensor, relation: Tensor, edge_index: Edges, edge_type: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """Attention over edges, by the implementation that is faster for their number; in float32 at least.

    Args:
        query: Queries of the destinations, (num_dst, dim).
        message: Keys beside values of the sources, (num_src, 2 * dim).
        relation: Keys beside values of the relations, (num_edge_types, 2 * dim).
        edge_index: Rows (src, dst), (2, num_edges), in any order.
        edge_type: Relation of each edge, (num_edges,).
        heads: Number of heads; divides `dim`.

    Returns:
        Output (num_dst, dim), zero without edges, and weights (num_edges, heads).
    """
    # On a GPU sorting the edges would cost more than their rows do.
    is_gathered = len(edge_type) <= _FEW_EDGES or query.is_cuda
    attention = GatheredAttention if is_gathered else SparseAttention
    dtype = torch.promote_types(query.dtype, torch.float32)
    return attention.apply(query.to(dtype), message.to(dtype), relation.to(dtype), edge_index, edge_type, heads)


def _softmax_backward(weights: Tensor, grad: Tensor, dst: Tensor, num_dst: int) -> Tensor:
    """Gradient of the scores, (num_edges, heads), from that of the weights that `edge_softmax` made of them."""
    dst = dst.long()
    total = weights.new_zeros(num_dst, weights.shape[1]).index_add_(0, dst, weights * grad)
    return weights * (grad - total.index_select(0, dst))


class GatheredAttention(torch.autograd.Function):
    """`edge_attention` with a row for each edge."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, message: Tensor, relation: Tensor, edge_index: Edges, edge_type: Tensor, heads: int
    ) -> tuple[Tensor, Tensor]:
        src, dst, edge_type = (end.long() for end in (*edge_index, edge_type))
        num_dst, dim = query.shape
        edge = message.index_select(0, src) + relation.index_select(0, edge_type)
        key, value = edge.view(-1, 2, heads, dim // heads).unbind(1)
        query_at_edge = query.index_select(0, dst).view_as(key)
        weights = edge_softmax((query_at_edge * key).sum(-1) * (dim // heads) ** -0.5, dst, num_dst)
        out = torch.zeros_like(query).index_add_(0, dst, (value * weights[..., None]).flatten(1))
        ctx.save_for_backward(query_at_edge, edge, weights, src, dst, edge_type)
        ctx.sizes = num_dst, len(message), len(relation)
        return out, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor, of_weights: Tensor) -> tuple[Tensor | None, ...]:
        query_at_edge, edge, weights, src, dst, edge_type = ctx.saved_tensors
        num_dst, num_src, num_types = ctx.sizes
        key, value = edge.view(-1, 2, *query_at_edge.shape[1:]).unbind(1)
        of_out_at_edge = of_out.index_select(0, dst).view_as(query_at_edge)
        of_scores = _softmax_backward(weights, (of_out_at_edge * value).sum(-1) + of_weights, dst, num_dst)
        of_scores = (of_scores * query_at_edge.shape[2] ** -0.5)[..., None]
        of_edge = torch.stack([query_at_edge * of_scores, of_out_at_edge * weights[..., None]], 1).flatten(1)
        return (
            torch.zeros_like(of_out).index_add_(0, dst, (key * of_scores).flatten(1)),
            edge.new_zeros(num_src, edge.shape[1]).index_add_(0, src, of_edge),
            edge.new_zeros(num_types, edge.shape[1]).index_add_(0, edge_type, of_edge),
            None,
            None,
            None,
        )


class SparseAttention(torch.autograd.Function):
    """`edge_attention` by `sddmm_kernel` and `spmm`; of the edges, only the weights are saved for the backward.

    Source: Dao et al. 2022 (FlashAttention), algorithm 4.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, message: Tensor, relation: Tensor, edge_index: Edges, edge_type: Tensor, heads: int
    ) -> tuple[Tensor, Tensor]:
        num_dst, width = len(query), query.shape[1] // heads
        query, message, relation = (_by_head(x, width) for x in (query, message, relation))
        order, offsets = sort_by_row(edge_index[1], num_dst)
        edges = [end.index_select(0, order) for end in (*edge_index, edge_type.to(edge_index[1].dtype))]
        scores = _edge_products(query, message[:heads], relation[:heads], edges, offsets) * width**-0.5
        weights = edge_softmax(scores, edges[1], num_dst)
        out = _edge_sums(weights, message[heads:], relation[heads:], edges, offsets)
        ctx.save_for_backward(query, message, relation, order, offsets, weights, *edges)
        return out, torch.empty_like(weights).index_copy_(0, order, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor, of_weights: Tensor) -> tuple[Tensor | None, ...]:
        query, message, relation, order, offsets, weights, *edges = ctx.saved_tensors
        heads, num_dst, width = query.shape
        of_out = _by_head(of_out, width)
        of_weights = _edge_products(of_out, message[heads:], relation[heads:], edges, offsets) + of_weights[order]
        of_scores = _softmax_backward(weights, of_weights, edges[1], num_dst) * width**-0.5
        of_query = _edge_sums(of_scores, message[:heads], relation[:heads], edges, offsets)
        src, dst, edge_type = edges
        rows, values = [*query, *of_out], torch.cat([of_scores, weights], 1)
        of_message = _transposed_sums(src, message.shape[1], dst, values, rows)
        return of_query, of_message, _transposed_sums(edge_type, relation.shape[1], dst, values, rows), None, None, None


def _by_head(x: Tensor, width: int) -> Tensor:
    """(num_rows, heads * width) → (heads, num_rows, width)."""
    return x.unflatten(1, (-1, width)).transpose(0, 1).contiguous()


def _edge_products(left: Tensor, message: Tensor, relation: Tensor, edges: Sequence[Tensor], offsets: Tensor) -> Tensor:
    """⟨left of the destination, message of the source + relation⟩ by head, (num_edges, heads)."""
    src, dst, edge_type = edges
    products = [
        sddmm_kernel(rows, messages, offsets, dst, src) + sddmm_kernel(rows, relations, offsets, dst, edge_type)
        for rows, messages, relations in zip(left, message, relation, strict=True)
    ]
    return torch.stack(products, 1)


def _edge_sums(value: Tensor, message: Tensor, relation: Tensor, edges: Sequence[Tensor], offsets: Tensor) -> Tensor:
    """Message of the source + relation, times `value`, summed at destinations; (num_dst, heads * width)."""
    src, _, edge_type = edges
    sums = [
        spmm(offsets, src, values, messages) + spmm(offsets, edge_type, values, relations)
        for values, messages, relations in zip(value.T.contiguous(), message, relation, strict=True)
    ]
    return torch.cat(sums, 1)


def _transposed_sums(end: Tensor, size: int, dst: Tensor, values: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Rows of the destinations, times `values`, summed at another end of the edges; (size, len(rows) * width)."""
    order, offsets = sort_by_row(end, size)
    column, values = dst.index_select(0, order), values.index_select(0, order).T.contiguous()
    return torch.cat([spmm(offsets, column, value, row) for value, row in zip(values, rows, strict=True)], 1)
