"""All untrained baselines, by name: made anew, or as they were when a history was stored."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.history.index import HistoryIndex
from gam_kg.history.stored import Part, StoredHistory, store_history
from gam_kg.metrics.baselines import (
    Baseline,
    CombinedRecurrency,
    Fading,
    Popularity,
    StrictRecurrency,
    TypedPairCounts,
)
from gam_kg.metrics.rule_counts import RuleCounts

DECAY = 0.03
"""That of strict recurrency where it was not chosen on validation."""

_DECAY, _TYPED = "strict_recurrency.decay", "typed_pairs"


def build_baselines(history: HistoryIndex, decay: float = DECAY) -> dict[str, Baseline]:
    """The baselines by name; arguments: see `Baselines.of`."""
    return Baselines.of(history, decay).by_name


@dataclass(frozen=True)
class Baselines:
    """The baselines of a history.

    Attributes:
        strict, typed, rules: Those that count something of their own.
        by_name: All of them; they observe each snapshot in this order.
    """

    strict: StrictRecurrency
    typed: TypedPairCounts
    rules: RuleCounts
    by_name: dict[str, Baseline]

    @classmethod
    def of(cls, history: HistoryIndex, decay: float = DECAY) -> "Baselines":
        """Baselines that have observed nothing; for `decay` see `StrictRecurrency`."""
        popularity, strict = Popularity(history), StrictRecurrency(history, decay)
        typed = TypedPairCounts(popularity)
        rules = RuleCounts(typed)
        by_name: dict[str, Baseline] = {
            "popularity": popularity,
            "recurrency_strict": strict,
            "recurrency_combined": CombinedRecurrency(strict, popularity),
            "typed_pair_counts": typed,
            "rule_counts": rules,
        }
        return cls(strict, typed, rules, by_name)

    @classmethod
    def restored(cls, history: HistoryIndex, stored: StoredHistory) -> "Baselines":
        """The baselines that were stored with a history."""
        baselines = cls.of(history, float(stored.parts[0][_DECAY]))
        for table, name, fading in baselines._fading():
            fading.sums.index_copy_(0, *stored.columns(history, table, name))
        stored.restore_kinds(baselines.typed.rules, history, _TYPED)
        return baselines

    def store(self) -> Part:
        """The rank's part of what the history and the baselines have counted so far."""
        more: dict[str, dict[str, Tensor]] = {}
        for table, name, fading in self._fading():
            more.setdefault(table, {})[name] = fading.sums
        part = store_history(self.strict.history, more, {_TYPED: self.typed.rules})
        return part | {_DECAY: torch.tensor([self.strict.decay], dtype=torch.float64)}

    def _fading(self) -> tuple[tuple[str, str, Fading], ...]:
        """Table, name and sums of what fades."""
        return (
            ("facts", "strict_recurrency", self.strict.fading),
            ("answers", "fading_popularity", self.rules.popularity.fading),
        )
