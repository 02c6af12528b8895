"""The strongest untrained baseline: counted rules of pairs and of shared facts, with popularity for the rest."""

from dataclasses import replace

import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.history.confidence import UNSEEN, shared_rules, together
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.baselines import Baseline, Fading, Popularity, TypedPairCounts
from gam_kg.metrics.sparse_scores import SparseScores
from gam_kg.ops.ragged import unique_counts

_LEVELS, _LEAST_EXPONENT = 32, -19  # of an octave; of the least number above zero


class FadingPopularity(Popularity):
    """How many past facts are (any, r, o), fading with age; in steps of a 32nd of an octave, and 0 below 2^-20."""

    decay = 0.02

    def __init__(self, history: HistoryIndex) -> None:
        super().__init__(history)
        self.fading = Fading(history.answers, self.decay)

    def observe(self, snapshot: Snapshot) -> None:
        place, _ = self.history.by_relation.find(snapshot.relation, self.partition.rows(snapshot.anchor))
        place, number = unique_counts(place)
        self.fading.add(place, snapshot.time, number)

    def _levels(self, place: Tensor, now: int) -> Tensor:
        mantissa, exponent = torch.frexp(self.fading.at(place, now))
        level = (exponent.long() - _LEAST_EXPONENT) * _LEVELS + ((mantissa - 0.5) * 2 * _LEVELS).long() + 1
        return torch.where(mantissa > 0, level.clamp(min=0), 0)

    def _values(self, num_levels: int) -> Tensor:
        # Few bits each, so that sums are exact, in whatever order over ranks.
        level = torch.arange(num_levels) - 1
        exponent = level.div(_LEVELS, rounding_mode="floor") + _LEAST_EXPONENT
        values = (0.5 + level % _LEVELS / (2.0 * _LEVELS)).double() * torch.exp2(exponent.double())
        return values.index_fill_(0, torch.tensor([0]), 0.0)


class RuleCounts(Baseline):
    """Rules of pairs, (s, r', o) → (s, r, o), and of shared facts, (s, r', c') → (s, r, o), by counted confidence.

    The confidence of a rule is its hits / (exposures + 30): of pairs by both relations and recency, see
    `gam_kg.history.pair_rules`, of shared facts by both relations and both entities, see `gam_kg.history.rules`. A
    candidate scores what its rules say together, see `gam_kg.history.confidence`, plus popularity / 10, where
    popularity is its part of the relation's facts and 10 more, all fading with age. No weight was tuned.

    Where rules are switched off in the history, there are only those of pairs.
    """

    popularity_weight, popularity_unseen = 0.1, 10

    def __init__(self, pairs: TypedPairCounts) -> None:
        super().__init__(pairs.history)
        self._pairs, self.popularity = pairs, FadingPopularity(pairs.history)

    def observe(self, snapshot: Snapshot) -> None:
        self.popularity.observe(snapshot)

    def scores(self, queries: Queries) -> SparseScores:
        history, shared = self.history, None
        if history.rules is not None:
            bodies = history.bodies(queries)
            shared = shared_rules(bodies, history.heads(bodies, 1), history.num_rows)
        pair, probability = together(self._pairs.confidences(queries, UNSEEN), shared)
        background, row, total = self.popularity.background(queries)
        share = self.popularity_weight / (total + self.popularity_unseen)
        background = replace(background, values=background.values * share)
        return SparseScores(background, row, self.partition.num_rows, pair, probability)
