"""The attention of GAM over edges, without the linear maps before it: two ways to compute the same.

In dense form softmax(Q Kᵀ/√d_head + mask) V, where the key and the value of an edge are the sum of the source's and the
relation's. `gathered_attention` makes a row for each edge, which is quick while there are few. `sparse_attention` makes
none: time and memory grow with edges × heads and nodes × width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gam_kg.nn.links import link_offsets, link_products, link_sums

_FEW_EDGES = 1000  # the two cross between 500 and 1000 edges 200 wide, and later where narrower, on a CPU


def edge_softmax(scores: Tensor, dst: Tensor, num_dst: int) -> Tensor:
    """Softmax of edge scores over the edges that share a destination.

    Args:
        scores: (num_edges, heads).
        dst: Destination of each edge, int64 (num_edges,).
        num_dst: Number of destinations; those without edges are fine.

    Returns:
        Weights that sum to one at each destination with edges, (num_edges, heads).
    """
    index = dst[:, None].expand_as(scores)
    top = torch.full((num_dst, scores.shape[1]), -torch.inf, dtype=scores.dtype, device=scores.device)
    # The maximum only keeps exp in range: the softmax does not depend on it, so no gradient goes through it.
    top = top.scatter_reduce(0, index, scores.detach(), "amax")
    weights = (scores - top.index_select(0, dst)).exp()
    return weights / torch.zeros_like(top).index_add(0, dst, weights).index_select(0, dst)


def edge_attention(
    query: Tensor, sent: Tensor, relation: Tensor, edge_index: Tensor, edge_type: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """Attention over edges, the way that is quicker for their number; in float32 at least.

    Args:
        query: Queries of the destinations, (num_dst, dim).
        sent: Keys beside values of the sources, (num_src, 2 * dim).
        relation: Keys beside values of the relations, (num_edge_types, 2 * dim).
        edge_index: Rows (src, dst), int64 (2, num_edges), in any order.
        edge_type: Relation of each edge, int64 (num_edges,).
        heads: Number of heads; divides `dim`.

    Returns:
        Output (num_dst, dim), zero where there is no edge, and weights (num_edges, heads).
    """
    attention = gathered_attention if len(edge_type) <= _FEW_EDGES else sparse_attention
    dtype = torch.promote_types(query.dtype, torch.float32)
    return attention(query.to(dtype), sent.to(dtype), relation.to(dtype), edge_index, edge_type, heads)


def gathered_attention(
    query: Tensor, sent: Tensor, relation: Tensor, edge_index: Tensor, edge_type: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """`edge_attention` with a row for each edge."""
    return _GatheredAttention.apply(query, sent, relation, edge_index, edge_type, heads)


def sparse_attention(
    query: Tensor, sent: Tensor, relation: Tensor, edge_index: Tensor, edge_type: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """`edge_attention` by sampled products and sparse sums."""
    return _SparseAttention.apply(query, sent, relation, edge_index, edge_type, heads)


def _of_scores(weights: Tensor, of_weights: Tensor, dst: Tensor, num_dst: int) -> Tensor:
    """Gradient of scores from that of their `edge_softmax`; (num_edges, heads)."""
    along = weights.new_zeros(num_dst, weights.shape[1]).index_add_(0, dst, weights * of_weights)
    return weights * (of_weights - along.index_select(0, dst))


class _GatheredAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, sent: Tensor, relation: Tensor, edge_index: Tensor, edge_type: Tensor, heads: int
    ) -> tuple[Tensor, Tensor]:
        (src, dst), (num_dst, dim) = edge_index, query.shape
        edge = sent.index_select(0, src) + relation.index_select(0, edge_type)
        key, value = edge.view(-1, 2, heads, dim // heads).unbind(1)
        asked = query.index_select(0, dst).view_as(key)
        weights = edge_softmax((asked * key).sum(-1) * (dim // heads) ** -0.5, dst, num_dst)
        out = torch.zeros_like(query).index_add_(0, dst, (value * weights[..., None]).flatten(1))
        ctx.save_for_backward(asked, edge, weights, src, dst, edge_type)
        ctx.sizes = num_dst, len(sent), len(relation)
        return out, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor, of_weights: Tensor) -> tuple[Tensor | None, ...]:
        asked, edge, weights, src, dst, edge_type = ctx.saved_tensors
        num_dst, num_src, num_types = ctx.sizes
        key, value = edge.view(-1, 2, *asked.shape[1:]).unbind(1)
        of_out_at = of_out.index_select(0, dst).view_as(asked)
        of_scores = _of_scores(weights, (of_out_at * value).sum(-1) + of_weights, dst, num_dst)
        of_scores = (of_scores * asked.shape[2] ** -0.5)[..., None]
        of_edge = torch.stack([asked * of_scores, of_out_at * weights[..., None]], 1).flatten(1)
        return (
            torch.zeros_like(of_out).index_add_(0, dst, (key * of_scores).flatten(1)),
            edge.new_zeros(num_src, edge.shape[1]).index_add_(0, src, of_edge),
            edge.new_zeros(num_types, edge.shape[1]).index_add_(0, edge_type, of_edge),
            None,
            None,
            None,
        )


class _SparseAttention(torch.autograd.Function):
    """The backward needs the weights only, as that of FlashAttention. Source: Dao et al. 2022, algorithm 4."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, sent: Tensor, relation: Tensor, edge_index: Tensor, edge_type: Tensor, heads: int
    ) -> tuple[Tensor, Tensor]:
        num_dst, width = len(query), query.shape[1] // heads
        query, sent, relation = (_by_head(x, width) for x in (query, sent, relation))
        order, offsets = link_offsets(edge_index[1], num_dst)
        ends = (edge_index[0][order], edge_index[1][order], edge_type[order])
        scores = _edge_products(query, sent[:heads], relation[:heads], ends, offsets) * width**-0.5
        weights = edge_softmax(scores, ends[1], num_dst)
        out = _edge_sums(weights, sent[heads:], relation[heads:], ends, offsets)
        ctx.save_for_backward(query, sent, relation, order, offsets, weights, *ends)
        return out, torch.empty_like(weights).index_copy_(0, order, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor, of_weights: Tensor) -> tuple[Tensor | None, ...]:
        query, sent, relation, order, offsets, weights, *ends = ctx.saved_tensors
        heads, num_dst, width = query.shape
        of_out = _by_head(of_out, width)
        of_weights = _edge_products(of_out, sent[heads:], relation[heads:], ends, offsets) + of_weights[order]
        of_scores = _of_scores(weights, of_weights, ends[1], num_dst) * width**-0.5
        of_query = _edge_sums(of_scores, sent[:heads], relation[:heads], ends, offsets)
        rows, share = [*query, *of_out], torch.cat([of_scores, weights], 1)
        of_tables = []
        for end, size in ((ends[0], sent.shape[1]), (ends[2], relation.shape[1])):
            turn, turned = link_offsets(end, size)
            dst, each = ends[1][turn], share[turn].T.contiguous()
            sums = [link_sums(row, dst, turned, weight) for row, weight in zip(rows, each, strict=True)]
            of_tables.append(torch.cat(sums, 1))
        return of_query, *of_tables, None, None, None


def _by_head(x: Tensor, width: int) -> Tensor:
    """(num_rows, heads * width) → (heads, num_rows, width)."""
    return x.unflatten(1, (-1, width)).transpose(0, 1).contiguous()


def _edge_products(left: Tensor, sent: Tensor, relation: Tensor, ends: Sequence[Tensor], offsets: Tensor) -> Tensor:
    """⟨left of the destination, sent by the source + relation⟩ by head, (num_edges, heads)."""
    src, dst, edge_type = ends
    products = [
        link_products(of, rows, offsets, dst, src) + link_products(of, kinds, offsets, dst, edge_type)
        for of, rows, kinds in zip(left, sent, relation, strict=True)
    ]
    return torch.stack(products, 1)


def _edge_sums(weight: Tensor, sent: Tensor, relation: Tensor, ends: Sequence[Tensor], offsets: Tensor) -> Tensor:
    """What the sources send + relation, weighted and summed at destinations, (num_dst, heads * width)."""
    src, _, edge_type = ends
    sums = [
        link_sums(rows, src, offsets, of) + link_sums(kinds, edge_type, offsets, of)
        for of, rows, kinds in zip(weight.T.contiguous(), sent, relation, strict=True)
    ]
    return torch.cat(sums, 1)
