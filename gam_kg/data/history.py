"""The history index: what was seen with what, when last and how often, as of any snapshot.

`HistoryIndex` holds three `RecencyIndex`es over a rank's facts, by subject, by (subject, relation) and by relation, and
looks up for the queries of a snapshot what the history attention reads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.data.graph import Queries, TemporalGraph
from gam_kg.data.ragged import offsets_of, ragged_ranges
from gam_kg.data.recency import Cut, RecencyIndex, Recent

NUM_BUCKETS = 32
NEVER = NUM_BUCKETS


# Smallest value of each bucket: 0 to 5 one by one, then two buckets for each doubling.
_BOUNDARIES = torch.tensor([*range(6), *(math.ceil(5 * 2 ** ((bucket - 5.5) / 2)) for bucket in range(6, NUM_BUCKETS))])


def log_bucket(value: Tensor) -> Tensor:
    """Log-spaced bucket of a count or recency, in `[0, NUM_BUCKETS)`; same shape, int64."""
    return torch.bucketize(value, _BOUNDARIES.to(value.device), right=True) - 1


@dataclass(frozen=True)
class PairHistory:
    """Past facts between the subjects of the queries and their candidates.

    Entries are shared by the queries of a subject; a link joins a query to an entry it may read. Links of one
    (query, candidate) pair are told by `link_pair`.

    Attributes:
        entry_relation, entry_other: Past fact (subject, relation, other), int64 (num_entries,).
        entry_recency, entry_count: Buckets, int64 (num_entries,).
        entry_same: Whether the entry was looked up by the query's own relation, bool (num_entries,).
        link_query, link_entry, link_pair: int64 (num_links,).
        pair_query, pair_other: The distinct pairs, int64 (num_pairs,).
        pair_features: Buckets (num_pairs, 4): recency and count of (s, r, o), recency of (s, any, o), number of
            distinct relations of (s, any, o). `NEVER` stands for a recency of what was never seen.
    """

    entry_relation: Tensor
    entry_other: Tensor
    entry_recency: Tensor
    entry_count: Tensor
    entry_same: Tensor
    link_query: Tensor
    link_entry: Tensor
    link_pair: Tensor
    pair_query: Tensor
    pair_other: Tensor
    pair_features: Tensor


@dataclass(frozen=True)
class PathHistory:
    """Two-hop paths subject –first→ neighbour –second→ candidate in the past.

    Attributes:
        first_relation, first_recency: int64 (num_first,).
        second_relation, second_other, second_recency, second_count: int64 (num_second,).
        path_first, path_second: int64 (num_paths,).
        link_query, link_path, link_pair: int64 (num_links,).
        pair_query, pair_other: int64 (num_pairs,).
    """

    first_relation: Tensor
    first_recency: Tensor
    second_relation: Tensor
    second_other: Tensor
    second_recency: Tensor
    second_count: Tensor
    path_first: Tensor
    path_second: Tensor
    link_query: Tensor
    link_path: Tensor
    link_pair: Tensor
    pair_query: Tensor
    pair_other: Tensor


@dataclass(frozen=True)
class Popularity:
    """The most recent objects of each relation asked about.

    Attributes:
        relation, other, recency, count: One row a (relation, object), int64 (num_rows,).
        link_query, link_row: Which query reads which row, int64 (num_links,).
    """

    relation: Tensor
    other: Tensor
    recency: Tensor
    count: Tensor
    link_query: Tensor
    link_row: Tensor


@dataclass(frozen=True)
class History:
    """All that the queries of a snapshot read of the past; None for a part that is switched off."""

    pairs: PairHistory | None
    paths: PathHistory | None
    popularity: Popularity | None


@dataclass(frozen=True)
class Hops:
    """First hops of two-hop paths.

    Attributes:
        row: Which of the subjects each starts from, int64 (num_hops,), ascending.
        relation, neighbour, last: Past fact (subject, relation, neighbour), neighbours by id, int64 (num_hops,).
    """

    row: Tensor
    relation: Tensor
    neighbour: Tensor
    last: Tensor


@dataclass(frozen=True)
class Asked:
    """The distinct subjects and relations of queries, as of a snapshot.

    Attributes:
        queries: The queries.
        as_of: Only facts before it are seen.
        subjects, relations: Distinct, int64 (num_subjects,) and (num_relations,).
        subject_row, relation_row: Place of each query's, int64 (num_queries,).
    """

    queries: Queries
    as_of: int
    subjects: Tensor
    subject_row: Tensor
    relations: Tensor
    relation_row: Tensor

    @classmethod
    def of(cls, queries: Queries, as_of: int | None) -> "Asked":
        as_of = queries.time if as_of is None else min(as_of, queries.time)
        subjects, subject_row = torch.unique(queries.subject, return_inverse=True)
        relations, relation_row = torch.unique(queries.relation, return_inverse=True)
        return cls(queries, as_of, subjects, subject_row, relations, relation_row)


@dataclass(frozen=True)
class Reach:
    """How far back each look-up goes: a number of items, or where the rank has not all of them, the least one.

    Attributes:
        recent: By subject.
        same_relation: By query.
        popular: By relation.
        hops: First hops; None where paths are switched off.
        neighbours: Their distinct ends, int64 (num_neighbours,), and the place of each hop's, int64 (num_hops,).
        second: By neighbour.
    """

    recent: int | Cut
    same_relation: int | Cut
    popular: int | Cut
    hops: Hops | None
    neighbours: tuple[Tensor, Tensor] | None
    second: int | Cut


class HistoryIndex:
    """Looks up the past of queries, vectorised, on the device of the graph's tensors.

    Candidates are told by their row in the rank's shard.

    Args:
        graph: The anchored facts. Row (anchor, relation, other) is read as: `anchor` was an answer to
            (other, relation, ?), so that a rank which owns candidates has all their history.
        config: Which parts to look up, and how far back.
    """

    def __init__(self, graph: TemporalGraph, config: HistoryConfig) -> None:
        self.config = config
        self.device = graph.time.device
        self._num_relations = 2 * graph.num_relations
        self.stride = max(1, graph.partition.num_rows)
        self._ids = ids = graph.partition.ids.to(self.device)
        subject, relation, time = graph.other, graph.relation, graph.time
        row = graph.partition.rows(graph.anchor)

        def fact_tie(item: Tensor) -> Tensor:
            return graph.fact_tie(item // self.stride, ids[item % self.stride])

        def answer_tie(item: Tensor) -> Tensor:
            return graph.answer_tie(ids[item])

        self.by_subject = RecencyIndex(subject, relation * self.stride + row, time, fact_tie)
        self.by_query = RecencyIndex(subject * self._num_relations + relation, row, time, answer_tie)
        self.by_relation = RecencyIndex(relation, row, time, answer_tie)

    def look_up(self, queries: Queries, as_of: int | None = None) -> History:
        """The past of queries.

        Args:
            queries: Asked about `queries.time`, from which recency counts.
            as_of: Only facts before it are seen; None for all before `queries.time`. Never later than that.
        """
        asked = Asked.of(queries, as_of)
        reach = self.reach(asked)
        has_pairs = self.config.recent > 0 or self.config.same_relation > 0
        return History(
            self._pairs(asked, reach) if has_pairs else None,
            None if reach.hops is None else self._paths(asked, reach, reach.hops),
            self._popularity(asked, reach) if self.config.popular > 0 else None,
        )

    def reach(self, asked: Asked) -> Reach:
        """How far back to look."""
        config, hops, neighbours = self.config, None, None
        if config.two_hop_first and config.two_hop_second:
            first = self.by_subject.recent(asked.subjects, asked.as_of, config.two_hop_first)
            hops = Hops(first.row, first.item // self.stride, first.item % self.stride, first.last)
            neighbours = torch.unique(hops.neighbour, return_inverse=True)
        return Reach(config.recent, config.same_relation, config.popular, hops, neighbours, config.two_hop_second)

    def plan(self, queries: Sequence[Queries]) -> None:
        """Be told what will be asked, each snapshot's queries together; the facts before them are seen then."""

    def recent_facts(self, subjects: Tensor, as_of: int, limit: int) -> Recent:
        """Those of the subjects' `limit` most recent facts whose candidate is in the shard.

        Items are `relation * stride + row of the candidate`; arguments as of `RecencyIndex.recent`.
        """
        return self.by_subject.recent(subjects, as_of, limit)

    def query_key(self, queries: Queries) -> Tensor:
        """Group of each query in `by_query`, int64 (num_queries,)."""
        return queries.subject * self._num_relations + queries.relation

    def _pairs(self, asked: Asked, reach: Reach) -> PairHistory:
        queries, subject_row = asked.queries, asked.subject_row
        recent = self.by_subject.recent(asked.subjects, asked.as_of, reach.recent)
        same = self.by_query.recent(self.query_key(queries), asked.as_of, reach.same_relation)
        num_recent = len(recent.item)
        relation = torch.cat([recent.item // self.stride, queries.relation[same.row]])
        other = torch.cat([recent.item % self.stride, same.item])
        recency = log_bucket(queries.time - torch.cat([recent.last, same.last]))
        count = log_bucket(torch.cat([recent.count, same.count]))
        is_same = torch.arange(len(relation), device=relation.device) >= num_recent

        start, length = offsets_of(recent.row, len(asked.subjects))
        link_query, link_entry = ragged_ranges(start[subject_row], length[subject_row])
        # The query's own relation is looked up apart, further back, unless that is switched off.
        different = relation[link_entry] != queries.relation[link_query]
        if self.config.same_relation == 0:
            different = torch.ones_like(different)
        same_entry = torch.arange(num_recent, len(relation), device=relation.device)
        link_query = torch.cat([link_query[different], same.row])
        link_entry = torch.cat([link_entry[different], same_entry])
        pair_query, pair_other, link_pair = self._distinct_pairs(link_query, other[link_entry])

        num_pairs = len(pair_query)
        same_pair = link_pair[len(link_pair) - len(same_entry) :]
        same_recency = torch.full((num_pairs,), NEVER, device=relation.device)
        same_recency[same_pair] = recency[same_entry]
        same_count = torch.zeros(num_pairs, dtype=torch.int64, device=relation.device)
        same_count[same_pair] = count[same_entry]
        any_recency = torch.full((num_pairs,), NEVER, device=relation.device)
        any_recency.scatter_reduce_(0, link_pair, recency[link_entry], "amin")
        num_links = log_bucket(torch.bincount(link_pair, minlength=num_pairs))
        features = torch.stack([same_recency, same_count, any_recency, num_links], 1)
        return PairHistory(
            relation,
            other,
            recency,
            count,
            is_same,
            link_query,
            link_entry,
            link_pair,
            pair_query,
            pair_other,
            features,
        )

    def _paths(self, asked: Asked, reach: Reach, hops: Hops) -> PathHistory:
        assert reach.neighbours is not None
        neighbours, neighbour_row = reach.neighbours
        second = self.by_subject.recent(neighbours, asked.as_of, reach.second)
        second_other = second.item % self.stride

        start, length = offsets_of(second.row, len(neighbours))
        path_first, path_second = ragged_ranges(start[neighbour_row], length[neighbour_row])
        path_subject = hops.row[path_first]
        returns = self._ids[second_other[path_second]] == asked.subjects[path_subject]
        path_first, path_second, path_subject = path_first[~returns], path_second[~returns], path_subject[~returns]
        start, length = offsets_of(path_subject, len(asked.subjects))
        link_query, link_path = ragged_ranges(start[asked.subject_row], length[asked.subject_row])
        pair_query, pair_other, link_pair = self._distinct_pairs(link_query, second_other[path_second[link_path]])
        time = asked.queries.time
        return PathHistory(
            hops.relation,
            log_bucket(time - hops.last),
            second.item // self.stride,
            second_other,
            log_bucket(time - second.last),
            log_bucket(second.count),
            path_first,
            path_second,
            link_query,
            link_path,
            link_pair,
            pair_query,
            pair_other,
        )

    def _popularity(self, asked: Asked, reach: Reach) -> Popularity:
        found = self.by_relation.recent(asked.relations, asked.as_of, reach.popular)
        start, length = offsets_of(found.row, len(asked.relations))
        link_query, link_row = ragged_ranges(start[asked.relation_row], length[asked.relation_row])
        recency, count = log_bucket(asked.queries.time - found.last), log_bucket(found.count)
        return Popularity(asked.relations[found.row], found.item, recency, count, link_query, link_row)

    def _distinct_pairs(self, query: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pair, link_pair = torch.unique(query * self.stride + other, return_inverse=True)
        return pair // self.stride, pair % self.stride, link_pair
