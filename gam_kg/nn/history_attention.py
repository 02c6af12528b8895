"""What the past says of a candidate: attention over the subject's facts, two-hop paths and popularity.

The first two give scores to (query, candidate) pairs only; popularity gives all queries of a relation the same.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gam_kg.config import HistoryConfig
from gam_kg.data.past import NUM_BUCKETS
from gam_kg.nn.history_plan import Kinds, PairPlan, PathPlan, PopularityPlan
from gam_kg.nn.links import linked_products
from gam_kg.nn.vectors import segment_log_sum

_MAX_LOG_WEIGHT = 12.0
_MAX_LOG_PATH_WEIGHT = 10.0


@dataclass(frozen=True)
class PairScores:
    """Scores of some (query, candidate) pairs, each pair once.

    Attributes:
        query, other: Row of the query and of the candidate, int64 (num_pairs,).
        score: (num_pairs,).
    """

    query: Tensor
    other: Tensor
    score: Tensor


def add_pair_scores(dense: Tensor, parts: list[PairScores]) -> Tensor:
    """Add the scores of pairs to dense scores, in place.

    Args:
        dense: (num_queries, num_candidates). Overwritten.
        parts: Scores of pairs; each pair at most once a part.
    """
    if not parts:
        return dense
    index = torch.cat([part.query * dense.shape[1] + part.other for part in parts])
    return _AddAt.apply(dense, index, torch.cat([part.score for part in parts]))


class _AddAt(torch.autograd.Function):
    """In-place add at flat positions, whose backward copies no dense gradient (autograd's own would, on a view)."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, index: Tensor, value: Tensor) -> Tensor:
        ctx.mark_dirty(dense)
        ctx.save_for_backward(index)
        dense.view(-1).index_add_(0, index, value)
        return dense

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        (index,) = ctx.saved_tensors
        return grad, None, grad.reshape(-1)[index]


def popularity_table(row: Tensor, other: Tensor, score: Tensor, num_relations: int, num_candidates: int) -> Tensor:
    """Scores of entries (row, other), each at most once, as a table with zeros elsewhere.

    Args:
        row: int64 (num_entries,).
        other: int64 (num_entries,).
        score: (num_entries,).
        num_relations: Rows of the table.
        num_candidates: Columns of the table.
    """
    table = score.new_zeros(num_relations * num_candidates)
    return table.scatter(0, row * num_candidates + other, score).view(num_relations, num_candidates)


def popular_products(query: Tensor, candidates: Tensor, popularity: Tensor, query_row: Tensor) -> Tensor:
    """Inner products of queries and candidates, plus the popularity that each query's relation gives the candidates.

    Args:
        query: (num_queries, dim).
        candidates: (num_candidates, dim).
        popularity: (num_relations, num_candidates).
        query_row: Which of its rows each query takes, int64 (num_queries,).

    Returns:
        (num_queries, num_candidates), of the dtype of `candidates`.
    """
    if torch.is_autocast_enabled(candidates.device.type):
        return (query @ candidates.T).to(candidates.dtype) + popularity.index_select(0, query_row)
    return _PopularProducts.apply(query, candidates, popularity, query_row)


class _PopularProducts(torch.autograd.Function):
    """Products added in place to the popularity: autograd's own takes two passes more over all scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, candidates: Tensor, popularity: Tensor, query_row: Tensor) -> Tensor:
        ctx.save_for_backward(query, candidates, query_row)
        ctx.num_relations = len(popularity)
        return popularity.index_select(0, query_row).addmm_(query, candidates.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, candidates, query_row = ctx.saved_tensors
        of_popularity = grad.new_zeros(ctx.num_relations, grad.shape[1]).index_add_(0, query_row, grad)
        return grad @ candidates, grad.T @ query, of_popularity, None


def _rows(num_rows: int, dim: int, std: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(num_rows, dim) * std)


def _scalars(num_rows: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(num_rows))


def _rows_at(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, several times faster forward and backward."""
    return table.index_select(0, index)


class PairAttention(nn.Module):
    """The query attends over its subject's past facts (s, r', o); a candidate's facts add up.

    A fact weighs w = ⟨Q[r] + U z_s, K[r']∘(1 + D[recency]) + C[count] + V z_o⟩ + d1[recency] + c1[count], and for
    r' = r also d2[recency] + c2[count]; the pointer score of o is log(1 + Σ exp w). Added is a small MLP on the pair's
    recency and count with the same relation and with any.

    Args:
        num_relations: Relations with inverses.
        dim: Width of entity vectors.
        config: Width of keys and queries.
    """

    def __init__(self, num_relations: int, dim: int, config: HistoryConfig) -> None:
        super().__init__()
        width, buckets = config.dim, NUM_BUCKETS
        self.query = _rows(num_relations, width, 0.3)
        self.key = _rows(num_relations, width, 0.3)
        self.key_recency = _rows(buckets, width, 0.3)
        self.key_count = _rows(buckets, width, 0.3)
        self.subject = nn.Linear(dim, width, bias=False)
        self.other = nn.Linear(dim, width, bias=False)
        self.recency, self.count = _scalars(buckets), _scalars(buckets)
        self.same_recency, self.same_count = _scalars(buckets), _scalars(buckets)
        self.features = nn.ParameterList([_rows(buckets + 1, width, 0.2) for _ in range(4)])
        self.gain = nn.Parameter(torch.zeros(num_relations, width))
        self.bias = nn.Parameter(torch.zeros(num_relations, width))
        self.out = nn.Parameter(torch.randn(width) * 0.2)

    def queries(self, subject: Tensor, relation: Tensor) -> Tensor:
        """What the queries match with the past, (num_queries, width).

        Args:
            subject: z of the queries' subjects, (num_queries, dim).
            relation: The queries' relations, int64 (num_queries,).
        """
        return _rows_at(self.query, relation) + self.subject(subject)

    def forward(self, ends: Tensor, query: Tensor, plan: PairPlan) -> PairScores:
        """Score the pairs of the past.

        Args:
            ends: V z of the candidates in which entries end, (num_ends, width).
            query: `queries`, (num_queries, width).
            plan: How to walk the past.
        """
        # Entries differ in few ways apart from the candidate.
        seen, recency, count, same = plan.entries.columns
        key = _rows_at(self.key, seen) * (1 + _rows_at(self.key_recency, recency)) + _rows_at(self.key_count, count)
        extra = _rows_at(self.recency, recency) + _rows_at(self.count, count)
        extra = extra + (_rows_at(self.same_recency, recency) + _rows_at(self.same_count, count)) * same
        key = _rows_at(key, plan.entries.kind) + _rows_at(ends, plan.end)
        weight = linked_products(_rows_at(query, plan.run_query), key, plan.links) + _rows_at(extra, plan.link_kind)
        pointer = segment_log_sum(weight.clamp(max=_MAX_LOG_WEIGHT), plan.link_pair, len(plan.pair_query))
        return PairScores(plan.pair_query, plan.pair_other, pointer + self._pair_mlp(plan.features))

    def _pair_mlp(self, pairs: Kinds) -> Tensor:
        asked, *features = pairs.columns
        found = [_rows_at(rows, column) for rows, column in zip(self.features, features, strict=True)]
        hidden = sum(found[1:], start=found[0]) * (1 + _rows_at(self.gain, asked)) + _rows_at(self.bias, asked)
        return _rows_at(torch.relu(hidden) @ self.out, pairs.kind)


class PathAttention(nn.Module):
    """The query attends over two-hop paths s –r1→ x –r2→ o of the past; a candidate's paths add up.

    A path's key is A[r1]∘(1 + D1[recency 1])∘(1 + B[r2]) + D2[recency 2] + C2[count 2] + B[r2] + W_k z_o, the query is
    Q[r] + W_q z_s, a path weighs exp(⟨query, key⟩ + bias) and a candidate scores log(1 + Σ).
    """

    def __init__(self, num_relations: int, dim: int, config: HistoryConfig) -> None:
        super().__init__()
        width, buckets = config.dim, NUM_BUCKETS
        self.query = _rows(num_relations, width, 0.3)
        self.first = _rows(num_relations, width, 0.3)
        self.second = _rows(num_relations, width, 0.3)
        self.first_recency = _rows(buckets, width, 0.1)
        self.second_recency = _rows(buckets, width, 0.1)
        self.second_count = _rows(buckets, width, 0.1)
        self.subject = nn.Linear(dim, width, bias=False)
        self.other = nn.Linear(dim, width, bias=False)
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def queries(self, subject: Tensor, relation: Tensor) -> Tensor:
        """What the queries match with paths, (num_queries, width); arguments as of `PairAttention.queries`."""
        return _rows_at(self.query, relation) + self.subject(subject)

    def forward(self, ends: Tensor, query: Tensor, plan: PathPlan) -> PairScores:
        """Score the ends of paths.

        Args:
            ends: W_k z of the candidates in which second hops end, (num_ends, width).
            query: `queries`, (num_queries, width).
            plan: How to walk the past.
        """
        first = _rows_at(self.first, plan.first_relation) * (1 + _rows_at(self.first_recency, plan.first_recency))
        second = _rows_at(self.second, plan.second_relation)
        ending = second + _rows_at(self.second_recency, plan.second_recency)
        ending = ending + _rows_at(self.second_count, plan.second_count) + _rows_at(ends, plan.end)
        # ⟨query, first∘(1 + second) + ending⟩ = ⟨[query∘first, query], [1 + second, ending]⟩: paths need no keys of
        # their own, and the paths of a query over one first fact share the left side.
        asked = _rows_at(query, plan.run_query)
        left = torch.cat([asked * _rows_at(first, plan.run_first), asked], 1)
        right = torch.cat([1 + second, ending], 1)
        weight = linked_products(left, right, plan.links) + self.bias
        score = segment_log_sum(weight.clamp(max=_MAX_LOG_PATH_WEIGHT), plan.link_pair, len(plan.pair_query))
        return PairScores(plan.pair_query, plan.pair_other, score)


class PopularityScore(nn.Module):
    """How recent and how frequent an object is for a relation, whoever the subject."""

    def __init__(self, num_relations: int, config: HistoryConfig) -> None:
        super().__init__()
        width = config.popularity_dim
        self.relation = _rows(num_relations, width, 0.1)
        self.recency = _rows(NUM_BUCKETS, width, 0.1)
        self.count = _rows(NUM_BUCKETS, width, 0.1)
        self.recency_bias, self.count_bias = _scalars(NUM_BUCKETS), _scalars(NUM_BUCKETS)

    def forward(self, plan: PopularityPlan) -> Tensor:
        """The score of each entry, (num_rows,)."""
        features = (self.recency[:, None] + self.count).flatten(0, 1)
        extra = (self.recency_bias[:, None] + self.count_bias).flatten()
        asked = _rows_at(self.relation, plan.run_relation)
        return linked_products(asked, features, plan.links) + _rows_at(extra, plan.kind)
