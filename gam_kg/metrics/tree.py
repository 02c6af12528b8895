"""The metrics tree of a run: setting → filter → direction → summary, with parts and the curve over time beside."""

from typing import Any

import numpy as np

from gam_kg.metrics.parts import Parts
from gam_kg.metrics.summary import RankSummary
from gam_kg.schemas import DIRECTIONS, FILTERS


def setting_metrics(
    time: np.ndarray, direction: np.ndarray, parts: Parts, ranks: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Metrics of one scorer in one setting.

    Args:
        time: Snapshot of each query, int64 (num_queries,).
        direction: Index into `schemas.DIRECTIONS`, int64 (num_queries,).
        parts: See `parts_of`.
        ranks: Realistic ranks by filter, float64 (num_queries,) each.

    Returns:
        For each filter and direction a summary; those of parts and `curve` (by snapshot) are time-aware.
    """
    tree: dict[str, Any] = {}
    for name in FILTERS:
        summaries = {side: RankSummary.of(ranks[name][direction == DIRECTIONS.index(side)]) for side in DIRECTIONS[1:]}
        both = summaries["object"].merge(summaries["subject"])
        tree[name] = {side: summary.compute() for side, summary in {"both": both, **summaries}.items()}
    primary = ranks["time_aware"]
    for kind, of_kind in parts.items():
        tree[kind] = {name: RankSummary.of(primary[rows]).compute() for name, rows in of_kind.items()}
    tree["curve"] = [{"snapshot": int(at), **RankSummary.of(primary[time == at]).compute()} for at in np.unique(time)]
    return tree
