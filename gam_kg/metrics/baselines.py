"""Untrained baselines: what counting alone achieves, always reported beside the model.

Each scores the queries of a snapshot from the snapshots before it, like the model, and is ranked alike. All score few
pairs before a background of popularity or of zeros, so that their cost grows with facts, not with queries × entities.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.history.index import HistoryIndex
from gam_kg.history.walks import NUM_BINS, log_bin
from gam_kg.metrics.sparse_scores import Background, SparseScores
from gam_kg.ops.ragged import join_groups, select, unique_inverse

_MOST_LOG2 = 1100.0


class Baseline(ABC):
    """A scorer that learns nothing, of one rank's candidates.

    Args:
        history: The past, which receives each snapshot after the baseline has observed it.
    """

    def __init__(self, history: HistoryIndex) -> None:
        self.history, self.partition = history, history.partition

    @abstractmethod
    def scores(self, queries: Queries) -> SparseScores:
        """Score the rank's candidates from the past. A collective."""

    def observe(self, snapshot: Snapshot) -> None:  # noqa: B027 -- optional
        """Observe a snapshot before it is inserted into the history; most baselines need not."""


class Popularity(Baseline):
    """How many past snapshots have a fact (any, r, o)."""

    _found_for: tuple[Queries, int] | None = None

    def scores(self, queries: Queries) -> SparseScores:
        background, row, _ = self.background(queries)
        none = torch.zeros(0, dtype=torch.int64)
        return SparseScores(background, row, self.partition.num_rows, none, none.double())

    def background(self, queries: Queries) -> tuple[Background, Tensor, Tensor]:
        """The counts of relations of queries; a collective.

        Returns:
            The counts, one background per relation; the background of each query, int64 (num_queries,); the sum of the
            counts over all ranks, float64 (num_backgrounds, 1).
        """
        # Cached, as other baselines need the same.
        if self._found_for is None or self._found_for[0] is not queries or self._found_for[1] != self.history.end:
            self._found_for, self._found = (queries, self.history.end), self._look_up(queries)
        return self._found

    def _look_up(self, queries: Queries) -> tuple[Background, Tensor, Tensor]:
        relations, row = unique_inverse(queries.relation)
        found = self.history.by_relation.recent(relations)
        num_levels = 1 + int(found.count.max()) if len(found.count) else 1
        number = torch.bincount(found.row * num_levels + found.count, minlength=len(relations) * num_levels)
        number = number.view(len(relations), num_levels)
        number[:, 0] = self.partition.num_rows - number.sum(1)
        counts = torch.arange(num_levels, dtype=torch.float64)
        background = Background(
            counts.expand(len(relations), -1),
            number,
            lambda of, other: self.history.times_answered(relations[of], other),
        )
        return background, row, self.history.sum((counts * number).sum(1, keepdim=True))


