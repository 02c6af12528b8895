"""Random numbers that depend on what they are for, never on which rank draws them or in which order.

Dropout masks and initial rows are hashes of (seed, step, site, row key, column), so that a row gets the same numbers
on any number of ranks and on any device, and a resumed run the same as an uninterrupted one without generator state.
"""

import math
import zlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

_ROWS_AT_ONCE = 65_536
_LOW, _HIGH = 1 / 8, 1 / 3  # slopes of `torch.nn.functional.rrelu`


@dataclass(frozen=True)
class Noise:
    """Noise of one training step.

    Attributes:
        seed: Of the run.
        step: Optimizer step.
    """

    seed: int
    step: int

    def rows(self, key: Tensor) -> "RowNoise":
        """The noise of rows told apart by key, int64 (num_rows,)."""
        return RowNoise(self, key)

    def integer(self, site: str) -> int:
        """A number in [0, 2^32), to seed a generator with."""
        return int(RowNoise(self, torch.zeros(1, dtype=torch.int64)).bits(1, site)) % 2**32

    def uniform(self, key: Tensor, site: str) -> Tensor:
        """One number in [0, 1) a row, float32 (num_rows,)."""
        return RowNoise(self, key).uniform(1, site)[:, 0]


@dataclass(frozen=True)
class RowNoise:
    """Noise of the rows of a matrix; `site` tells apart what is drawn for one row in one step."""

    noise: Noise
    key: Tensor

    def uniform(self, columns: int, site: str) -> Tensor:
        """Numbers in [0, 1), float32 (num_rows, columns)."""
        # 24 bits, so that no number is rounded up to 1.
        return (self.bits(columns, site) >> 8).float().add_(2**23).mul_(2**-24)

    def keeps(self, columns: int, share: float, site: str) -> Tensor:
        """True with probability `1 - share`, bool (num_rows, columns)."""
        return self.bits(columns, site) >= min(int(-(2**31) + share * 2**32), 2**31 - 1)

    def bits(self, columns: int, site: str) -> Tensor:
        """Hashes, int32 (num_rows, columns). Source: Wellons 2018, "lowbias32", on (row hash + column hash)."""
        start = (self.noise.seed * 1_000_003 + self.noise.step) * 2**20 + zlib.crc32(site.encode())
        row = _mix64(self.key + _signed64(start * 0x9E3779B97F4A7C15))
        x = _low32(row)[:, None] + _column_hashes(columns, row.device)
        x ^= x >> 16
        x *= 0x7FEB352D
        x ^= x >> 15
        x *= _signed32(0x846CA68B)
        return x


def dropout(x: Tensor, share: float, noise: RowNoise | None, site: str, *, training: bool) -> Tensor:
    """Dropout of the elements of rows; torch's own where there is no noise to use.

    Args:
        x: (num_rows, columns).
        share: Of elements set to zero; the others are scaled so that the mean stays.
        noise: Of the rows.
        site: Name of the place in the model.
        training: Whether to drop at all.
    """
    if noise is None or not training or not share:
        return functional.dropout(x, share, training)
    kept = noise.keeps(x.shape[1], share, site)
    return x * kept.to(x.dtype).mul_(1 / (1 - share))


def rrelu(x: Tensor, noise: RowNoise | None, site: str, *, training: bool) -> Tensor:
    """Randomised leaky ReLU of rows, slopes between 1/8 and 1/3; arguments as of `dropout`. Source: Xu et al. 2015."""
    if noise is None or not training:
        return functional.rrelu(x, training=training)
    slope = noise.uniform(x.shape[1], site).mul_(_HIGH - _LOW).add_(_LOW).to(x.dtype)
    return x * torch.where(x >= 0, 1, slope)


def normal_rows(key: Tensor, columns: int, seed: int, site: str) -> Tensor:
    """Standard normal rows by key, (num_rows, columns) of torch's default type. Source: Box & Muller 1958."""
    out = torch.empty(len(key), columns)
    for rows in torch.arange(len(key)).split(_ROWS_AT_ONCE):
        row_noise = Noise(seed, -1).rows(key[rows])
        radius = (-2 * torch.log1p(-row_noise.uniform(columns, f"{site} radius"))).sqrt_()
        angle = 2 * math.pi * row_noise.uniform(columns, f"{site} angle")
        out[rows] = (radius * torch.cos(angle)).to(out.dtype)
    return out


@lru_cache(maxsize=64)
def _column_hashes(columns: int, device: torch.device) -> Tensor:
    """The same at every step and site; int32 (columns,)."""
    return _low32(_mix64(torch.arange(1, columns + 1, device=device) * 0x632BE59BD9B4E019))


def _mix64(x: Tensor) -> Tensor:
    """Source: Steele et al. 2014, SplitMix64, with shifts that keep the sign."""
    x = (x ^ (x >> 30)) * _signed64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> 27)) * _signed64(0x94D049BB133111EB)
    return x ^ (x >> 31)


def _low32(x: Tensor) -> Tensor:
    return x.to(torch.int32)  # keeps the low 32 bits


def _signed64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _signed32(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31
