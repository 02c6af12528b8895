"""Bins of the horizon, by which metrics and temperatures are reported."""

import numpy as np

HORIZONS = {
    "1": 1,
    "2": 2,
    "3-5": 3,
    "6-10": 6,
    "11-20": 11,
    "21-50": 21,
    "51-100": 51,
    "101-200": 101,
    "201-500": 201,
    "501+": 501,
}
"""The smallest horizon of each bin, by name, ascending; see `Queries.horizon`."""

_STARTS = np.array(list(HORIZONS.values()))


def horizon_bin(horizon: np.ndarray | int) -> np.ndarray:
    """Position in `HORIZONS` of the bin of each horizon, from 1 on; int64 of the same shape."""
    return np.searchsorted(_STARTS, horizon, side="right") - 1
