"""Rules of pairs, counted: of the past facts (s, r', o) of queries (s, r, ?), how many had o as an answer.

A kind of rules is (r', r, recency of the fact). Each query of a snapshot adds 1 to the exposures of the kind of each of
its subject's past facts, and 1 to the hits where the object of the fact is an answer. Hits by exposures are the
confidence.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gam_kg.history.bins import NUM_BINS, log_bin
from gam_kg.history.found import QueryGroups
from gam_kg.history.recency import Recent
from gam_kg.ops.ragged import insert_at, join_groups, select, sort_with_positions, unique_counts

if TYPE_CHECKING:
    from gam_kg.history.index import HistoryIndex


class PairRules:
    """Exposures and hits of the kinds of rules, over all ranks, of the snapshots observed so far.

    Args:
        history: The past.
    """

    def __init__(self, history: "HistoryIndex") -> None:
        self._history = history
        self.clear()

    def clear(self) -> None:
        """Go back to before the first snapshot."""
        self._counts = _KindCounts()

    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The kinds seen so far, int64 (num_kinds,), and their exposures and hits, float64 (num_kinds,) each."""
        return self._counts.all()

    def restore(self, kind: Tensor, exposures: Tensor, hits: Tensor) -> None:
        """Put the counts where those were whose `counts` these are, in any order."""
        self._counts.restore(kind, exposures, hits)

    def confidences(self, groups: QueryGroups, recent: Recent, unseen: float) -> tuple[Tensor, Tensor]:
        """Hits / (exposures + unseen) of the rule of each past fact of each query.

        Args:
            groups: The queries.
            recent: Past facts of their subjects, by subject.
            unseen: Exposures to add.

        Returns:
            Pair (`query * num_rows + row`) and confidence of each rule, int64 and float64 (num_rules,).
        """
        query, row, kind = self._past(groups, recent)
        exposures, hits = self._counts.of(kind)
        return query * self._history.num_rows + row, hits / (exposures + unseen)

    def observe(self, groups: QueryGroups, recent: Recent) -> None:
        """Count the queries of a snapshot, before it is inserted into the history. A collective.

        Arguments: see `confidences`.
        """
        queries, partition, num_rows = groups.queries, self._history.partition, self._history.num_rows
        query, row, kind = self._past(groups, recent)
        answer_query, answer = select(partition.owns(queries.answer), queries.answer_query, queries.answer)
        answers = answer_query * num_rows + partition.rows(answer)
        kinds, exposures = unique_counts(kind)
        hit, hits = unique_counts(kind[_places_of(answers, query * num_rows + row)])
        counted = torch.stack([kinds, exposures, torch.zeros_like(exposures)])
        counted[2, torch.searchsorted(kinds, hit)] = hits
        self._counts.add(*self._history.gather(counted.T).T.contiguous())

    def _past(self, groups: QueryGroups, recent: Recent) -> tuple[Tensor, Tensor, Tensor]:
        """Query, row of the object, and kind of each past fact of each query, int64 (num_rules,) each."""
        queries, history = groups.queries, self._history
        query, fact = join_groups(recent.row, len(groups.subjects), groups.of_subject)
        seen, row = recent.item // history.num_rows, recent.item % history.num_rows
        seen = seen * NUM_BINS + log_bin(queries.now - recent.last)
        of_query = queries.relation * history.num_relations * NUM_BINS
        kind = of_query.index_select(0, query).add_(seen.index_select(0, fact))
        return query, row.index_select(0, fact), kind


