"""Scores that are inner products of a query and a candidate, plus what some pairs add: those of a model.

Where candidates are many, the products of a few queries with all of them are more than a cache or a memory holds, and
moving them takes longer than computing them. Here they are compared tile by tile as they are computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gam_kg.metrics.ranks import not_finite, rivals_of

_SCORES_IN_CACHE = 2**18
_SCORES_AT_ONCE = 2**26
_MOST_IN_A_BYTE = 255


@dataclass(frozen=True)
class ProductScores:
    """⟨query, candidate⟩, plus what pairs add; `Scores`.

    Attributes:
        query: (num_queries, dim).
        candidates: Vectors of the rank's candidates, (num_rows, dim).
        pair_query, pair_row: int64 (num_pairs,); a pair may be there several times.
        pair_score: What each adds, (num_pairs,).
    """

    query: Tensor
    candidates: Tensor
    pair_query: Tensor
    pair_row: Tensor
    pair_score: Tensor

    def of(self, query: Tensor, row: Tensor) -> Tensor:
        """As of `Scores`."""
        scores = self.query.new_empty(len(row))
        rows, index = torch.unique(row, return_inverse=True)
        # In products of the very shape of a tile: those of equal vectors are then equal to the last bit.
        for start in range(0, len(rows), max(1, self._width)):
            held = rows[start : start + self._width]
            padded = torch.cat([held, held.new_zeros(self._width - len(held))])
            table = self.query @ self.candidates[padded].T
            here = torch.nonzero((index >= start) & (index < start + self._width))[:, 0]
            scores[here] = table[query[here], index[here] - start]
        pairs, added = self._added
        if len(pairs):
            pair = row * max(1, len(self.query)) + query
            place = torch.searchsorted(pairs, pair).clamp(max=len(pairs) - 1)
            scores = torch.where(pairs[place] == pair, scores + added[place], scores)
        return scores

    def compare(self, query: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Scores`."""
        bad = torch.zeros(len(self.query), dtype=torch.bool, device=query.device)
        counts = _Counts(query, target, self._width)
        for tile in self._tiles():
            bad |= not_finite(tile)
            counts.add(tile)
        return counts.total(), bad

    def _tiles(self) -> Iterator[Tensor]:
        """The scores of all candidates, some columns at a time; (num_queries, num_columns), overwritten by the next."""
        num_rows, width, num_queries = len(self.candidates), self._width, max(1, len(self.query))
        pairs, added = self._added
        query, row = pairs % num_queries, pairs // num_queries
        # The last tile starts early to be as wide as the others; what it has in common with the one before is left out.
        first = torch.clamp(row // max(1, width) * width, max=num_rows - width)
        position = query * width + row - first
        starts = list(range(0, num_rows, max(1, width)))
        bounds = torch.searchsorted(row, torch.tensor([*starts, num_rows], device=row.device)).tolist()
        table = self.query.new_empty(len(self.query), width)
        for start, low, high in zip(starts, bounds[:-1], bounds[1:], strict=True):
            at = min(start, num_rows - width)
            torch.mm(self.query, self.candidates[at : at + width].T, out=table)
            table.view(-1).index_add_(0, position[low:high], added[low:high])
            yield table[:, start - at :]

    @property
    def _width(self) -> int:
        """Columns of a tile."""
        most = _SCORES_IN_CACHE if self.query.device.type == "cpu" else _SCORES_AT_ONCE
        width = max(most // max(1, len(self.query)) // 64, 1) * 64
        return min(width, len(self.candidates))

    @cached_property
    def _added(self) -> tuple[Tensor, Tensor]:
        """`row * num_queries + query` of the distinct pairs, ascending, and what is added to each in all."""
        key = self.pair_row * max(1, len(self.query)) + self.pair_query
        pairs, index = torch.unique(key, return_inverse=True)
        return pairs, self.pair_score.new_zeros(len(pairs)).index_add_(0, index, self.pair_score)


class _Counts:
    """Rivals of targets, counted tile by tile.

    Args:
        query: Of each target, int64 (num_targets,).
        target: (num_targets,).
        width: Columns of a tile, at most.
    """

    def __init__(self, query: Tensor, target: Tensor, width: int) -> None:
        self._query, self._target = query, target
        self._one_each = bool((query == torch.arange(len(query), device=query.device)).all())
        self._total = torch.zeros_like(query)
        if query.device.type == "cpu":
            shape = (len(query), width)
            self._goal, self._greater = target[:, None].numpy(), np.empty(shape, np.bool_)
            # Counts of tiles lie one over another in bytes: adding tiles is faster than adding along rows.
            self._bytes, self._in_bytes = np.zeros(shape, np.uint8), 0

    def add(self, tile: Tensor) -> None:
        """Count in a tile, (num_queries, num_columns)."""
        candidates = tile if self._one_each and len(tile) == len(self._query) else tile.index_select(0, self._query)
        if tile.device.type != "cpu":
            self._total += rivals_of(candidates, self._target)
            return
        scores, columns = candidates.numpy(), slice(0, tile.shape[1])
        for compare in (np.greater, np.greater_equal):
            found = compare(scores, self._goal, out=self._greater[:, columns])
            self._bytes[:, columns] += found.view(np.uint8)
        self._in_bytes += 2
        if self._in_bytes + 2 > _MOST_IN_A_BYTE:
            self._empty_bytes()

    def total(self) -> Tensor:
        """What was counted, int64 (num_targets,)."""
        if self._total.device.type == "cpu":
            self._empty_bytes()
        return self._total

    def _empty_bytes(self) -> None:
        self._total += torch.from_numpy(self._bytes.sum(1, dtype=np.int64))
        self._bytes.fill(0)
        self._in_bytes = 0
