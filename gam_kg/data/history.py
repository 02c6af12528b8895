"""The history index: what was seen with what, when last and how often, as of any snapshot.

One structure, `RecencyIndex`, answers "the k most recent distinct items of these groups, as of t" from a log sorted
by (group, time). Each row of the log knows when its item is next seen in the group, so a row is the item's latest
exactly when that next time is not before t: one build serves every t, no row is ever moved, and nothing at or
after t can show.

`HistoryIndex` holds three of them over the graph, by subject, by (subject, relation) and by relation, and looks up
for the queries of a snapshot what the history attention reads.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.data.graph import Queries, TemporalGraph
from gam_kg.data.ragged import offsets_of, ragged_ranges

NUM_BUCKETS = 32
NEVER = NUM_BUCKETS
_LATER = torch.iinfo(torch.int64).max
_MIX = 0x1E3779B97F4A7C15  # an odd number; products wrap around


# Smallest value of each bucket: 0 to 5 one by one, then two buckets for each doubling.
_BOUNDARIES = torch.tensor([*range(6), *(math.ceil(5 * 2 ** ((bucket - 5.5) / 2)) for bucket in range(6, NUM_BUCKETS))])


def log_bucket(value: Tensor) -> Tensor:
    """Log-spaced bucket of a count or recency, in `[0, NUM_BUCKETS)`; same shape, int64."""
    return torch.bucketize(value, _BOUNDARIES.to(value.device), right=True) - 1


@dataclass(frozen=True)
class Recent:
    """Answer of `RecencyIndex.recent`, ragged by row and within a row from oldest to latest.

    Attributes:
        row: Position of the group in the request, int64 (num_found,), ascending.
        item: int64 (num_found,).
        last: Snapshot the item was last seen with the group, int64 (num_found,).
        count: In how many snapshots it was seen, int64 (num_found,).
    """

    row: Tensor
    item: Tensor
    last: Tensor
    count: Tensor


class RecencyIndex:
    """The most recent distinct items of a group, as of any snapshot.

    Args:
        group: int64 (num_rows,).
        item: int64 (num_rows,).
        time: Snapshot of each row, int64 (num_rows,), not negative.
        tie: Order of the items that are alike in recency and count, int64 (num_rows,), the same for all rows of an
            item; None for that of their ids. It must not depend on the future, as ids by degree do.
    """

    def __init__(self, group: Tensor, item: Tensor, time: Tensor, tie: Tensor | None = None) -> None:
        self._span = int(time.max()) + 1 if len(time) else 1
        if len(group) and int(group.max()) >= _LATER // (self._span + 1):
            raise ValueError(
                f"{int(group.max())} groups over {self._span} snapshots do not fit 64 bits; use a larger time_unit"
            )
        order = torch.argsort(time, stable=True)
        for column in (item, group):
            order = order[torch.argsort(column[order], stable=True)]
        tie = item if tie is None else tie
        group, item, time, tie = group[order], item[order], time[order], tie[order]
        # Sorted by (group, item, time): repeats of an item stand next to each other.
        same = torch.zeros(len(group), dtype=torch.bool, device=group.device)
        same[1:] = (group[1:] == group[:-1]) & (item[1:] == item[:-1])
        repeat = same.clone()
        repeat[1:] &= time[1:] == time[:-1]
        group, item, time, tie, same = (column[~repeat] for column in (group, item, time, tie, same))
        position = torch.arange(len(group), device=group.device)
        first = torch.cummax(torch.where(same, 0, position), 0).values if len(group) else position
        following = torch.full_like(time, _LATER)
        following[:-1] = torch.where(same[1:], time[1:], _LATER)

        count = position - first + 1
        order = torch.argsort(tie, stable=True)
        order = order[torch.argsort(count[order], stable=True)]
        order = order[torch.argsort((group * self._span + time)[order], stable=True)]
        self._key = (group * self._span + time)[order]
        self._item = item[order]
        self._following = following[order]
        self._count = count[order]

    def occurrences(self, groups: Tensor, as_of: int) -> Recent:
        """Every time an item was seen with each group before `as_of`: `last` and `count` tell of that time.

        Args:
            groups: int64 (num_groups,).
            as_of: Only rows with time `< as_of` are seen.
        """
        low, high = self._bounds(groups, as_of)
        row, position = ragged_ranges(low, high - low)
        return Recent(row, self._item[position], self._key[position] % self._span, self._count[position])

    def recent(self, groups: Tensor, as_of: int, limit: int | None = None) -> Recent:
        """The distinct items seen with each group before `as_of`, at most the `limit` most recent of each.

        At the limit, of items last seen at the same time the more frequent are kept, and `tie` decides the rest.

        Args:
            groups: int64 (num_groups,).
            as_of: Only rows with time `< as_of` are seen.
            limit: Items a group; None for all.
        """
        low, high = self._bounds(groups, as_of)
        available = high - low
        width = available if limit is None else available.clamp(max=2 * limit)
        while True:
            row, position = ragged_ranges(high - width, width)
            live = self._following[position] >= as_of
            row, position = row[live], position[live]
            found = torch.bincount(row, minlength=len(groups))
            if limit is None:
                break
            short = (found < limit) & (width < available)
            if not bool(short.any()):
                break
            width = torch.where(short, torch.minimum(4 * width, available), width)
        if limit is not None:
            from_end = torch.cumsum(found, 0)[row] - 1 - torch.arange(len(row), device=row.device)
            kept = from_end < limit
            row, position = row[kept], position[kept]
        return Recent(row, self._item[position], self._key[position] % self._span, self._count[position])

    def _bounds(self, groups: Tensor, as_of: int) -> tuple[Tensor, Tensor]:
        first = groups * self._span
        return torch.searchsorted(self._key, first), torch.searchsorted(
            self._key, first + min(max(as_of, 0), self._span)
        )


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


class HistoryIndex:
    """Looks up the past of queries, vectorised, on the device of the graph's tensors.

    Args:
        graph: The anchored facts. Row (anchor, relation, other) is read as: `anchor` was an answer to
            (other, relation, ?), so that a rank which owns candidates has all their history.
        config: Which parts to look up, and how far back.
    """

    def __init__(self, graph: TemporalGraph, config: HistoryConfig) -> None:
        self.config = config
        self.device = graph.time.device
        self._num_entities = graph.num_entities
        self._num_relations = 2 * graph.num_relations
        subject, relation, other, time = graph.other, graph.relation, graph.anchor, graph.time
        fact_tie = other_tie = None
        if graph.entity_tie is not None and graph.relation_tie is not None:
            other_tie = graph.entity_tie[other]
            fact_tie = graph.relation_tie[relation] * _MIX + other_tie
        self.by_subject = RecencyIndex(subject, relation * self._num_entities + other, time, fact_tie)
        self.by_query = RecencyIndex(subject * self._num_relations + relation, other, time, other_tie)
        self.by_relation = RecencyIndex(relation, other, time, other_tie)

    def look_up(self, queries: Queries, as_of: int | None = None) -> History:
        """The past of queries.

        Args:
            queries: Asked about `queries.time`, from which recency counts.
            as_of: Only facts before it are seen; None for all before `queries.time`. Never later than that.
        """
        as_of = queries.time if as_of is None else min(as_of, queries.time)
        subjects, subject_row = torch.unique(queries.subject, return_inverse=True)
        config = self.config
        has_pairs = config.recent > 0 or config.same_relation > 0
        has_paths = config.two_hop_first > 0 and config.two_hop_second > 0
        return History(
            self._pairs(queries, as_of, subjects, subject_row) if has_pairs else None,
            self._paths(queries, as_of, subjects, subject_row) if has_paths else None,
            self._popularity(queries, as_of) if config.popular > 0 else None,
        )

    def _pairs(self, queries: Queries, as_of: int, subjects: Tensor, subject_row: Tensor) -> PairHistory:
        recent = self.by_subject.recent(subjects, as_of, self.config.recent)
        same = self.by_query.recent(
            queries.subject * self._num_relations + queries.relation, as_of, self.config.same_relation
        )
        num_recent = len(recent.item)
        relation = torch.cat([recent.item // self._num_entities, queries.relation[same.row]])
        other = torch.cat([recent.item % self._num_entities, same.item])
        recency = log_bucket(queries.time - torch.cat([recent.last, same.last]))
        count = log_bucket(torch.cat([recent.count, same.count]))
        is_same = torch.arange(len(relation), device=relation.device) >= num_recent

        start, length = offsets_of(recent.row, len(subjects))
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

    def _paths(self, queries: Queries, as_of: int, subjects: Tensor, subject_row: Tensor) -> PathHistory:
        first = self.by_subject.recent(subjects, as_of, self.config.two_hop_first)
        neighbours, neighbour_row = torch.unique(first.item % self._num_entities, return_inverse=True)
        second = self.by_subject.recent(neighbours, as_of, self.config.two_hop_second)
        second_other = second.item % self._num_entities

        start, length = offsets_of(second.row, len(neighbours))
        path_first, path_second = ragged_ranges(start[neighbour_row], length[neighbour_row])
        path_subject = first.row[path_first]
        returns = second_other[path_second] == subjects[path_subject]
        path_first, path_second, path_subject = path_first[~returns], path_second[~returns], path_subject[~returns]
        start, length = offsets_of(path_subject, len(subjects))
        link_query, link_path = ragged_ranges(start[subject_row], length[subject_row])
        pair_query, pair_other, link_pair = self._distinct_pairs(link_query, second_other[path_second[link_path]])
        return PathHistory(
            first.item // self._num_entities,
            log_bucket(queries.time - first.last),
            second.item // self._num_entities,
            second_other,
            log_bucket(queries.time - second.last),
            log_bucket(second.count),
            path_first,
            path_second,
            link_query,
            link_path,
            link_pair,
            pair_query,
            pair_other,
        )

    def _popularity(self, queries: Queries, as_of: int) -> Popularity:
        relations, relation_row = torch.unique(queries.relation, return_inverse=True)
        found = self.by_relation.recent(relations, as_of, self.config.popular)
        start, length = offsets_of(found.row, len(relations))
        link_query, link_row = ragged_ranges(start[relation_row], length[relation_row])
        recency = log_bucket(queries.time - found.last)
        return Popularity(relations[found.row], found.item, recency, log_bucket(found.count), link_query, link_row)

    def _distinct_pairs(self, query: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pair, link_pair = torch.unique(query * self._num_entities + other, return_inverse=True)
        return pair // self._num_entities, pair % self._num_entities, link_pair
