"""Mean reciprocal rank and hits as a state that merges by counts and sums, never as averages of averages."""

from dataclasses import dataclass

import numpy as np

_HITS = (1, 3, 10)


@dataclass(frozen=True)
class RankSummary:
    """Sums over ranks.

    Attributes:
        count: Number of ranks.
        reciprocal: Sum of 1 / rank.
        hits: Number of ranks at most 1, 3 and 10.
    """

    count: int = 0
    reciprocal: float = 0.0
    hits: tuple[int, ...] = (0, 0, 0)

    @classmethod
    def of(cls, ranks: np.ndarray) -> "RankSummary":
        """Summary of realistic ranks, float (num_ranks,)."""
        return cls(len(ranks), float((1 / ranks).sum()), tuple(int((ranks <= limit).sum()) for limit in _HITS))

    def merge(self, other: "RankSummary") -> "RankSummary":
        """Summary of both sets of ranks."""
        hits = tuple(mine + theirs for mine, theirs in zip(self.hits, other.hits, strict=True))
        return RankSummary(self.count + other.count, self.reciprocal + other.reciprocal, hits)

    def compute(self) -> dict[str, float]:
        """`mrr`, `hits@1`, `hits@3`, `hits@10` in [0, 1] (0 without ranks) and `count`."""
        sums = {"mrr": self.reciprocal} | {f"hits@{k}": hits for k, hits in zip(_HITS, self.hits, strict=True)}
        return {name: value / max(1, self.count) for name, value in sums.items()} | {"count": self.count}
