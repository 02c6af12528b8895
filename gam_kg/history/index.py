"""The history index: past facts by subject, by query and by relation, when last seen and in how many snapshots."""

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.errors import DataError
from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.found import Found, Hops, QueryGroups
from gam_kg.history.recency import KeyTable, RecencyIndex, Recent
from gam_kg.ops.ragged import last_of_each, sort_with_positions, unique_inverse

_MOST_KEYS = torch.iinfo(torch.int64).max


class HistoryIndex:
    """Looks up the past of queries in three `RecencyIndex`es: by subject, by (subject, relation) and by relation.

    Snapshots are inserted in time order, so a look-up sees only those inserted so far. Its memory is bounded by the
    distinct facts of the rank. Candidates are given by their row in the rank's shard.

    Args:
        graph: The anchored facts, read through once for the distinct ones. Row (anchor, relation, other) means that
            `anchor` was an answer to (other, relation, ?), so that the owner of a candidate has all its history.
        config: Which parts to look up, and how far back.

    Attributes:
        end: The snapshot after the last one that was inserted.
        num_rows: Rows of the shard, at least 1.
        num_relations: Relations with inverses.

    Raises:
        DataError: Entities and relations are too many for keys of 64 bits.
    """

    def __init__(self, graph: TemporalGraph, config: HistoryConfig) -> None:
        self.config, self.partition = config, graph.partition
        self.end, self.num_relations = 0, 2 * graph.num_relations
        if graph.num_entities**2 * self.num_relations >= _MOST_KEYS:
            raise DataError(
                f"{graph.num_entities} entities with {graph.num_relations} relations are too many facts to number "
                "in 64 bits; leave out rare relations"
            )
        ids, num_rows = graph.partition.ids, max(1, graph.partition.num_rows)
        self.num_rows = num_rows
        self._newest: tuple[Snapshot, Tensor] | None = None

        def fact_tie(item: Tensor) -> Tensor:
            return graph.fact_tie(item // num_rows, ids[item % num_rows])

        def answer_tie(item: Tensor) -> Tensor:
            return graph.answer_tie(ids[item])

        self.facts = KeyTable(graph.distinct(lambda rows: self._fact_key(rows.other, rows.relation, rows.anchor)))
        self._answers = KeyTable(graph.distinct(lambda rows: self._answer_key(rows.relation, rows.anchor)))
        self.by_subject = RecencyIndex(self.facts, self.num_relations * num_rows, fact_tie)
        self.by_query = RecencyIndex(self.facts, num_rows, answer_tie)
        self.by_relation = RecencyIndex(self._answers, num_rows, answer_tie)

    def reset(self) -> None:
        """Go back to before the first snapshot."""
        self.end = 0
        for part in (self.facts, self._answers, self.by_subject, self.by_query, self.by_relation):
            part.clear()

    def insert(self, snapshot: Snapshot) -> None:
        """Insert a snapshot.

        Raises:
            ValueError: It is not later than those before.
        """
        if snapshot.time < self.end:
            raise ValueError(f"snapshot {snapshot.time} is inserted after snapshot {self.end - 1}")
        self.end = snapshot.time + 1
        places = self.fact_places(snapshot)
        self.facts.insert(places, snapshot.time)
        self.by_subject.insert(places)
        self.by_query.insert(places)
        places = self._answers.places(self._answer_key(snapshot.relation, snapshot.anchor))
        self._answers.insert(places, snapshot.time)
        self.by_relation.insert(places)

    def fact_places(self, snapshot: Snapshot) -> Tensor:
        """Places of a snapshot's distinct facts in `facts`, ascending, int64 (num_distinct,)."""
        # Baselines need the same places just before they are inserted.
        if self._newest is None or self._newest[0] is not snapshot:
            key = self._fact_key(snapshot.other, snapshot.relation, snapshot.anchor)
            self._newest = snapshot, self.facts.places(key)
        return self._newest[1]

    def find(self, queries: Queries) -> Found:
        """Find the past facts of the subjects and relations of queries.

        Args:
            queries: The queries; recency is counted back from their snapshot.

        Raises:
            ValueError: The snapshot of the queries, or a later one, was inserted already.
        """
        if queries.time < self.end:
            raise ValueError(f"queries about snapshot {queries.time}, when snapshot {self.end - 1} is already inserted")
        groups, config = QueryGroups.of(queries), self.config
        subjects, num_first = groups.subjects, config.two_hop_first if config.two_hop_second else 0
        recent, same_relation, popular, first = self.recent(
            (self.by_subject, subjects, config.recent),
            (self.by_query, self.query_key(queries), config.same_relation),
            (self.by_relation, groups.relations, config.popular),
            (self.by_subject, subjects, num_first),
        )
        hops = second = None
        if num_first:
            hops = self._hops(first)
            (second,) = self.recent((self.by_subject, hops.neighbours, config.two_hop_second))
        own_row = torch.where(self.partition.owns(subjects), self.partition.rows(subjects), -1)
        popular = popular if config.popular else None
        return Found(groups, self.num_rows, own_row, recent, same_relation, hops, second, popular)

    def recent(self, *requests: tuple[RecencyIndex, Tensor, int]) -> list[Recent]:
        """Answer each request (index, groups, limit) with the shard's `limit` most recent items per group."""
        found: list[Recent] = []
        for index, groups, limit in requests:
            wider = [
                one.where(last_of_each(one.row, len(groups), limit))
                for one, (other, same, most) in zip(found, requests, strict=False)
                if other is index and same is groups and most >= limit
            ]
            found.append(wider[0] if wider else index.recent(groups, limit))
        return found

    def times_answered(self, relation: Tensor, row: Tensor) -> Tensor:
        """In how many past snapshots candidates answered relations, of any subject, int64 (num_pairs,).

        Args:
            relation: int64 (num_pairs,).
            row: Rows of the candidates in the shard, int64 (num_pairs,).
        """
        place, known = self.by_relation.find(relation, row)
        return torch.where(known, self._answers.count[place].long(), 0) if len(self._answers.keys) else place

    def times_seen(self, subject: Tensor, relation: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """In how many past snapshots facts were seen, and in which of them last (-1: never), int64 (num_facts,) each.

        Args:
            subject: int64 (num_facts,).
            relation: int64 (num_facts,), also inverse ones.
            row: Rows of the objects in the shard, int64 (num_facts,).
        """
        place, known = self.by_query.find(subject * self.num_relations + relation, row)
        if not len(self.facts.keys):
            return place, torch.full_like(place, -1)
        count, last = self.facts.count[place].long(), self.facts.last[place]
        return torch.where(known, count, 0), torch.where(known, last, -1)

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the shards; in place, and returned."""
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all shards, one shard after another."""
        return rows

    def query_key(self, queries: Queries) -> Tensor:
        """Group of each query in `by_query`, int64 (num_queries,)."""
        return queries.subject * self.num_relations + queries.relation

    def _fact_key(self, subject: Tensor, relation: Tensor, answer: Tensor) -> Tensor:
        return (subject * self.num_relations + relation) * self.num_rows + self.partition.rows(answer)

    def _answer_key(self, relation: Tensor, answer: Tensor) -> Tensor:
        return relation * self.num_rows + self.partition.rows(answer)

    def _hops(self, first: Recent) -> Hops:
        """First hops of all ranks from those whose neighbours are in the shard."""
        relation, neighbour = first.item // self.num_rows, self.partition.ids[first.item % self.num_rows]
        rows = self.gather(torch.stack([first.row, relation, first.last, neighbour], 1))
        row, order = sort_with_positions(rows[:, 0].contiguous())
        relation, last, neighbour = rows.index_select(0, order)[:, 1:].T.contiguous()
        return Hops(row, relation, last, *unique_inverse(neighbour))
