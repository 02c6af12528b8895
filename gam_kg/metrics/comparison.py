"""The model compared with the untrained baselines, on all answers and on parts of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gam_kg.metrics.bootstrap import paired_differences
from gam_kg.metrics.parts import Parts
from gam_kg.schemas import MODEL

Reciprocal = Mapping[str, np.ndarray]
"""Reciprocal rank of each answer by scorer, float64 (num_answers,)."""


def compare(
    query: np.ndarray, reciprocal: Reciprocal, parts: Parts, tried: Reciprocal, tried_parts: Parts
) -> dict[str, Any]:
    """MRR of the model minus that of each baseline, with 95 % intervals over queries.

    The best baseline of a part is the one with the highest MRR on the same part of other answers, such as those of
    validation, or on all of these where they have no such part. Chosen on the answers compared, it would be the one
    that is luckiest on them.

    Args:
        query: Number of each answer's query, at least one, int64 (num_answers,).
        reciprocal: Of the model and at least one baseline.
        parts: Parts of the answers.
        tried: Of the baselines, on the answers that the best baseline is chosen on.
        tried_parts: Parts of those.

    Returns:
        `overall` and, by kind and name, each part that has answers: `count`, `best_baseline`, and `model_minus`,
        baseline → `mrr`, `low`, `high`.
    """
    baselines = [name for name in reciprocal if name != MODEL]

    def entry(rows: np.ndarray, tried_rows: np.ndarray) -> dict[str, Any]:
        others = {name: reciprocal[name][rows] for name in baselines}
        found = paired_differences(reciprocal[MODEL][rows], others, query[rows])
        like = tried_rows if len(tried_rows) else slice(None)
        return {
            "count": len(rows),
            "best_baseline": max(baselines, key=lambda name: tried[name][like].sum()),
            "model_minus": {name: {"mrr": one.mean, "low": one.low, "high": one.high} for name, one in found.items()},
        }

    none = np.zeros(0, dtype=np.int64)
    tree = {
        kind: {name: entry(rows, tried_parts[kind].get(name, none)) for name, rows in of_kind.items() if len(rows)}
        for kind, of_kind in parts.items()
    }
    return {"overall": entry(np.arange(len(query)), none), **tree}
