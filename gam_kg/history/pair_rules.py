"""Rules of pairs, counted: of the past facts (s, r', o) of queries (s, r, ?), how many had o as an answer.

A kind of rules is (r', r, recency of the fact). Each query of a snapshot adds 1 to the exposures of the kind of each of
its subject's past facts, and 1 to the hits where the object of the fact is an answer. Hits by exposures are the
confidence.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gam_kg.history.bins import NUM_BINS, log_bin
from gam_kg.history.found import QueryGroups
from gam_kg.history.recency import Recent, with_keys
from gam_kg.ops.ragged import find_keys, insert_at, join_groups, select, true_positions, unique_counts

if TYPE_CHECKING:
    from gam_kg.history.index import HistoryIndex

_MOST_WAITING = 2**22  # kinds that are counted together; more would take much memory
_MOST_INT32 = torch.iinfo(torch.int32).max


@dataclass(frozen=True)
class PairCounts:
    """Counts of the kinds of rules, as they are stored. They are only read, so they may be in a mapped file.

    Attributes:
        pairs: Pairs of relations, `r * num_relations + r'`, ascending, int64 (num_pairs,).
        exposures, hits: Of each pair by recency, zero beyond the last column, int32 or int64 (num_pairs, num_columns).
    """

    pairs: Tensor
    exposures: Tensor
    hits: Tensor

    def of(self, kind: Tensor) -> tuple[Tensor, Tensor]:
        """Exposures and hits, zero for kinds that are not there, float64 (num_kinds,) each."""
        num_columns = self.exposures.shape[1]
        pairs, index = torch.unique_consecutive(kind // NUM_BINS, return_inverse=True)
        row, known = (of_pair.index_select(0, index) for of_pair in find_keys(self.pairs, pairs))
        column = kind % NUM_BINS
        at = true_positions(known & (column < num_columns))
        position = row.index_select(0, at).mul_(num_columns).add_(column.index_select(0, at))
        none = torch.zeros(len(kind), dtype=torch.float64)
        exposures, hits = (
            none.index_copy(0, at, table.view(-1).index_select(0, position).double())
            for table in (self.exposures, self.hits)
        )
        return exposures, hits


_NONE_STORED = PairCounts(torch.zeros(0, dtype=torch.int64), *(torch.zeros(0, 1, dtype=torch.int32),) * 2)


class PairRules:
    """Exposures and hits of the kinds of rules, over all ranks, of the snapshots observed so far.

    Args:
        history: The past.
    """

    def __init__(self, history: "HistoryIndex") -> None:
        self._history = history
        self.clear()

    @property
    def fixed(self) -> list[PairCounts]:
        """What never changes: the counts that were restored."""
        return [] if self._counts.stored is None else [self._counts.stored]

    def clear(self) -> None:
        """Go back to before the first snapshot."""
        self._counts = _KindCounts()

    def counts(self) -> PairCounts:
        """The counts so far."""
        return self._counts.all()

    def restore(self, counts: PairCounts) -> None:
        """Put the counts where those were whose `counts` these are."""
        self._counts = _KindCounts(counts)

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
    """Exposures and hits by kind: those that were stored, and what was counted since.

    Args:
        stored: The counts to go on from; None: there are none.
    """

    def __init__(self, stored: PairCounts | None = None) -> None:
        self.stored = stored
        # Counted since, with a row for each pair of relations and a column for each recency: the pairs, ascending, and
        # their rows, in the order in which they were seen. The last pair stands for all that were not seen: its row,
        # the first, stays zero.
        self._pairs, self._rows = torch.tensor([torch.iinfo(torch.int64).max]), torch.tensor([0])
        self._exposures, self._hits = (torch.zeros(NUM_BINS, dtype=torch.int32) for _ in range(2))
        self._total = 0  # of all exposures, more than those of any kind
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, kind: Tensor, exposures: Tensor, hits: Tensor) -> None:
        """Count; int64 (num_counted,) each, of kinds in any order and any number of times."""
        # Together when they are looked up: pairs are inserted once for several snapshots then.
        self._waiting.append((kind, exposures, hits))
        if sum(len(one) for one, *_ in self._waiting) > _MOST_WAITING:
            self._count_waiting()

    def _count_waiting(self) -> None:
        if not self._waiting:
            return
        kind, exposures, hits = (torch.cat(columns) for columns in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._total += int(exposures.sum())
        if self._total > _MOST_INT32:
            self._exposures, self._hits = self._exposures.long(), self._hits.long()
        pairs = torch.unique_consecutive(kind // NUM_BINS)
        new = pairs[self._rows_of(pairs) == 0]
        if len(new):
            self._insert(torch.unique(new))
        position = self._positions(kind)
        self._exposures.index_add_(0, position, exposures.to(self._exposures.dtype))
        counted = torch.nonzero(hits)[:, 0]
        self._hits.index_add_(0, position[counted], hits[counted].to(self._hits.dtype))

    def of(self, kind: Tensor) -> tuple[Tensor, Tensor]:
        """Exposures and hits so far, zero for kinds never seen, float64 (num_kinds,) each."""
        self._count_waiting()
        position = self._positions(kind)
        exposures, hits = (counts.index_select(0, position).double() for counts in (self._exposures, self._hits))
        if self.stored is not None:
            before = self.stored.of(kind)
            exposures, hits = exposures.add_(before[0]), hits.add_(before[1])
        return exposures, hits

    def all(self) -> PairCounts:
        """The counts so far, in their own memory, with as few columns and bytes as hold them."""
        self._count_waiting()
        own, stored = self._pairs[:-1], self.stored or _NONE_STORED
        pairs = with_keys(stored.pairs, own)
        at, before = torch.searchsorted(pairs, own), torch.searchsorted(pairs, stored.pairs)
        since = [one[: len(self._pairs) * NUM_BINS].view(-1, NUM_BINS) for one in (self._exposures, self._hits)]
        of_column = since[0].amax(0).double()
        of_column[: stored.exposures.shape[1]] += stored.exposures.amax(0) if len(stored.pairs) else 0
        num_columns = 1 + int(torch.nonzero(of_column).max()) if len(pairs) else 1
        kind = torch.int32 if float(of_column.max()) <= _MOST_INT32 else torch.int64  # hits are no more than exposures
        tables = []
        for counts, counted in zip((stored.exposures, stored.hits), since, strict=True):
            table = torch.zeros(len(pairs), num_columns, dtype=kind)
            table.index_copy_(0, at, counted[:, :num_columns].index_select(0, self._rows[:-1]).to(kind))
            table[:, : counts.shape[1]].index_add_(0, before, counts.to(kind))
            tables.append(table)
        return PairCounts(pairs, *tables)

    def _positions(self, kind: Tensor) -> Tensor:
        pairs, index = torch.unique_consecutive(kind // NUM_BINS, return_inverse=True)
        return (self._rows_of(pairs) * NUM_BINS).index_select(0, index) + kind % NUM_BINS

    def _rows_of(self, pairs: Tensor) -> Tensor:
        place, known = find_keys(self._pairs, pairs)
        return torch.where(known, self._rows[place], 0)

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
    maybe = true_positions(marked.index_select(0, keys & last_bits))
    return maybe[torch.isin(keys[maybe], few)]
