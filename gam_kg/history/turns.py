"""Whose turn it is, where the answers of a query take turns, or the facts of a candidate do.

Of a past fact (s, r, o) there are two counts: how many answers (s, r, ?) has had since o was last one of them, and how
many (?, r, o) has had since s was.
"""

import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries
from gam_kg.history.recency import KeyTable
from gam_kg.ops.ragged import places_in, select


class Turns:
    """How many facts each (s, r) and each (r, o) has had, and how many they had had when each fact was last seen.

    Args:
        facts: The rank's facts, as `query * num_rows + row` with `query = s * num_relations + r`.
        answers: Its answers of relations, as `r * num_rows + row`.
        num_relations: Relations with inverses.
        num_rows: More than any row.
    """

    def __init__(self, facts: KeyTable, answers: KeyTable, num_relations: int, num_rows: int) -> None:
        self._facts, self._answers = facts, answers
        self._num_relations, self._num_rows = num_relations, num_rows
        # The total of a query stands at the first of its facts; a query without facts of the rank has none.
        self._of_query, self._of_candidate = _Counts(facts, facts), _Counts(answers, facts)
        self._distinct = torch.zeros_like(answers.keys, dtype=torch.int32)

    def clear(self) -> None:
        """Go back to before the first snapshot."""
        self._of_query.clear()
        self._of_candidate.clear()
        self._distinct.zero_()

    def columns(self, table: KeyTable) -> dict[str, Tensor]:
        """What is counted of each key of one of the two tables, by name; `totals` is the rest."""
        if table is self._facts:
            return {"of_query": self._of_query.at_last, "of_candidate": self._of_candidate.at_last}
        return {"total": self._of_candidate.total, "distinct": self._distinct}

    def totals(self) -> tuple[Tensor, Tensor]:
        """The queries that have had facts of the rank, ascending, and how many answers of all ranks each has had."""
        query = torch.unique_consecutive(self._facts.keys[self._facts.count > 0] // self._num_rows)
        return query, self._of_query.total[self._first(query)] if len(query) else query.int()

    def restore(self, query: Tensor, total: Tensor) -> None:
        """Restore the totals of queries; those without facts of the rank are left out. `columns` are the rest."""
        if len(self._facts.keys):
            first = self._first(query)
            (first, total) = select(self._facts.keys[first] // self._num_rows == query, first, total)
            self._of_query.total.index_copy_(0, first, total)

    def insert(self, queries: Queries, places: Tensor) -> None:
        """Insert the answers of a snapshot, after `KeyTable.insert` of the facts.

        Args:
            queries: The queries of all ranks.
            places: Places of the rank's facts of the snapshot, distinct, int64 (num_seen,).
        """
        keys = self._facts.keys
        if not len(keys):
            return
        query = queries.subject * self._num_relations + queries.relation
        first, answers = self._first(query), torch.bincount(queries.answer_query, minlength=len(query))
        known = keys.index_select(0, first) // self._num_rows == query
        seen = keys.index_select(0, places)
        self._of_query.insert(first[known], answers[known], self._first(seen // self._num_rows), places)
        relation, row = seen // self._num_rows % self._num_relations, seen % self._num_rows
        of_seen = self._place(relation, row)
        self._of_candidate.insert(of_seen, torch.ones_like(of_seen), of_seen, places)
        is_new = (self._facts.count.index_select(0, places) == 1).to(torch.int32)
        self._distinct.index_add_(0, of_seen, is_new)

    def of_query(self, query: Tensor, fact: Tensor, places: Tensor) -> Tensor:
        """How many answers the query of a fact has had after the snapshot in which the fact was last seen.

        Args:
            query: Numbers of queries, int64 (num_queries,).
            fact: Which of them each fact has, int64 (num_facts,).
            places: Places of the facts, int64 (num_facts,).

        Returns:
            int64 (num_facts,).
        """
        if not len(places):
            return places
        return self._of_query.since(self._first(query).index_select(0, fact), places)

    def of_candidate(self, relation: Tensor, row: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """How many facts (?, r, o) there have been since the last of (s, r, o), and how many subjects they have.

        Args:
            relation: r of each fact, int64 (num_facts,).
            row: Row of o in the shard, int64 (num_facts,).
            places: Places of the facts, int64 (num_facts,).

        Returns:
            int64 (num_facts,) each.
        """
        if not len(places):
            return places, places
        at = self._place(relation, row)
        return self._of_candidate.since(at, places), self._distinct.index_select(0, at).long()

    def _first(self, query: Tensor) -> Tensor:
        """Place of the first fact of each query that has one, else any place."""
        return places_in(self._facts.keys, query * self._num_rows).clamp_(max=len(self._facts.keys) - 1)

    def _place(self, relation: Tensor, row: Tensor) -> Tensor:
        return places_in(self._answers.keys, relation * self._num_rows + row)


class _Counts:
    """A total for each group, and what it was when each fact was last seen."""

    def __init__(self, groups: KeyTable, facts: KeyTable) -> None:
        self.total, self.at_last = (torch.zeros_like(part.keys, dtype=torch.int32) for part in (groups, facts))

    def clear(self) -> None:
        self.total.zero_()
        self.at_last.zero_()

    def insert(self, group: Tensor, number: Tensor, of_seen: Tensor, places: Tensor) -> None:
        """Add numbers to groups; `of_seen` are the groups of the facts seen."""
        self.total.index_add_(0, group, number.to(torch.int32))
        self.at_last.index_copy_(0, places, self.total.index_select(0, of_seen))

    def since(self, group: Tensor, places: Tensor) -> Tensor:
        return (self.total.index_select(0, group) - self.at_last.index_select(0, places)).long()
