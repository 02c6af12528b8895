"""What the past says of candidates: attention over walks from the query's subject, and popularity.

Walks give scores to (query, candidate) pairs; popularity gives all queries of a relation the same.
"""

import math

import torch
from torch import Tensor, nn

from gam_kg.config import HistoryConfig
from gam_kg.history.bins import NUM_BINS
from gam_kg.history.layout import PopularObjects
from gam_kg.history.pair_features import PARTS
from gam_kg.history.query_kinds import QueryKinds
from gam_kg.history.walks import Walks
from gam_kg.nn.relation_rows import RelationRows, relation_table, rows_of_kinds
from gam_kg.nn.vectors import segment_log_sum
from gam_kg.ops.sparse import sddmm


def _rows(num_rows: int, dim: int, std: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(num_rows, dim) * std)


def _scalars(num_rows: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(num_rows))


def _rows_at(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, several times faster forward and backward."""
    return table.index_select(0, index)


class FeatureRows(nn.Module):
    """A row for each combination of bins: the sum of a row for each bin and of one for the combination.

    Args:
        parts: Numbers of bins.
        dim: Length of a row.
        std: Of the rows of bins at the start; those of combinations start at zero.
    """

    def __init__(self, parts: tuple[int, ...], dim: int, std: float = 0.1) -> None:
        super().__init__()
        self.parts = nn.ParameterList([_rows(size, dim, std) for size in parts])
        self.joint = nn.Parameter(torch.zeros(math.prod(parts), dim))

    def forward(self) -> Tensor:
        """The rows, as `pair_features.combined` numbers them, (num_combinations, dim)."""
        first, *others = self.parts
        for part in others:
            first = (first[:, None] + part).flatten(0, 1)
        return first + self.joint


class FactAttention(nn.Module):
    """The query attends over its subject's past facts (s, r', o); a candidate's facts add up.

    A fact weighs w = ⟨Q[r] + U z_s, K[r']∘(1 + D[recency]) + C[count] + V z_o⟩ + d1[recency] + c1[count], and for
    r' = r also d2[recency] + c2[count]; the pointer score of o is log(1 + Σ exp w). Added is a small MLP on the past
    of the pair, see `pair_features`.

    Args:
        num_relations: Relations with inverses.
        dim: Width of entity vectors.
        config: Width of keys and queries.
    """

    max_log_weight = 12.0

    def __init__(self, num_relations: int, dim: int, config: HistoryConfig) -> None:
        super().__init__()
        width, bins = config.dim, NUM_BINS
        self.query = RelationRows(num_relations, width, 0.3)
        self.key = relation_table(num_relations, width, 0.3)
        self.key_recency = _rows(bins, width, 0.3)
        self.key_count = _rows(bins, width, 0.3)
        self.subject = nn.Linear(dim, width, bias=False)
        self.other = nn.Linear(dim, width, bias=False)
        self.recency, self.count = _scalars(bins), _scalars(bins)
        self.same_recency, self.same_count = _scalars(bins), _scalars(bins)
        self.features = nn.ModuleList([FeatureRows(parts, width) for parts in PARTS.values()])
        self.gain, self.bias = (RelationRows(num_relations, width, 0.0) for _ in range(2))
        self.out = nn.Parameter(torch.randn(width) * 0.2)
        self.statistics = config.pair_statistics

    def forward(self, ends: Tensor, query: Tensor, walks: Walks, kinds: QueryKinds) -> Tensor:
        """Score the pairs of walks of one fact, (num_pairs,).

        Args:
            ends: V z of the rows in which walks end, (num_ends, width).
            query: Q[r] + U z of each query, (num_queries, width).
            walks: The walks.
            kinds: Kinds of the queries.
        """
        pointer = segment_log_sum(self.log_weights(ends, query, walks), walks.pair, walks.num_pairs)
        return pointer + self.pattern(walks, kinds) if self.statistics else pointer

    def log_weights(self, ends: Tensor, query: Tensor, walks: Walks) -> Tensor:
        """Logarithms of what the facts weigh, (num_walks,); arguments: see `forward`."""
        relation, recency, count, same = walks.facts.columns
        key = _rows_at(self.key, relation) * (1 + _rows_at(self.key_recency, recency)) + _rows_at(self.key_count, count)
        extra = _rows_at(self.recency, recency) + _rows_at(self.count, count)
        extra = extra + (_rows_at(self.same_recency, recency) + _rows_at(self.same_count, count)) * same
        key = _rows_at(key, walks.facts.index) + _rows_at(ends, walks.end)
        weight = sddmm(_rows_at(query, walks.query), key, walks.pattern)
        weight = weight + _rows_at(extra, walks.facts.index.index_select(0, walks.pattern.column))
        return weight.clamp(max=self.max_log_weight)

    def pattern(self, walks: Walks, kinds: QueryKinds) -> Tensor:
        """What the MLP on the past of each pair adds, (num_pairs,); arguments: see `forward`."""
        pairs, kind = walks.features, walks.feature_kind
        assert pairs is not None
        assert kind is not None
        found = [_rows_at(rows(), column) for rows, column in zip(self.features, pairs.columns, strict=True)]
        gain, bias = rows_of_kinds(kinds, self.gain, self.bias, of=kind)
        hidden = sum(found[1:], start=found[0]) * (1 + gain) + bias
        return _rows_at(torch.relu(hidden) @ self.out, pairs.index)


class PathAttention(nn.Module):
    """The query attends over two-hop paths s –r1→ x –r2→ o of the past; a candidate's paths add up.

    A path's key is A[r1]∘(1 + D1[recency 1])∘(1 + B[r2]) + D2[recency 2] + C2[count 2] + B[r2] + W_k z_o, the query is
    Q[r] + W_q z_s, a path weighs exp(⟨query, key⟩ + bias) and a candidate scores log(1 + Σ). Arguments: see
    `FactAttention`.
    """

    max_log_weight = 10.0

    def __init__(self, num_relations: int, dim: int, config: HistoryConfig) -> None:
        super().__init__()
        width, bins = config.dim, NUM_BINS
        self.query = RelationRows(num_relations, width, 0.3)
        self.first = relation_table(num_relations, width, 0.3)
        self.second = relation_table(num_relations, width, 0.3)
        self.first_recency = _rows(bins, width, 0.1)
        self.second_recency = _rows(bins, width, 0.1)
        self.second_count = _rows(bins, width, 0.1)
        self.subject = nn.Linear(dim, width, bias=False)
        self.other = nn.Linear(dim, width, bias=False)
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def forward(self, ends: Tensor, query: Tensor, walks: Walks) -> Tensor:
        """Score the pairs of walks of two facts, (num_pairs,); see `FactAttention.forward`."""
        return segment_log_sum(self.log_weights(ends, query, walks), walks.pair, walks.num_pairs)

    def log_weights(self, ends: Tensor, query: Tensor, walks: Walks) -> Tensor:
        """Logarithms of what the paths weigh, (num_walks,); arguments: see `FactAttention.forward`."""
        assert walks.first is not None
        relation, recency = walks.first.columns
        first = _rows_at(self.first, relation) * (1 + _rows_at(self.first_recency, recency))
        relation, recency, count, _ = walks.facts.columns
        second = _rows_at(self.second, relation)
        ending = second + _rows_at(self.second_recency, recency) + _rows_at(self.second_count, count)
        second, ending = _rows_at(second, walks.facts.index), _rows_at(ending, walks.facts.index)
        # ⟨query, first∘(1 + second) + ending⟩ = ⟨[query∘first, query], [1 + second, ending]⟩: paths need no keys of
        # their own, and the paths of a query over one first fact share the left side.
        left = _rows_at(query, walks.query)
        left = torch.cat([left * _rows_at(first, walks.first.index), left], 1)
        right = torch.cat([1 + second, ending + _rows_at(ends, walks.end)], 1)
        return (sddmm(left, right, walks.pattern) + self.bias).clamp(max=self.max_log_weight)


class PopularityScore(nn.Module):
    """How recent and how frequent an object is for a relation, whoever the subject."""

    def __init__(self, num_relations: int, config: HistoryConfig) -> None:
        super().__init__()
        width = config.popularity_dim
        self.relation = RelationRows(num_relations, width, 0.1)
        self.recency = _rows(NUM_BINS, width, 0.1)
        self.count = _rows(NUM_BINS, width, 0.1)
        self.recency_bias, self.count_bias = _scalars(NUM_BINS), _scalars(NUM_BINS)

    def forward(self, objects: PopularObjects, kinds: QueryKinds) -> Tensor:
        """The score of each object, (num_objects,), for the kinds of queries."""
        features = (self.recency[:, None] + self.count).flatten(0, 1)
        extra = (self.recency_bias[:, None] + self.count_bias).flatten()
        (relation,) = rows_of_kinds(kinds, self.relation, of=objects.kind)
        return sddmm(relation, features, objects.pattern) + _rows_at(extra, objects.pattern.column)
