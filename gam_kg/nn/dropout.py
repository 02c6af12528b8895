"""Dropout and randomised leaky ReLU with counter-based random numbers: a row gets the same on any number of ranks.

On a GPU each is one kernel, see `gam_kg.ops.random_kernels`; the numbers are the same.
"""

from torch import Tensor
from torch.nn import functional

from gam_kg.ops.counter_rng import RowRNG
from gam_kg.ops.kernels import random_kernels

_LOW, _HIGH = 1 / 8, 1 / 3  # slopes of `torch.nn.functional.rrelu`


def dropout(x: Tensor, share: float, rng: RowRNG | None, site: str, *, training: bool) -> Tensor:
    """Dropout of elements.

    Args:
        x: (num_rows, columns).
        share: Share of elements set to zero; the others are scaled so that the mean stays.
        rng: Random numbers of the rows; None: torch's generator.
        site: Name of the place in the model.
        training: Whether to drop at all.
    """
    if rng is None or not training or not share:
        return functional.dropout(x, share, training)
    if (kernels := random_kernels(x)) is not None:
        return kernels.dropout(x, share, rng, site)
    return x * rng.dropout_mask(x.shape[1], share, site).to(x.dtype).mul_(1 / (1 - share))


def rrelu(x: Tensor, rng: RowRNG | None, site: str, *, training: bool) -> Tensor:
    """Randomised leaky ReLU, slopes between 1/8 and 1/3; for the arguments see `dropout`. Source: Xu et al. 2015."""
    if rng is None or not training:
        return functional.rrelu(x, training=training)
    if (kernels := random_kernels(x)) is not None:
        return kernels.rrelu(x, _LOW, _HIGH, rng, site)
    slope = rng.uniform(x.shape[1], site).mul_(_HIGH - _LOW).add_(_LOW).to(x.dtype)
    return x * slope.masked_fill_(x >= 0, 1)
