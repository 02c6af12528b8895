"""The history index: what was seen with what, when last and how often, before the snapshot at hand.

`HistoryIndex` holds three `RecencyIndex`es over a rank's facts, by subject, by (subject, relation) and by relation, and
looks up for the queries of a snapshot what the history attention reads.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.data.graph import TemporalGraph
from gam_kg.data.look_up import Asked, Found, Hops, Missed, Reach, SampledHistory, Wanted
from gam_kg.data.past import NEVER, History, PairHistory, PathHistory, Popularity, log_bucket
from gam_kg.data.popular import Popular
from gam_kg.data.ragged import distinct_index, offsets_of, ragged_ranges, where
from gam_kg.data.recency import LATER, RecencyIndex, Recent, SeenKeys, last_of_each
from gam_kg.data.snapshot import Moment, Queries, Snapshot
from gam_kg.errors import DataError


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

        self._asked_popular: tuple[tuple[int, int], Popular] | None = None
        self.facts = SeenKeys(graph.distinct(lambda rows: self._fact_key(rows.other, rows.relation, rows.anchor)))
        self._popular = SeenKeys(graph.distinct(lambda rows: self._popular_key(rows.relation, rows.anchor)))
        self.by_subject = RecencyIndex(self.facts, self._num_relations * self.stride, fact_tie)
        self.by_query = RecencyIndex(self.facts, self.stride, answer_tie)
        self.by_relation = RecencyIndex(self._popular, self.stride, answer_tie)

    def reset(self) -> None:
        """Go back to before the first snapshot."""
        self.as_of, self._asked_popular = 0, None
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

    def look_up(self, queries: Queries) -> History:
        """All of the past of queries that has been told of; arguments and errors as of `find`."""
        found = self.find(queries)
        pairs = self._pairs(found, None)[0] if self._has_pairs else None
        paths = None if found.second is None else self._paths(found, found.second, None)[0]
        return History(pairs, paths, self._popularity(found) if self.config.popular > 0 else None)

    def find(self, queries: Queries) -> Found:
        """What has been told of that bears on queries, not yet joined to them.

        Args:
            queries: Asked about `queries.time`, from which recency counts.

        Raises:
            ValueError: The index has been told of the very snapshot, or of later ones.
        """
        if queries.time < self.as_of:
            raise ValueError(f"queries about {queries.time}, when snapshot {self.as_of - 1} is already told")
        asked = Asked.of(queries)
        reach = self.reach(asked)
        recent = self.by_subject.recent(asked.subjects, reach.recent)
        if reach.hops is None and self.config.two_hop_first and self.config.two_hop_second:
            hops = self._first_hops(asked.subjects, recent)
            reach = replace(reach, hops=hops, neighbours=distinct_index(hops.neighbour))
        return Found(
            asked,
            reach,
            recent,
            self.by_query.recent(self.query_key(queries), reach.same_relation),
            None if reach.neighbours is None else self.by_subject.recent(reach.neighbours[0], reach.second),
        )

    def sampled(self, found: Found, wanted: Wanted) -> SampledHistory:
        """A part of the past of queries.

        Args:
            found: What `find` has found since the index was last told of a snapshot.
            wanted: Which candidates of facts and paths are wanted. What the past says of those does not depend on it.
        """
        pairs = paths = None
        missed: list[Missed] = []
        if self._has_pairs:
            pairs, of_pairs = self._pairs(found, wanted)
            missed += of_pairs
        if found.second is not None:
            paths, of_paths = self._paths(found, found.second, wanted)
            missed += of_paths
        popular = self._popular_in(found) if self.config.popular > 0 else None
        return SampledHistory(pairs, paths, popular, found.asked.relation_row, missed)

    @property
    def _has_pairs(self) -> bool:
        return self.config.recent > 0 or self.config.same_relation > 0

    def reach(self, asked: Asked) -> Reach:
        """How far back to look; first hops only where they are not among what is found."""
        config = self.config
        return Reach(config.recent, config.same_relation, config.popular, None, None, config.two_hop_second)

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
        key, there = self.by_relation.find(relation, row)
        return torch.where(there, self.by_relation.seen_last(key)[1], 0) if len(self._popular.keys) else key

    def _fact_key(self, subject: Tensor, relation: Tensor, answer: Tensor) -> Tensor:
        return (subject * self._num_relations + relation) * self.stride + self._partition.rows(answer)

    def _popular_key(self, relation: Tensor, answer: Tensor) -> Tensor:
        return relation * self.stride + self._partition.rows(answer)

    def query_key(self, queries: Queries) -> Tensor:
        """Group of each query in `by_query`, int64 (num_queries,)."""
        return queries.subject * self._num_relations + queries.relation

    def _pairs(self, found: Found, wanted: Wanted | None) -> tuple[PairHistory, list[Missed]]:
        queries, subject_row = found.asked.queries, found.asked.subject_row
        recent, same, missed = found.recent, found.same_relation, []
        if wanted is not None:
            recent, of_recent = self._divided(recent, found.asked.subjects, wanted)
            same, of_same = self._divided(same, queries.subject, wanted)
            missed = [self._missed_facts(of_recent, found.asked), of_same]
        num_recent = len(recent.item)
        relation = torch.cat([recent.item // self.stride, queries.relation[same.row]])
        other = torch.cat([recent.item % self.stride, same.item])
        recency = log_bucket(queries.time - torch.cat([recent.last, same.last]))
        count = log_bucket(torch.cat([recent.count, same.count]))
        is_same = torch.arange(len(relation), device=relation.device) >= num_recent

        start, length = offsets_of(recent.row, len(found.asked.subjects))
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
        history = PairHistory(
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
        return history, missed

    def _paths(self, found: Found, second: Recent, wanted: Wanted | None) -> tuple[PathHistory, list[Missed]]:
        asked, hops, missed = found.asked, found.reach.hops, []
        assert hops is not None
        assert found.reach.neighbours is not None
        neighbours, neighbour_row = found.reach.neighbours
        shared = None
        if wanted is not None:
            rows = second.item % self.stride
            coins, shared = wanted.coins(rows), wanted.is_shared(rows)
            coins, shared, *columns = where(
                wanted.may_meet(rows, coins) | shared, coins, shared, *vars(second).values()
            )
            second = Recent(*columns)
        second_other = second.item % self.stride

        start, length = offsets_of(second.row, len(neighbours))
        path_first, path_second = ragged_ranges(start[neighbour_row], length[neighbour_row])
        path_subject = hops.row.index_select(0, path_first)
        path_end = second_other.index_select(0, path_second)
        subject = asked.subjects.index_select(0, path_subject)
        kept = self._ids.index_select(0, path_end) != subject
        if wanted is not None and shared is not None:
            met = wanted.meets(subject, path_end, coins.index_select(0, path_second))
            left_out = where(kept & ~met & shared.index_select(0, path_second), path_subject, path_end)
            missed = [_of_queries(Missed(*left_out), asked)]
            kept &= met
        path_first, path_second, path_subject = where(kept, path_first, path_second, path_subject)
        if wanted is not None:
            used = torch.zeros_like(second_other, dtype=torch.bool).index_fill_(0, path_second, True)
            second = Recent(*where(used, *vars(second).values()))
            second_other, place = second.item % self.stride, torch.cumsum(used, 0) - 1
            path_second = place.index_select(0, path_second)
        start, length = offsets_of(path_subject, len(asked.subjects))
        link_query, link_path = ragged_ranges(start[asked.subject_row], length[asked.subject_row])
        pair_query, pair_other, link_pair = self._distinct_pairs(
            link_query, second_other.index_select(0, path_second.index_select(0, link_path))
        )
        time = asked.queries.time
        history = PathHistory(
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
        return history, missed

    def _popularity(self, found: Found) -> Popularity:
        asked = found.asked
        popular = self.by_relation.recent(asked.relations, found.reach.popular)
        recency, count = log_bucket(asked.queries.time - popular.last), log_bucket(popular.count)
        return Popularity(asked.relations, asked.relation_row, popular.row, popular.item, recency, count)

    def _popular_in(self, found: Found) -> Popular:
        """Popularity of the relations; what was looked up in a moment is kept, for steps of a snapshot ask the same."""
        asked, moment = found.asked, (found.asked.queries.time, self.as_of)
        if self._asked_popular is None or self._asked_popular[0] != moment:
            self._asked_popular = moment, Popular.none(self.by_relation, asked.queries.time, asked.relations)
        popular = self._asked_popular[1].also(asked.relations, found.reach.popular)
        self._asked_popular = moment, popular
        return popular.only(asked.relations)

    def _first_hops(self, subjects: Tensor, recent: Recent) -> Hops:
        limit = self.config.two_hop_first
        if self.config.recent < limit:
            recent = self.by_subject.recent(subjects, limit)
        mask = last_of_each(recent.row, len(subjects), limit)
        row, item, last = where(mask, recent.row, recent.item, recent.last)
        return Hops(row, item // self.stride, item % self.stride, last)

    def _divided(self, found: Recent, subjects: Tensor, wanted: Wanted) -> tuple[Recent, Missed]:
        """What is wanted of the items of subjects; and of the others those that all queries share, as items."""
        rows, subject = found.item % self.stride, subjects.index_select(0, found.row)
        kept = wanted.meets(subject, rows, wanted.coins(rows))
        missed = Missed(*where(~kept & wanted.is_shared(rows), found.row, found.item))
        return Recent(*where(kept, *vars(found).values())), missed

    def _missed_facts(self, missed: Missed, asked: Asked) -> Missed:
        """Candidates of facts of subjects that are missed by the queries that would have read the facts."""
        missed = _of_queries(missed, asked)
        if self.config.same_relation > 0:
            # As in `_pairs`, a query's own relation is looked up apart.
            different = missed.other // self.stride != asked.queries.relation.index_select(0, missed.query)
            missed = Missed(*where(different, missed.query, missed.other))
        return Missed(missed.query, missed.other % self.stride)

    def _distinct_pairs(self, query: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pair, link_pair = distinct_index(query * self.stride + other)
        return pair // self.stride, pair % self.stride, link_pair


def _of_queries(missed: Missed, asked: Asked) -> Missed:
    """What is missed of subjects, told by their place and in that order, as missed by the queries about them."""
    start, length = offsets_of(missed.query, len(asked.subjects))
    query, at = ragged_ranges(start[asked.subject_row], length[asked.subject_row])
    return Missed(query, missed.other.index_select(0, at))
