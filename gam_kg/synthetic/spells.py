"""Spells: times that a fact holds, in every snapshot of which it is stated."""

from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class SpellLaw:
    """How the spells of a relation begin and end.

    In each snapshot a spell goes on with one probability. Where it does not, and in a series without a fact, a spell
    begins with another probability, so that gaps may be empty. All this is independent of the past, so lengths are
    geometric, and what a series will do depends only on whether it has a fact now.

    Attributes:
        survive: Probability that a fact is stated again in the next snapshot, because its spell goes on.
        begin: Probability that a spell begins in a snapshot, where none goes on.
    """

    survive: float
    begin: float

    @classmethod
    def of(cls, mean_length: int, density: float) -> Self:
        """The law whose spells have a mean length, and whose series have a fact in a share of their snapshots."""
        survive = 1 - 1 / mean_length
        return cls(survive, density * (1 - survive) / (1 - density * survive))

    @property
    def density(self) -> float:
        """Share of the snapshots in which a series has a fact, in the long run."""
        return self.begin / (1 - self._forget)

    @property
    def _forget(self) -> float:
        return self.survive * (1 - self.begin)

    def same(self, horizon: np.ndarray) -> np.ndarray:
        """Probability that a spell of now goes on for so many snapshots."""
        return self.survive**horizon

    def another(self, horizon: np.ndarray) -> np.ndarray:
        """Probability that a series with a fact now has one of another spell so many snapshots later."""
        return self.density + (1 - self.density) * self._forget**horizon - self.same(horizon)

    def begun(self, horizon: np.ndarray) -> np.ndarray:
        """Probability that a series without a fact now has one so many snapshots later; never below `another`."""
        return self.density * (1 - self._forget**horizon)

    def draw(self, born: np.ndarray, end: int, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw the spells of series.

        Args:
            born: Snapshot in which each series starts, (num_series,): without a fact before, except that those of
                snapshot 0 have a past.
            end: Number of snapshots.
            generator: Source of the draws.

        Returns:
            Index of the series, first snapshot and length of each spell, int64 (num_spells,), by series and time.
        """
        series, found = np.arange(len(born)), []
        under_way = (born == 0) & (generator.random(len(born)) < self.density)
        start = np.where(under_way, 0, born + self._gap(len(born), end, generator) + (born == 0))
        while len(series):
            series, start = series[start < end], start[start < end]
            length = np.minimum(generator.geometric(1 - self.survive, len(series)), end - start)
            found.append(np.stack([series, start, length]))
            start = start + length + self._gap(len(series), end, generator)
        spells = np.concatenate(found, axis=1)
        return tuple(spells[:, np.lexsort(spells[1::-1])])

    def _gap(self, number: int, end: int, generator: np.random.Generator) -> np.ndarray:
        """Snapshots until a spell begins, at most so many as there are."""
        return np.minimum(generator.geometric(self.begin, number) - 1, end)
