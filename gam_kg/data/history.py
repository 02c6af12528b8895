"""The history index: what was seen with what, when last and how often, before the snapshot at hand.

`HistoryIndex` holds three `RecencyIndex`es over a rank's facts, by subject, by (subject, relation) and by relation, and
looks up for the queries of a snapshot what the history attention reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.data.graph import TemporalGraph
from gam_kg.data.past import NEVER, History, PairHistory, PathHistory, Popularity, log_bucket
from gam_kg.data.ragged import distinct_index, offsets_of, ragged_ranges, where
from gam_kg.data.recency import LATER, Cut, RecencyIndex, Recent, SeenKeys
from gam_kg.data.snapshot import Moment, Queries, Snapshot
from gam_kg.errors import DataError

Keeps = Callable[[Tensor], Tensor]


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
    """The distinct subjects and relations of queries.

    Attributes:
        queries: The queries.
        subjects, relations: Distinct, int64 (num_subjects,) and (num_relations,).
        subject_row, relation_row: Place of each query's, int64 (num_queries,).
    """

    queries: Queries
    subjects: Tensor
    subject_row: Tensor
    relations: Tensor
    relation_row: Tensor

    @classmethod
    def of(cls, queries: Queries) -> "Asked":
        subjects, subject_row = distinct_index(queries.subject)
        relations, relation_row = distinct_index(queries.relation)
        return cls(queries, subjects, subject_row, relations, relation_row)


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
    """Looks up the past of queries, vectorised, on the device of the graph's snapshots.

    The index starts before the first snapshot and is told of one after another, so that nothing it has not been told of
    can show. Its memory is bounded by the distinct facts of the rank. Candidates are told by their row in the rank's
    shard.

    Args:
        graph: The anchored facts, read through once for the distinct ones. Row (anchor, relation, other) is read as:
            `anchor` was an answer to (other, relation, ?), so that a rank which owns candidates has all their history.
        config: Which parts to look up, and how far back.

    Attributes:
        as_of: Only facts of snapshots before it have been told of.

    Raises:
        DataError: Entities and relations are too many for keys of 64 bits.
    """

    def __init__(self, graph: TemporalGraph, config: HistoryConfig) -> None:
        self.config = config
        self.device = graph.device
        self.as_of = 0
        self._num_relations = 2 * graph.num_relations
        self._partition = graph.partition
        self.stride = max(1, graph.partition.num_rows)
        if graph.num_entities**2 * self._num_relations >= LATER:
            raise DataError(
                f"{graph.num_entities} entities with {graph.num_relations} relations are too many facts to tell apart "
                "in 64 bits; leave out rare relations"
            )
        self._ids = ids = graph.partition.ids.to(self.device)
        self._newest: tuple[Snapshot, Tensor] | None = None

        def fact_tie(item: Tensor) -> Tensor:
            return graph.fact_tie(item // self.stride, ids[item % self.stride])

        def answer_tie(item: Tensor) -> Tensor:
            return graph.answer_tie(ids[item])

        self.facts = SeenKeys(graph.distinct(lambda rows: self._fact_key(rows.other, rows.relation, rows.anchor)))
        self._popular = SeenKeys(graph.distinct(lambda rows: self._popular_key(rows.relation, rows.anchor)))
        self.by_subject = RecencyIndex(self.facts, self._num_relations * self.stride, fact_tie)
        self.by_query = RecencyIndex(self.facts, self.stride, answer_tie)
        self.by_relation = RecencyIndex(self._popular, self.stride, answer_tie)

    def reset(self) -> None:
        """Go back to before the first snapshot."""
        self.as_of = 0
        for part in (self.facts, self._popular, self.by_subject, self.by_query, self.by_relation):
            part.clear()

    def remember(self, moment: Moment) -> None:
        """Have a snapshot in the past.

        Raises:
            ValueError: It is not later than those before.
        """
        snapshot = moment.snapshot
        if snapshot.time < self.as_of:
            raise ValueError(f"snapshot {snapshot.time} is told after snapshot {self.as_of - 1}")
        self.as_of = snapshot.time + 1
        ids = self.seen_facts(snapshot)
        self.facts.add(ids, snapshot.time)
        self.by_subject.add(ids)
        self.by_query.add(ids)
        ids = self._popular.find(self._popular_key(snapshot.relation, snapshot.anchor))
        self._popular.add(ids, snapshot.time)
        self.by_relation.add(ids)

    def seen_facts(self, snapshot: Snapshot) -> Tensor:
        """Places of a snapshot's distinct facts in `facts`, ascending, int64 (num_distinct,)."""
        # The index and what is told with it ask for the same, one after another.
        if self._newest is None or self._newest[0] is not snapshot:
            found = self.facts.find(self._fact_key(snapshot.other, snapshot.relation, snapshot.anchor))
            self._newest = snapshot, found
        return self._newest[1]

    def look_up(self, queries: Queries, keeps: Keeps | None = None) -> History:
        """The past of queries, as far as it has been told of.

        Args:
            queries: Asked about `queries.time`, from which recency counts.
            keeps: Tells of rows of the shard whether candidates are wanted; None: all are. What the past says of those
                that are wanted does not depend on it.

        Raises:
            ValueError: The index has been told of the very snapshot, or of later ones.
        """
        if queries.time < self.as_of:
            raise ValueError(f"queries about {queries.time}, when snapshot {self.as_of - 1} is already told")
        asked = Asked.of(queries)
        reach = self.reach(asked)
        has_pairs = self.config.recent > 0 or self.config.same_relation > 0
        return History(
            self._pairs(asked, reach, keeps) if has_pairs else None,
            None if reach.hops is None else self._paths(asked, reach, reach.hops, keeps),
            self._popularity(asked, reach, keeps) if self.config.popular > 0 else None,
        )

    def reach(self, asked: Asked) -> Reach:
        """How far back to look."""
        config, hops, neighbours = self.config, None, None
        if config.two_hop_first and config.two_hop_second:
            first = self.by_subject.recent(asked.subjects, config.two_hop_first)
            hops = Hops(first.row, first.item // self.stride, first.item % self.stride, first.last)
            neighbours = distinct_index(hops.neighbour)
        return Reach(config.recent, config.same_relation, config.popular, hops, neighbours, config.two_hop_second)

    def plan(self, moments: Sequence[Moment]) -> None:
        """Be told what will be asked and told of next, in this order."""

    def recent_facts(self, subjects: Tensor, limit: int) -> Recent:
        """Those of the subjects' `limit` most recent facts whose candidate is in the shard.

        Items are `relation * stride + row of the candidate`; arguments as of `RecencyIndex.recent`.
        """
        return self.by_subject.recent(subjects, limit)

    def times_answered(self, relation: Tensor, row: Tensor) -> Tensor:
        """In how many snapshots told of candidates were answers to relations, whoever the subject, int64 (num_pairs,).

        Args:
            relation: int64 (num_pairs,).
            row: Rows of the candidates in the shard, int64 (num_pairs,).
        """
        keys, key = self._popular.keys, relation * self.stride + row
        if not len(keys):
            return torch.zeros_like(key)
        place = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == key, self._popular.count[place].long(), 0)

    def _fact_key(self, subject: Tensor, relation: Tensor, answer: Tensor) -> Tensor:
        return (subject * self._num_relations + relation) * self.stride + self._partition.rows(answer)

    def _popular_key(self, relation: Tensor, answer: Tensor) -> Tensor:
        return relation * self.stride + self._partition.rows(answer)

    def query_key(self, queries: Queries) -> Tensor:
        """Group of each query in `by_query`, int64 (num_queries,)."""
        return queries.subject * self._num_relations + queries.relation

    def _pairs(self, asked: Asked, reach: Reach, keeps: Keeps | None) -> PairHistory:
        queries, subject_row = asked.queries, asked.subject_row
        recent = self._wanted(self.by_subject.recent(asked.subjects, reach.recent), keeps)
        same = self._wanted(self.by_query.recent(self.query_key(queries), reach.same_relation), keeps)
        num_recent = len(recent.item)
        relation = torch.cat([recent.item // self.stride, queries.relation[same.row]])
        other = torch.cat([recent.item % self.stride, same.item])
        recency = log_bucket(queries.time - torch.cat([recent.last, same.last]))
        count = log_bucket(torch.cat([recent.count, same.count]))
        is_same = torch.arange(len(relation), device=relation.device) >= num_recent

        start, length = offsets_of(recent.row, len(asked.subjects))
        link_query, link_entry = ragged_ranges(start[subject_row], length[subject_row])
        if self.config.same_relation > 0:
            # The query's own relation is looked up apart, further back.
            different = relation.index_select(0, link_entry) != queries.relation.index_select(0, link_query)
            link_query, link_entry = where(different, link_query, link_entry)
        same_entry = torch.arange(num_recent, len(relation), device=relation.device)
        link_query = torch.cat([link_query, same.row])
        link_entry = torch.cat([link_entry, same_entry])
        pair_query, pair_other, link_pair = self._distinct_pairs(link_query, other.index_select(0, link_entry))

        num_pairs = len(pair_query)
        same_pair = link_pair[len(link_pair) - len(same_entry) :]
        same_recency = torch.full((num_pairs,), NEVER, device=relation.device)
        same_recency[same_pair] = recency[same_entry]
        same_count = torch.zeros(num_pairs, dtype=torch.int64, device=relation.device)
        same_count[same_pair] = count[same_entry]
        any_recency = torch.full((num_pairs,), NEVER, device=relation.device)
        any_recency.scatter_reduce_(0, link_pair, recency.index_select(0, link_entry), "amin")
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

    def _paths(self, asked: Asked, reach: Reach, hops: Hops, keeps: Keeps | None) -> PathHistory:
        assert reach.neighbours is not None
        neighbours, neighbour_row = reach.neighbours
        second = self._wanted(self.by_subject.recent(neighbours, reach.second), keeps)
        second_other = second.item % self.stride

        start, length = offsets_of(second.row, len(neighbours))
        path_first, path_second = ragged_ranges(start[neighbour_row], length[neighbour_row])
        path_subject = hops.row.index_select(0, path_first)
        ends = self._ids.index_select(0, second_other).index_select(0, path_second)
        kept = ends != asked.subjects.index_select(0, path_subject)
        path_first, path_second, path_subject = where(kept, path_first, path_second, path_subject)
        start, length = offsets_of(path_subject, len(asked.subjects))
        link_query, link_path = ragged_ranges(start[asked.subject_row], length[asked.subject_row])
        pair_query, pair_other, link_pair = self._distinct_pairs(
            link_query, second_other.index_select(0, path_second.index_select(0, link_path))
        )
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

    def _popularity(self, asked: Asked, reach: Reach, keeps: Keeps | None) -> Popularity:
        found = self._wanted(self.by_relation.recent(asked.relations, reach.popular), keeps)
        recency, count = log_bucket(asked.queries.time - found.last), log_bucket(found.count)
        return Popularity(asked.relations, asked.relation_row, found.row, found.item, recency, count)

    def _wanted(self, found: Recent, keeps: Keeps | None) -> Recent:
        if keeps is None:
            return found
        return Recent(*where(keeps(found.item % self.stride), *vars(found).values()))

    def _distinct_pairs(self, query: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pair, link_pair = distinct_index(query * self.stride + other)
        return pair // self.stride, pair % self.stride, link_pair
