"""Log-spaced bins of counts, recencies and horizons."""

import math

import torch
from torch import Tensor

NUM_BINS = 32
NEVER = NUM_BINS
"""Stands for the recency of what was never seen."""

# Smallest value of each bin: 0 to 5 one by one, then two bins for each doubling.
_BOUNDARIES = torch.tensor([*range(6), *(math.ceil(5 * 2 ** ((bin_ - 5.5) / 2)) for bin_ in range(6, NUM_BINS))])


def log_bin(value: Tensor) -> Tensor:
    """Log-spaced bin of a count or recency, in `[0, NUM_BINS)`; same shape, int64."""
    return torch.bucketize(value, _BOUNDARIES, right=True) - 1