class _KindCounts:
    """Exposures and hits by kind: a row for each pair of relations seen so far, with a column for each recency."""

    def __init__(self) -> None:
        # Pairs of relations, ascending, and their rows, in the order in which they were seen. The last pair stands for
        # all that were not seen: its row, the first, stays zero.
        self._pairs, self._rows = torch.tensor([torch.iinfo(torch.int64).max]), torch.tensor([0])
        self._exposures, self._hits = (torch.zeros(NUM_BINS, dtype=torch.float64) for _ in range(2))

    def add(self, kind: Tensor, exposures: Tensor, hits: Tensor) -> None:
        """Count; int64 (num_counted,) each, of kinds in any order and any number of times."""
        pairs = torch.unique_consecutive(kind // NUM_BINS)
        new = pairs[self._rows_of(pairs) == 0]
        if len(new):
            self._insert(torch.unique(new))
        position = self._positions(kind)
        self._exposures.index_add_(0, position, exposures.double())
        counted = torch.nonzero(hits)[:, 0]
        self._hits.index_add_(0, position[counted], hits[counted].double())

    def restore(self, kind: Tensor, exposures: Tensor, hits: Tensor) -> None:
        """Put the counts where those were of which `all` has returned these, in any order."""
        if bool((kind[1:] < kind[:-1]).any()):
            kind, order = sort_with_positions(kind)
            exposures, hits = exposures[order], hits[order]
        pairs, row = torch.unique_consecutive(kind // NUM_BINS, return_inverse=True)
        self._pairs = torch.cat([pairs, self._pairs[-1:]])
        self._rows = torch.arange(1, len(pairs) + 2).index_fill_(0, torch.tensor([len(pairs)]), 0)
        position = (row + 1) * NUM_BINS + kind % NUM_BINS
        empty = torch.zeros((len(pairs) + 1) * NUM_BINS, dtype=torch.float64)
        self._exposures, self._hits = (empty.index_copy(0, position, counts.double()) for counts in (exposures, hits))

    def of(self, kind: Tensor) -> tuple[Tensor, Tensor]:
        """Exposures and hits so far, zero for kinds never seen, float64 (num_kinds,) each."""
        position = self._positions(kind)
        return self._exposures.index_select(0, position), self._hits.index_select(0, position)

    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        """The kinds seen so far, and their exposures and hits."""
        bins = torch.arange(NUM_BINS)
        kind, position = ((numbers[:-1, None] * NUM_BINS + bins).flatten() for numbers in (self._pairs, self._rows))
        exposures, hits = self._exposures[position], self._hits[position]
        kind, exposures, hits = select(exposures > 0, kind, exposures, hits)
        return kind, exposures, hits

    def _positions(self, kind: Tensor) -> Tensor:
        pairs, index = torch.unique_consecutive(kind // NUM_BINS, return_inverse=True)
        return (self._rows_of(pairs) * NUM_BINS).index_select(0, index) + kind % NUM_BINS

    def _rows_of(self, pairs: Tensor) -> Tensor:
        place = torch.searchsorted(self._pairs, pairs)
        return torch.where(self._pairs[place] == pairs, self._rows[place], 0)

    def _insert(self, new: Tensor) -> None:
        """Insert pairs, distinct and ascending."""
        size = len(self._pairs) + len(new)
        at = torch.searchsorted(self._pairs, new) + torch.arange(len(new))
        rows = torch.arange(len(self._pairs), size)
        # Sorting all pairs at each snapshot would take longer than counting.
        self._pairs, self._rows = insert_at(self._pairs, new, at), insert_at(self._rows, rows, at)
        if size * NUM_BINS > len(self._hits):
            more = self._hits.new_zeros(max(size * NUM_BINS, len(self._hits) * 3 // 2) - len(self._hits))
            self._exposures, self._hits = (torch.cat([counts, more]) for counts in (self._exposures, self._hits))


def _places_of(few: Tensor, keys: Tensor) -> Tensor:
    """Positions of the keys that are among a few, ascending, int64 (num_found,)."""
    # Almost none is: the last bits of a key exclude most.
    last_bits = 2**20 - 1
    marked = torch.zeros(last_bits + 1, dtype=torch.bool)
    marked[few & last_bits] = True
    maybe = torch.nonzero(marked.index_select(0, keys & last_bits))[:, 0]
    return maybe[torch.isin(keys[maybe], few)]
