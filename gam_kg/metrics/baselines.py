"""Untrained baselines: what counting alone achieves, always reported beside the model; see also `rule_counts`.

Each scores the queries of a snapshot from the snapshots before it, like the model, and is ranked alike. All score few
pairs before a background of popularity or of zeros, so that their cost grows with facts, not with queries × entities.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.history.found import QueryGroups
from gam_kg.history.index import HistoryIndex
from gam_kg.history.pair_rules import PairRules
from gam_kg.history.recency import KeyTable, Recent
from gam_kg.metrics.sparse_scores import Background, SparseScores
from gam_kg.ops.ragged import unique_inverse

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
        index = self.history.by_relation
        found = index.recent(relations)
        level = self._levels(found.place, queries.now)
        num_levels = 1 + int(level.max()) if len(level) else 1
        number = torch.bincount(found.row * num_levels + level, minlength=len(relations) * num_levels)
        number = number.view(len(relations), num_levels)
        number[:, 0] += self.partition.num_rows - number.sum(1)
        values = self._values(num_levels)

        def level_of(background: Tensor, other: Tensor) -> Tensor:
            place, known = index.find(relations[background], other)
            return torch.zeros_like(place).masked_scatter_(known, self._levels(place[known], queries.now))

        background = Background(values.expand(len(relations), -1), number, level_of)
        return background, row, self.history.sum((values * number).sum(1, keepdim=True))

    def _levels(self, place: Tensor, now: int) -> Tensor:
        """The level of each (relation, object), given by its place among the answers; 0 for one without a past."""
        return self.history.answers.count[place].long()

    def _values(self, num_levels: int) -> Tensor:
        """What each level counts, float64 (num_levels,)."""
        return torch.arange(num_levels, dtype=torch.float64)


class Fading:
    """Past occurrences of the keys of a table, each fading with age: Σ 2^(−decay · age).

    Args:
        table: The keys.
        decay: Per snapshot.

    Attributes:
        sums: Of each key, in the snapshot in which it was last seen, float64 (num_keys,).
    """

    def __init__(self, table: KeyTable, decay: float) -> None:
        # Computed once for all ages: an exponential may be rounded by its place in a tensor, and facts of one age would
        # not tie.
        self._powers = torch.exp2(-decay * torch.arange(2 + int(_MOST_LOG2 / decay), dtype=torch.float64))
        self._table, self.sums = table, torch.zeros(len(table.keys), dtype=torch.float64)

    def at(self, place: Tensor, now: int) -> Tensor:
        """The sums of some keys at a snapshot, float64 (num_keys,)."""
        age = (now - self._table.last[place]).clamp(max=len(self._powers) - 1)
        return self.sums[place] * self._powers[age]

    def add(self, place: Tensor, now: int, number: Tensor | int = 1) -> None:
        """Add what the next snapshot has of some distinct keys, before it is inserted into the table."""
        self.sums[place] = self.at(place, now) + number


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
        self.decay, self.fading = decay, Fading(history.facts, decay)

    def scores(self, queries: Queries) -> SparseScores:
        zero = Background(
            torch.zeros(1, 1, dtype=torch.float64),
            torch.full((1, 1), self.partition.num_rows),
            lambda background, _: torch.zeros_like(background),
        )
        return SparseScores(zero, torch.zeros_like(queries.subject), self.partition.num_rows, *self.pairs(queries))

    def pairs(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """The candidates that do not score zero and their scores; see `pair` and `score` of `SparseScores`."""
        (found,) = self.history.recent((self.history.by_query, self.history.query_key(queries), None))
        return found.row * self.partition.num_rows + found.item, self.fading.at(found.place, queries.now)

    def observe(self, snapshot: Snapshot) -> None:
        self.fading.add(self.history.fact_places(snapshot), snapshot.time)


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
        self._popularity, self.rules = popularity, PairRules(self.history)

    def scores(self, queries: Queries) -> SparseScores:
        pair, confidence = self.confidences(queries, 1)
        pair, index = unique_inverse(pair)
        score = torch.zeros(len(pair), dtype=torch.float64).index_add_(0, index, confidence)
        return _before_popularity(self._popularity, queries, pair, score)

    def confidences(self, queries: Queries, unseen: float) -> tuple[Tensor, Tensor]:
        """See `PairRules.confidences`."""
        return self.rules.confidences(*self._past(queries), unseen)

    def observe(self, snapshot: Snapshot) -> None:
        self.rules.observe(*self._past(snapshot.queries))

    def _past(self, queries: Queries) -> tuple[QueryGroups, Recent]:
        groups = QueryGroups.of(queries)
        (recent,) = self.history.recent((self.history.by_subject, groups.subjects, self.limit))
        return groups, recent


def _before_popularity(popularity: Popularity, queries: Queries, pair: Tensor, score: Tensor) -> SparseScores:
    """Scores of pairs, zero for all others, with ties ordered by the share of the relation's counts."""
    background, row, total = popularity.background(queries)
    share = replace(background, values=background.values * (1e-9 / total.clamp(min=1)))
    return SparseScores(share, row, popularity.partition.num_rows, pair, score)
