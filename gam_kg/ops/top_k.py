"""The best of scores that come a tile of columns at a time: exact, although the scores of a tile are rounded."""

from collections.abc import Callable

import torch
from torch import Tensor

from gam_kg.ops.finite import require_finite
from gam_kg.ops.ragged import row_ranges, select

_MOST_PENDING = 2**20
_GROUP = 256


class TopK:
    """The k best columns of each row of a table, by exact scores; of equal ones those with the smallest numbers.

    The scores of the tiles only screen: the columns that may be among the best are then scored exactly.

    Args:
        k: How many; the table has at least this many columns.
        exact: Maps rows and columns, int64 (num_pairs,) each, to exact scores, (num_pairs,).
        error: What a score in a tile differs from the exact one at most, (num_rows,).
    """

    def __init__(self, k: int, exact: Callable[[Tensor, Tensor], Tensor], error: Tensor) -> None:
        self._k, self._exact, self._slack = k, exact, 2 * error
        self._highest = error.new_full((len(error), k), -torch.inf)
        self._floor = torch.full_like(error, torch.finfo(error.dtype).min)
        nothing = torch.zeros(0, dtype=torch.int64, device=error.device)
        self._row, self._column, self._score = nothing, nothing, error[:0]
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._is_new = True

    def add(self, start: int, tile: Tensor) -> None:
        """Screen the next columns, from number `start` on, by their scores, (num_rows, num_columns).

        Raises:
            EvaluationError: A score is NaN or infinite.
        """
        highest = tile.amax(1)
        require_finite(torch.cat([highest, tile.amin(1)]), "scores of the answers")
        if self._is_new and tile.shape[1] >= self._k * _GROUP:
            # So many groups of columns have a score as high as the k-th of their highest ones. Without this bound every
            # column of the first tile would be looked at.
            groups = tile[:, : tile.shape[1] // _GROUP * _GROUP].unflatten(1, (-1, _GROUP)).amax(2)
            self._floor = self._below(groups.topk(self._k).values[:, -1], self._slack)
        self._is_new = False
        rows = torch.nonzero(highest >= self._floor)[:, 0]
        if not len(rows):
            return
        tile = tile if len(rows) == len(highest) else tile.index_select(0, rows)
        row, column = torch.nonzero(tile >= self._floor[rows, None], as_tuple=True)
        score, (start_of, length) = tile[row, column], row_ranges(row, len(rows))
        found = tile.new_full((len(rows), self._k + int(length.max())), -torch.inf)
        found[:, : self._k] = self._highest[rows]
        found[row, self._k + torch.arange(len(row), device=row.device) - start_of[row]] = score
        self._highest[rows] = found = found.topk(self._k).values
        self._floor[rows] = floor = self._below(found[:, -1], self._slack[rows])
        row, column = select(score >= floor[row], row, column)
        self._pending.append((rows[row], column + start))
        if sum(len(row) for row, _ in self._pending) > _MOST_PENDING:
            self._settle()

    def best(self) -> tuple[Tensor, Tensor]:
        """Columns, int64, and exact scores of the best, best first; (num_rows, k) each."""
        self._settle()
        return self._column.view(len(self._slack), self._k), self._score.view(len(self._slack), self._k)

    @staticmethod
    def _below(score: Tensor, slack: Tensor) -> Tensor:
        """What a column scores at least that may be as good as one of these scores."""
        return (score - slack).clamp(min=torch.finfo(score.dtype).min)

    def _settle(self) -> None:
        """Score exactly what is pending, and leave the best of each row, best first."""
        nothing = self._row[:0]
        row, column = map(torch.cat, zip((nothing, nothing), *self._pending, strict=True))
        self._pending = []
        score = torch.cat([self._score, self._exact(row, column)])
        row, column = torch.cat([self._row, row]), torch.cat([self._column, column])
        order = torch.argsort(column)
        for key in (-score, row):
            order = order[torch.argsort(key[order], stable=True)]
        row = row[order]
        start, _ = row_ranges(row, len(self._slack))
        first = torch.arange(len(row), device=row.device) - start[row] < self._k
        order = order[first]
        self._row, self._column, self._score = row[first], column[order], score[order]
