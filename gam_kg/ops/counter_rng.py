"""Counter-based random numbers: functions of (seed, step, site, key, column), as Philox's are of key and counter.

No generator state: a row has the same numbers on any number of ranks, in any order and on any device, and a resumed run
the same as an uninterrupted one.
"""

import math
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import torch
from torch import Tensor

from gam_kg.ops.dimensions import Along

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class CounterRNG:
    """The random numbers of one optimizer step.

    Each draw names a `site`, the place in the model where the numbers are used; other sites have other numbers.

    Attributes:
        seed: Seed of the run.
        step: Number of the optimizer step.
    """

    seed: int
    step: int

    def rows(self, key: Tensor, *sites: str) -> "RowRNG":
        """Streams for the rows of matrices at some sites: rows with equal keys have equal numbers.

        Args:
            key: Integer (num_rows,).
            sites: The sites.
        """
        step = (self.seed * 1_000_003 + self.step) * 2**20
        starts = [_signed((step + zlib.crc32(site.encode())) * 0x9E3779B97F4A7C15, 64) for site in sites]
        start = torch.tensor(starts, dtype=torch.int64, device=key.device)
        low = _mix64(key.long() + start[:, None]).to(torch.int32)
        return RowRNG(sites, low.long())  # int64, as all integers of a batch on a CPU

    def integer(self, site: str) -> int:
        """A number in [0, 2^32), as the seed of a generator."""
        return int(self.rows(torch.zeros(1, dtype=torch.int64), site).bits(1, site)) % 2**32

    def uniform(self, key: Tensor, site: str) -> Tensor:
        """One number in [0, 1) for each key, float32 (num_rows,)."""
        return self.rows(key, site).uniform(1, site)[:, 0]


@dataclass(frozen=True)
class RowRNG:
    """The streams of rows at some sites in one step; see `CounterRNG.rows`.

    It is a record of tensors that depend on data and seed alone, and is therefore a part of the step batch.

    Attributes:
        sites: The places in the model where the numbers are used.
        hashes: Hash of each row at each site, of 32 bits, int32 or int64 (num_sites, num_rows).
    """

    sites: tuple[str, ...]
    hashes: Annotated[Tensor, Along("rows")]

    def uniform(self, columns: int, site: str) -> Tensor:
        """Numbers in [0, 1), float32 (num_rows, columns)."""
        # 24 bits, so that no number is rounded up to 1.
        return (self.bits(columns, site) >> 8).float().add_(2**23).mul_(2**-24)

    def dropout_mask(self, columns: int, share: float, site: str) -> Tensor:
        """False with probability `share`, bool (num_rows, columns)."""
        return self.bits(columns, site) >= dropout_threshold(share)

    def row_hashes(self, site: str) -> Tensor:
        """The hashes at one site, (num_rows,)."""
        return self.hashes[self.sites.index(site)]

    def bits(self, columns: int, site: str) -> Tensor:
        """Hashes, int32 (num_rows, columns). Source: Wellons 2018, "lowbias32", on (row hash + column hash)."""
        row = self.row_hashes(site).to(torch.int32)
        x = row[:, None] + column_hashes(columns, row.device)
        x ^= x >> 16
        x *= 0x7FEB352D
        x ^= x >> 15
        x *= _signed(0x846CA68B, 32)
        return x


def dropout_threshold(share: float) -> int:
    """The least hash of an element that is not dropped, of 32 bits."""
    return min(int(-(2**31) + share * 2**32), 2**31 - 1)


def normal_rows(key: Tensor, columns: int, seed: int, site: str) -> Tensor:
    """Standard normal numbers, (num_rows, columns) of torch's default dtype. Source: Box & Muller 1958."""
    out = torch.empty(len(key), columns)
    for rows in torch.arange(len(key)).split(_ROWS_AT_ONCE):
        sites = f"{site} radius", f"{site} angle"
        row_rng = CounterRNG(seed, -1).rows(key[rows], *sites)  # no optimizer step has this number
        # In float32 the logarithm and the cosine differ in the last bit from processor to processor.
        radius, angle = (row_rng.uniform(columns, site).double() for site in sites)
        radius, angle = torch.log1p(-radius).mul_(-2).sqrt_(), angle.mul_(2 * math.pi)
        out[rows] = angle.cos_().mul_(radius).to(out.dtype)
    return out


@cache
def column_hashes(columns: int, device: torch.device) -> Tensor:
    """Hash of each column, the same at every step and site; int32 (columns,)."""
    return _mix64(torch.arange(1, columns + 1, device=device) * 0x632BE59BD9B4E019).to(torch.int32)


def _mix64(x: Tensor) -> Tensor:
    """Source: Steele et al. 2014, SplitMix64, with arithmetic shifts."""
    x = (x ^ (x >> 30)) * _signed(0xBF58476D1CE4E5B9, 64)
    x = (x ^ (x >> 27)) * _signed(0x94D049BB133111EB, 64)
    return x ^ (x >> 31)


def _signed(value: int, bits: int) -> int:
    half = 2 ** (bits - 1)
    return (value + half) % (2 * half) - half
