"""Scores that say little: a few pairs before a background that all queries of a relation share.

They are ranked from how many candidates have each value of the background, corrected for the pairs, so that nothing
of the size (queries, candidates) is ever made. The ranks are those of the written-out scores, to the last tie.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gam_kg.ops.ragged import ragged_ranges, row_ranges

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

    def of(self, background: Tensor, row: Tensor) -> Tensor:
        """The scores of pairs (background, candidate), float64 (num_pairs,)."""
        return self.values[background, self.level(background, row)]

    def rivals(self, background: Tensor, target: Tensor) -> Tensor:
        """How many candidates score above a target, plus how many score at least as much, int64 (num_targets,)."""
        least = functional.pad(self.number.flip(1).cumsum(1).flip(1), (0, 1))  # candidates of a level or above
        rivals = torch.empty_like(background)
        # In parts, as each target takes a copy of the values of its background.
        part = max(1, _VALUES_AT_ONCE // self.values.shape[1])
        for rows in torch.arange(len(target), device=target.device).split(part):
            values, goal = self.values[background[rows]], target[rows, None]
            at_least, above = (torch.searchsorted(values, goal, right=right) for right in (False, True))
            rivals[rows] = least[background[rows, None], torch.cat([at_least, above], 1)].sum(1)
        return rivals


class SparseScores:
    """`Scores` of a background, to which some (query, candidate) pairs add.

    Args:
        background: What scores are before pairs.
        query_background: Which background each query has, int64 (num_queries,).
        num_rows: Candidates of the rank.
        pair: `query * num_rows + row` of each pair, distinct, in any order, int64 (num_pairs,).
        score: What each pair adds, float64 (num_pairs,).
    """

    def __init__(
        self, background: Background, query_background: Tensor, num_rows: int, pair: Tensor, score: Tensor
    ) -> None:
        self.device, self._num_rows = score.device, num_rows
        self._background, self._query_background = background, query_background
        self._pair, order = torch.sort(pair)
        self._pair_query = self._pair // max(1, num_rows)
        self._without = background.of(query_background[self._pair_query], self._pair % max(1, num_rows))
        self._score = self._without + score[order]

    def dense(self) -> Tensor:
        """The scores written out, float64 (num_queries, num_rows)."""
        shape = (len(self._query_background), self._num_rows)
        query, row = torch.cartesian_prod(*(torch.arange(size, device=self.device) for size in shape)).T
        return self.of(query, row).view(shape)

    def of(self, query: Tensor, row: Tensor) -> Tensor:
        scores = self._background.of(self._query_background[query], row)
        if not len(self._pair):
            return scores
        pair = query * self._num_rows + row
        place = torch.searchsorted(self._pair, pair).clamp(max=len(self._pair) - 1)
        return torch.where(self._pair[place] == pair, self._score[place], scores)

    def compare(self, query: Tensor, target: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        rivals = self._background.rivals(self._query_background[query], target)
        start, length = row_ranges(self._pair_query, len(self._query_background))
        answer, pair = ragged_ranges(start[query], length[query])
        goal = target.index_select(0, answer)
        for scores, sign in ((self._score, 1), (self._without, -1)):
            score = scores.index_select(0, pair)
            rivals.index_add_(0, answer, (score > goal).long() + (score >= goal), alpha=sign)
        of_candidates = self._background.number > 0
        bad = (of_candidates & ~torch.isfinite(self._background.values)).any(1)[self._query_background]
        bad[self._pair_query[~torch.isfinite(self._score)]] = True
        return rivals, bad