class StrictRecurrency(Baseline):
    """Past occurrences of (s, r, o), each fading with age: Σ 2^(−λ age); unseen facts score zero.

    Source: Gastinger et al. 2024, "History repeats itself", strict recurrency with exponential decay; λ is one for all
    relations here.

    Args:
        history: See `Baseline`.
        decay: λ, per snapshot.
    """

    decays = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Tried on validation."""

    def __init__(self, history: HistoryIndex, decay: float = 0.03) -> None:
        super().__init__(history)
        # Computed once for all ages: an exponential may be rounded by its place in a tensor, and facts of one age would
        # not tie.
        ages = torch.arange(2 + int(_MOST_LOG2 / decay), dtype=torch.float64)
        self._fading = torch.exp2(-decay * ages)
        # The score of each fact in the snapshot in which it was last seen.
        self._faded = torch.zeros(len(history.facts.keys), dtype=torch.float64)

    def scores(self, queries: Queries) -> SparseScores:
        zero = Background(
            torch.zeros(1, 1, dtype=torch.float64),
            torch.full((1, 1), self.partition.num_rows),
            lambda background, _: torch.zeros_like(background),
        )
        return SparseScores(zero, torch.zeros_like(queries.subject), self.partition.num_rows, *self.pairs(queries))

    def pairs(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """The candidates that do not score zero and their scores; see `pair` and `score` of `SparseScores`."""
        found = self.history.by_query.recent(self.history.query_key(queries))
        faded = self._faded[found.place] * self._fading_of(queries.time - found.last)
        return found.row * self.partition.num_rows + found.item, faded

    def observe(self, snapshot: Snapshot) -> None:
        ids = self.history.fact_places(snapshot)
        before = self._faded[ids] * self._fading_of(snapshot.time - self.history.facts.last[ids])
        self._faded[ids] = before + 1

    def _fading_of(self, age: Tensor) -> Tensor:
        return self._fading[age.clamp(max=len(self._fading) - 1)]


class CombinedRecurrency(Baseline):
    """Strict recurrency first, then the share of the relation's facts that have the object.

    Source: Gastinger et al. 2024, strict and relaxed recurrency combined; the relaxed part weighs a billionth, so
    that it orders what the strict part ties. The strict part counts by its logarithm, or it would fade below that.
    """

    def __init__(self, strict: StrictRecurrency, popularity: Popularity) -> None:
        super().__init__(strict.history)
        self._strict, self._popularity = strict, popularity

    def scores(self, queries: Queries) -> SparseScores:
        pair, faded = self._strict.pairs(queries)
        # Between 0 and 1, as logarithms of all positive numbers lie within ± 1,100; what has faded to zero is unseen.
        score = torch.where(faded > 0, (torch.log2(faded) + _MOST_LOG2) / (2 * _MOST_LOG2), 0.0)
        return _before_popularity(self._popularity, queries, pair, score)


class TypedPairCounts(Baseline):
    """How often a past fact (s, r', o) was followed by (s, r, o), counted by pair of relations and by recency.

    A candidate scores the sum over its past facts with the subject of hits / (exposures + 1), where an exposure is a
    query (s, r, ?) with (s, r', o) in its past, and a hit is one that o answers; popularity orders the rest. The
    counts come from the snapshots observed so far.
    """

    limit = 1000
    """Most recent facts of a subject that are counted."""

    def __init__(self, popularity: Popularity) -> None:
        super().__init__(popularity.history)
        self._popularity = popularity
        self._counts = _KindCounts()

    def scores(self, queries: Queries) -> SparseScores:
        query, other, kind = self._past(queries)
        exposures, hits = self._counts.of(kind)
        pair, index = unique_inverse(query * self.partition.num_rows + other)
        score = torch.zeros(len(pair), dtype=torch.float64).index_add_(0, index, hits / (exposures + 1))
        return _before_popularity(self._popularity, queries, pair, score)

    def observe(self, snapshot: Snapshot) -> None:
        queries, num_rows = snapshot.queries, self.history.num_rows
        query, other, kind = self._past(queries)
        answer_query, answer = select(self.partition.owns(queries.answer), queries.answer_query, queries.answer)
        answers = answer_query * num_rows + self.partition.rows(answer)
        kinds, exposures = _distinct(kind)
        hit, hits = _distinct(kind[_places_of(answers, query * num_rows + other)])
        counted = torch.stack([kinds, exposures, torch.zeros_like(exposures)])
        counted[2, torch.searchsorted(kinds, hit)] = hits
        self._counts.add(*self.history.gather(counted.T).T.contiguous())

    def _past(self, queries: Queries) -> tuple[Tensor, Tensor, Tensor]:
        """Query, row of the other entity, and kind (both relations, recency) of each past fact of each subject."""
        subjects, subject_row = unique_inverse(queries.subject)
        (found,) = self.history.recent((self.history.by_subject, subjects, self.limit))
        query, entry = join_groups(found.row, len(subjects), subject_row)
        seen, other = found.item // self.history.num_rows, found.item % self.history.num_rows
        seen = seen * NUM_BINS + log_bin(queries.time - found.last)
        of_query = queries.relation * self.history.num_relations * NUM_BINS
        kind = of_query.index_select(0, query).add_(seen.index_select(0, entry))
        return query, other.index_select(0, entry), kind


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

    def of(self, kind: Tensor) -> tuple[Tensor, Tensor]:
        """Exposures and hits so far, zero for kinds never seen, float64 (num_kinds,) each."""
        position = self._positions(kind)
        return self._exposures[position], self._hits[position]

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
        is_old = torch.ones(size, dtype=torch.bool).index_fill_(0, at, False)
        rows = torch.arange(len(self._pairs), size)
        # Sorting all pairs at each snapshot would take longer than counting.
        self._pairs, self._rows = (
            old.new_empty(size).masked_scatter_(is_old, old).index_copy_(0, at, inserted)
            for old, inserted in ((self._pairs, new), (self._rows, rows))
        )
        if size * NUM_BINS > len(self._hits):
            more = self._hits.new_zeros(max(size * NUM_BINS, len(self._hits) * 3 // 2) - len(self._hits))
            self._exposures, self._hits = (torch.cat([counts, more]) for counts in (self._exposures, self._hits))


def _before_popularity(popularity: Popularity, queries: Queries, pair: Tensor, score: Tensor) -> SparseScores:
    """Scores of pairs, zero for all others, with ties ordered by the share of the relation's counts."""
    background, row, total = popularity.background(queries)
    share = replace(background, values=background.values * (1e-9 / total.clamp(min=1)))
    return SparseScores(share, row, popularity.partition.num_rows, pair, score)


def _distinct(values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values, ascending, and how often each is there; int64 (num_distinct,) each."""
    if values.device.type == "cpu":  # numpy sorts numbers several times faster than torch
        values = torch.from_numpy(np.sort(values.numpy()))
        return torch.unique_consecutive(values, return_counts=True)
    return torch.unique(values, return_counts=True)


def _places_of(few: Tensor, keys: Tensor) -> Tensor:
    """Positions of the keys that are among a few, ascending, int64 (num_found,)."""
    # Almost none is: the last bits of a key exclude most.
    last_bits = 2**20 - 1
    marked = torch.zeros(last_bits + 1, dtype=torch.bool)
    marked[few & last_bits] = True
    maybe = torch.nonzero(marked.index_select(0, keys & last_bits))[:, 0]
    return maybe[torch.isin(keys[maybe], few)]


def build_baselines(history: HistoryIndex, decay: float = 0.03) -> dict[str, Baseline]:
    """The baselines by name; they observe each snapshot in this order. Arguments: see `StrictRecurrency`."""
    popularity, strict = Popularity(history), StrictRecurrency(history, decay)
    return {
        "popularity": popularity,
        "recurrency_strict": strict,
        "recurrency_combined": CombinedRecurrency(strict, popularity),
        "typed_pair_counts": TypedPairCounts(popularity),
    }
