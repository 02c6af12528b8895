"""The past facts of a rank: when each was last seen and how often, and the most recent ones by subject and relation."""

from collections.abc import Callable

import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.recency import KeyTable, RecencyIndex, Recent, SeenKeys, reaches, thresholds
from gam_kg.history.stored import StoredHistory
from gam_kg.history.turns import Turns


class PastFacts:
    """Past facts in three `RecencyIndex`es: by subject, by (subject, relation) and by relation.

    Args:
        graph: See `HistoryIndex`.
        stored: See `HistoryIndex`.

    Attributes:
        end: The snapshot after the last one that was inserted.
        partition: The entities of the rank.
        num_rows: Rows of the shard, at least 1.
        num_relations: Relations with inverses.
        num_entities: Entities of the whole graph.
        facts, answers: The facts with the rank's candidates as answers, and these candidates by relation.
        of_subjects: The facts among which the rank finds the most recent ones; in a world of one, `facts`.
        width: More than any answer in `of_subjects`.
        entity: Maps answers in `of_subjects` to entities.
        by_subject, by_query, by_relation: The indexes, the first two of `of_subjects`, the last of `answers`.
        turns: Whose turn it is.
    """

    def __init__(self, graph: TemporalGraph, stored: StoredHistory | None = None) -> None:
        self.partition, self.end = graph.partition, 0
        self.num_relations, self.num_entities = 2 * graph.num_relations, graph.num_entities
        self.num_rows = num_rows = max(1, graph.partition.num_rows)
        self._newest: tuple[Snapshot, Tensor] | None = None
        key_of = {
            "facts": lambda rows: self._fact_key(rows.other, rows.relation, rows.anchor),
            "answers": lambda rows: self._answer_key(rows.relation, rows.anchor),
        }
        self.facts, self.answers = (
            KeyTable(graph.distinct(key) if stored is None else stored.distinct(self, graph, name, key))
            for name, key in key_of.items()
        )
        self.of_subjects, self.width, self.entity = self._facts_of_subjects()
        ids, width, entity = graph.partition.ids, self.width, self.entity
        self.by_subject = RecencyIndex(
            self.of_subjects,
            self.num_relations * width,
            lambda item: graph.fact_tie(item // width, entity(item % width)),
        )
        self.by_query = RecencyIndex(self.of_subjects, width, lambda item: graph.answer_tie(entity(item)))
        self.by_relation = RecencyIndex(self.answers, num_rows, lambda row: graph.answer_tie(ids[row]))
        self.turns = Turns(self.facts, self.answers, self.num_relations, num_rows)

    def reset(self) -> None:
        """Go back to before the first snapshot."""
        self.end, self._newest = 0, None
        indexes = self.by_subject, self.by_query, self.by_relation
        for part in (self.facts, self.answers, self.of_subjects, *indexes, self.turns):
            part.clear()

    def fact_places(self, snapshot: Snapshot) -> Tensor:
        """Places of a snapshot's distinct facts in `facts`, ascending, int64 (num_distinct,)."""
        # Baselines need the same places just before they are inserted.
        if self._newest is None or self._newest[0] is not snapshot:
            key = self._fact_key(snapshot.other, snapshot.relation, snapshot.anchor)
            self._newest = snapshot, self.facts.places(key)
        return self._newest[1]

    def recent(self, *requests: tuple[RecencyIndex, Tensor, int | None]) -> list[Recent]:
        """Answer requests (`by_subject` or `by_query`, groups, limit) for facts with the rank's candidates.

        Those among the `limit` most recent of each group, of all candidates; None: all. A collective.
        """
        return self.deliver(
            *((index, len(groups), self.look_up(index, groups, most)) for index, groups, most in requests)
        )

    def look_up(self, index: RecencyIndex, groups: Tensor, limit: int | None) -> Recent:
        """The `limit` most recent items of `by_subject` or `by_query` of those groups whose subjects the rank owns."""
        return index.recent(groups, limit)

    def deliver(self, *found: tuple[RecencyIndex | None, int, Recent]) -> list[Recent]:
        """Send what was found of own subjects to those who need it. A collective.

        Args:
            found: Of each look-up, the index, the number of groups, and what was found. Each fact goes to the owner of
                the answer; where there is None in place of the index, all go to all, with items of `by_subject`.

        Returns:
            What the rank receives of each look-up, in the same order within a group. In items of what was sent to
            owners, the row in the shard is in place of the answer.
        """
        return [one for _, _, one in found]

    def popular(self, relations: Tensor, limit: int) -> Recent:
        """The rank's candidates among the `limit` most recent answers of relations, (num_relations,). A collective."""
        return self.by_relation.recent(relations, limit)

    def among_first(self, items: Tensor, limit: Tensor) -> Tensor:
        """Which items reach the threshold of their group over all shards, bool (num_items,); see `thresholds`."""
        return reaches(items, thresholds(items, limit))

    def times_seen(self, subject: Tensor, relation: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """In how many past snapshots facts were seen, and in which of them last (-1: never), int64 (num_facts,) each.

        Args:
            subject: int64 (num_facts,).
            relation: int64 (num_facts,), also inverse ones.
            row: Rows of the objects in the shard, int64 (num_facts,).
        """
        place, known = self.facts.find((subject * self.num_relations + relation) * self.num_rows + row)
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

    def restore_of_subjects(self, places: Tensor) -> Tensor:
        """Restore `of_subjects` from facts, given by their places in `facts`; returns those in it, ascending."""
        return places

    def _facts_of_subjects(self) -> tuple[SeenKeys, int, Callable[[Tensor], Tensor]]:
        """The table `of_subjects`, its `width`, and what maps answers in it to entities."""
        ids = self.partition.ids
        return self.facts, self.num_rows, lambda answer: ids.index_select(0, answer)

    def _insert_facts(self, snapshot: Snapshot) -> tuple[Tensor, Tensor]:
        """Insert the facts of a snapshot by subject, all that rules need; returns their places in both tables."""
        self.end = snapshot.time + 1
        places = self.fact_places(snapshot)
        self.facts.insert(places, snapshot.time)
        of_subjects = self._insert_of_subjects(snapshot)
        self.by_subject.insert(of_subjects)
        return places, of_subjects

    def _insert_of_subjects(self, snapshot: Snapshot) -> Tensor:
        """Insert the facts of a snapshot, already in `facts`, into `of_subjects`; returns their places, ascending."""
        return self.fact_places(snapshot)

    def _own_row(self, entity: Tensor) -> Tensor:
        return torch.where(self.partition.owns(entity), self.partition.rows(entity), -1)

    def _fact_key(self, subject: Tensor, relation: Tensor, answer: Tensor) -> Tensor:
        return (subject * self.num_relations + relation) * self.num_rows + self.partition.rows(answer)

    def _answer_key(self, relation: Tensor, answer: Tensor) -> Tensor:
        return relation * self.num_rows + self.partition.rows(answer)
