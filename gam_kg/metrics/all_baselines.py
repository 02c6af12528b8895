"""All untrained baselines, by name."""

from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.baselines import Baseline, CombinedRecurrency, Popularity, StrictRecurrency, TypedPairCounts
from gam_kg.metrics.rule_counts import RuleCounts


def build_baselines(history: HistoryIndex, decay: float = 0.03) -> dict[str, Baseline]:
    """The baselines by name; they observe each snapshot in this order. Arguments: see `StrictRecurrency`."""
    popularity, strict = Popularity(history), StrictRecurrency(history, decay)
    pairs = TypedPairCounts(popularity)
    return {
        "popularity": popularity,
        "recurrency_strict": strict,
        "recurrency_combined": CombinedRecurrency(strict, popularity),
        "typed_pair_counts": pairs,
        "rule_counts": RuleCounts(pairs),
    }
