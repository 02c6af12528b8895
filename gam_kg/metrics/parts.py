"""Parts of the answers of a split, of which metrics and comparisons are also reported."""

from collections.abc import Sequence

import numpy as np

from gam_kg.metrics.horizons import HORIZONS, horizon_bin
from gam_kg.schemas import ENTITIES_SEEN, STRATA

Parts = dict[str, dict[str, np.ndarray]]
"""Kind → name → the positions of its answers, ascending, int64 (num_answers_of_part,)."""

FEWEST_ANSWERS = 200
"""Answers below which a relation is no part."""


def parts_of(
    stratum: np.ndarray,
    entities: np.ndarray,
    horizon: np.ndarray,
    relation: np.ndarray,
    relations: Sequence[str],
    fewest: int,
) -> Parts:
    """Divide answers in each of several ways.

    Args:
        stratum: Index into `schemas.STRATA` of each answer, int64 (num_answers,).
        entities: Index into `schemas.ENTITIES_SEEN` of each answer, int64 (num_answers,).
        horizon: See `Queries.horizon`, int64 (num_answers,).
        relation: Relation of the query, in `[0, 2 * num_relations)`, int64 (num_answers,).
        relations: Names of the relations, without inverses.
        fewest: Answers that a relation must have to be a part.

    Returns:
        `strata` (all of them), `entities` and `horizons` (those that have answers), `relations` (the object is
        predicted) and `inverse_relations` (the subject is predicted).
    """
    bins, is_inverse = horizon_bin(horizon), relation >= len(relations)
    names = dict(enumerate(relations))
    return {
        "strata": {name: np.flatnonzero(stratum == index) for index, name in enumerate(STRATA)},
        "entities": _divided(entities, dict(enumerate(ENTITIES_SEEN)), 1),
        "horizons": _divided(bins, dict(enumerate(HORIZONS)), 1),
        "relations": _divided(np.where(is_inverse, -1, relation), names, fewest),
        "inverse_relations": _divided(np.where(is_inverse, relation - len(relations), -1), names, fewest),
    }


def _divided(key: np.ndarray, names: dict[int, str], fewest: int) -> dict[str, np.ndarray]:
    """The positions of each key that is not negative and that at least `fewest` answers have, by its name."""
    order = np.argsort(key, kind="stable")
    keys, starts = np.unique(key[order], return_index=True)
    divided = zip(keys.tolist(), np.split(order, starts[1:]), strict=True)
    return {names[at]: rows for at, rows in divided if at >= 0 and len(rows) >= fewest}
