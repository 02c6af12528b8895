"""Scores that say little: a few pairs before a background that all queries of a relation share.

They are ranked from how many candidates have each value of the background, corrected for the pairs, so that nothing
of the size (queries, candidates) is ever made. The ranks are those of the written-out scores, to the last tie.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gam_kg.data.ragged import offsets_of, ragged_ranges

_VALUES_AT_ONCE = 2**22


@dataclass(frozen=True)
class Background:
    """What candidates score for a query by its background, of which there are some; each has the same levels.

    Attributes:
        values: What a candidate of each level scores, ascending, float64 (num_backgrounds, num_levels).
        number: How many of the rank's candidates are of each level, int64 (num_backgrounds, num_levels).
        level: Gives the levels of pairs (background, row of the candidate), int64 (num_pairs,) → int64 (num_pairs,).
    """

    values: Tensor
    number: Tensor
    level: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def zero(cls, num_candidates: int, device: torch.device) -> "Background":
        """One background before which all candidates score zero."""
        return cls(
            torch.zeros(1, 1, dtype=torch.float64, device=device),
            torch.full((1, 1), num_candidates, device=device),
            lambda background, _: torch.zeros_like(background),
        )

    def of(self, background: Tensor, row: Tensor) -> Tensor:
        """The scores of pairs (background, candidate), float64 (num_pairs,)."""
        return self.values[background, self.level(background, row)]

    def scaled(self, factor: Tensor) -> "Background":
        """The same, its scores multiplied by factors that are not negative, float64 (num_backgrounds, 1)."""
        return Background(self.values * factor, self.number, self.level)

    def rivals(self, background: Tensor, target: Tensor) -> Tensor:
        """How many candidates score above a target, plus how many score at least as much, int64 (num_targets,)."""
        least = functional.pad(self.number.flip(1).cumsum(1).flip(1), (0, 1))  # candidates of a level or above
        rivals = torch.empty_like(background)
        # In parts, for each target is looked for among the levels of its background.
        for rows in torch.arange(len(target), device=target.device).split(
            max(1, _VALUES_AT_ONCE // self.values.shape[1])
        ):
            values, goal = self.values[background[rows]], target[rows, None]
            at_least, above = (torch.searchsorted(values, goal, right=right) for right in (False, True))
            rivals[rows] = least[background[rows, None], torch.cat([at_least, above], 1)].sum(1)
        return rivals


@dataclass(frozen=True)
class SparseScores:
    """Scores of some (query, candidate) pairs, and of all others the background; `Scores`.

    Attributes:
        background: What scores are before pairs.
        query_background: Which background each query has, int64 (num_queries,).
        num_rows: Candidates of the rank.
        pair: `query * num_rows + row` of each pair, distinct, ascending, int64 (num_pairs,).
        score: What the pairs score in all, float64 (num_pairs,).
        without: What they would score by the background alone, float64 (num_pairs,).
    """

    background: Background
    query_background: Tensor
    num_rows: int
    pair: Tensor
    score: Tensor
    without: Tensor

    @classmethod
    def of_pairs(
        cls, background: Background, query_background: Tensor, num_rows: int, pair: Tensor, score: Tensor
    ) -> "SparseScores":
        """Scores that pairs add to the background.

        Args:
            background: What scores are before pairs.
            query_background: Which background each query has, int64 (num_queries,).
            num_rows: Candidates of the rank.
            pair: `query * num_rows + row` of each pair, distinct, in any order, int64 (num_pairs,).
            score: What each pair adds, float64 (num_pairs,).
        """
        pair, order = torch.sort(pair)
        query, row = pair // max(1, num_rows), pair % max(1, num_rows)
        without = background.of(query_background[query], row)
        return cls(background, query_background, num_rows, pair, score[order] + without, without)

    def dense(self) -> Tensor:
        """The scores written out, float64 (num_queries, num_rows)."""
        shape = (len(self.query_background), self.num_rows)
        query, row = torch.cartesian_prod(*(torch.arange(size, device=self.pair.device) for size in shape)).T
        return self.of(query, row).view(shape)

    def of(self, query: Tensor, row: Tensor) -> Tensor:
        """As of `Scores`."""
        scores = self.background.of(self.query_background[query], row)
        if not len(self.pair):
            return scores
        pair = query * self.num_rows + row
        place = torch.searchsorted(self.pair, pair).clamp(max=len(self.pair) - 1)
        return torch.where(self.pair[place] == pair, self.score[place], scores)

    def compare(self, query: Tensor, target: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Scores`."""
        rivals = self.background.rivals(self.query_background[query], target)
        pair_query = self.pair // max(1, self.num_rows)
        start, length = offsets_of(pair_query, len(self.query_background))
        answer, pair = ragged_ranges(start[query], length[query])
        goal = target.index_select(0, answer)
        for scores, sign in ((self.score, 1), (self.without, -1)):
            score = scores.index_select(0, pair)
            rivals.index_add_(0, answer, (score > goal).long() + (score >= goal), alpha=sign)
        return rivals, self._bad(pair_query)

    def _bad(self, pair_query: Tensor) -> Tensor:
        there = self.background.number > 0
        bad = (there & ~torch.isfinite(self.background.values)).any(1)[self.query_background]
        bad[pair_query[~torch.isfinite(self.score)]] = True
        return bad
