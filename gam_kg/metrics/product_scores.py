"""Scores that are inner products of a query and a candidate, plus what some pairs add: those of a model.

The products of queries with many candidates fit neither cache nor memory, and moving them takes longer than computing
them. So they are compared, or the best are found, tile by tile as they are computed.

The rounding of a product depends on its shape, the column and the processor. So a target is computed once, before the
tiles, and written into its tile: an answer equals itself without a second product.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gam_kg.metrics.ranks import not_finite, rivals_of
from gam_kg.ops.precision import float32_products
from gam_kg.ops.ragged import select, unique_inverse
from gam_kg.ops.top_k import TopK

_SCORES_IN_CACHE = 2**18
_SCORES_TO_SCREEN = 2**20  # finding the best takes several passes over a tile, of which small ones are slower
_SCORES_AT_ONCE = 2**24
_FEWEST_QUERIES = 16  # tiles are no wider for fewer: the product for the targets alone is one tile more
_FEW_QUERIES = 8
_MOST_IN_A_BYTE = 255

_Cells = list[tuple[Tensor, Tensor]]
"""Of each tile: positions in the flattened tile, int64 (num_cells,), and their values, (num_cells,)."""


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

    @classmethod
    def mean(cls, parts: Sequence["ProductScores"]) -> "ProductScores":
        """The mean of several scores of the same queries and candidates."""
        # A sum of inner products is the inner product of longer vectors.
        query, candidates = (torch.cat([getattr(one, name) for one in parts], 1) for name in ("query", "candidates"))
        names = "pair_query", "pair_row", "pair_score"
        pair_query, pair_row, pair_score = (torch.cat([getattr(one, name) for one in parts]) for name in names)
        return cls(query / len(parts), candidates, pair_query, pair_row, pair_score / len(parts))

    @property
    def device(self) -> torch.device:
        return self.query.device

    @float32_products()
    def of(self, query: Tensor, row: Tensor) -> Tensor:
        scores, width = self.query.new_empty(len(row)), max(1, self._width)
        rows, index = unique_inverse(row)
        # Products of the shape of a tile are rounded like it, as a rule: candidates with equal vectors then tie.
        for start in range(0, len(rows), width):
            some = rows[start : start + width]
            table = self._product(self.candidates[torch.cat([some, some.new_zeros(width - len(some))])])
            here = torch.nonzero((index >= start) & (index < start + width))[:, 0]
            scores[here] = table[query[here], index[here] - start]
        return scores + self._added_to(query, row)

    def among(self, rows: Tensor) -> "ProductScores":
        """The scores of some candidates only, `rows`, ascending, int64 (num_rows,)."""
        place = torch.searchsorted(rows, self.pair_row).clamp(max=max(0, len(rows) - 1))
        pairs = select(rows[place] == self.pair_row, self.pair_query, place, self.pair_score)
        return ProductScores(self.query, self.candidates[rows], *pairs)

    @float32_products()
    def best(
        self, k: int, *, longest: float = 1.0, look: Callable[[Tensor], None] = lambda _: None
    ) -> tuple[Tensor, Tensor]:
        """The k best candidates of each query by their `exact` scores, of equal ones those of the smallest rows.

        Args:
            k: How many, at most the number of candidates.
            longest: The length of the longest candidate, at least.
            look: Called with the scores of all candidates, some columns at a time, (num_queries, num_columns), which it
                may overwrite.

        Returns:
            Rows, int64, and exact scores, best first; (num_queries, k) each.

        Raises:
            EvaluationError: A score is NaN or infinite.
        """
        best = TopK(k, self.exact, self._error(longest))
        for start, tile in self._tiles(self._width_for(_SCORES_TO_SCREEN)):
            best.add(start, tile)
            look(tile)
        return best.best()

    def exact(self, query: Tensor, row: Tensor) -> Tensor:
        """The scores of pairs, (num_pairs,): products in double precision, rounded once, in whatever tiles.

        They are exact for the vectors in `query`. These are float32, and may differ by rounding with the batch that
        they were made in; so may the scores of a query, then.

        Args:
            query: int64 (num_pairs,).
            row: Candidates, likewise.
        """
        products, size = [self.query.new_zeros(0).double()], max(1, _SCORES_IN_CACHE // max(1, self.query.shape[1]))
        for some, rows in zip(query.split(size), row.split(size), strict=True):
            products.append((self.query[some].double() * self.candidates[rows].double()).sum(1))
        return (torch.cat(products) + self._added_to(query, row)).to(self.query.dtype)

    def _error(self, longest: float) -> Tensor:
        """What a score in a tile differs from the exact one at most, in whatever order it is summed, (num_queries,)."""
        pairs, added = self._added
        size = torch.linalg.vector_norm(self.query, dim=1) * longest
        size += torch.zeros_like(size).scatter_reduce(0, pairs % max(1, len(self.query)), added.abs(), "amax")
        # Rounded are each of `dim` products and sums, the sum with what is added, and the exact score.
        return size * (self.query.shape[1] + 4) * (torch.finfo(size.dtype).eps / 2)

    def _added_to(self, query: Tensor, row: Tensor) -> Tensor:
        """What is added to the products of pairs, (num_pairs,)."""
        pairs, added = self._added
        if not len(pairs):
            return self.query.new_zeros(len(row))
        pair = row * max(1, len(self.query)) + query
        place = torch.searchsorted(pairs, pair).clamp(max=len(pairs) - 1)
        return torch.where(pairs[place] == pair, added[place], 0.0)

    @float32_products()
    def compare(self, query: Tensor, target: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        own = torch.nonzero(row >= 0)[:, 0]
        width = self._width
        targets = self._cells(query[own], row[own], target[own], width)
        counts, total = _Counts(query, target, len(self.query), width), self.query.new_zeros(len(self.query))
        for _, tile in self._tiles(width, targets):
            total += tile.sum(1)
            counts.add(tile)
        bad = ~torch.isfinite(total)
        if bool(bad.any()):  # a sum may also overflow
            bad = torch.stack([not_finite(tile) for _, tile in self._tiles(width, targets)]).any(0)
        return counts.total(), bad

    def _tiles(self, width: int, targets: _Cells | None = None) -> Iterator[tuple[int, Tensor]]:
        """The scores of all candidates, some columns at a time.

        Yields:
            The first column, and the scores (num_queries, num_columns), overwritten by the next.

        Given targets replace the scores in their cells, so that answers equal themselves and compare with the other
        answers of their query as the targets do.
        """
        num_rows, (pairs, added) = len(self.candidates), self._added
        cells = self._cells(pairs % max(1, len(self.query)), pairs // max(1, len(self.query)), added, width)
        shape = (width, len(self._queries)) if self._few else (len(self._queries), width)
        table = self.query.new_empty(shape)
        table = table.T if self._few else table
        flat = table.as_strided((table.numel(),), (1,))
        for number, start in enumerate(range(0, num_rows, max(1, width))):
            # The last tile starts early to be as wide as the others; what it shares with the one before is left out.
            at = min(start, num_rows - width)
            self._product(self.candidates[at : at + width], out=table)
            flat.index_add_(0, *cells[number])
            if targets is not None:
                flat.index_copy_(0, *targets[number])
            yield start, table[: len(self.query), start - at :]

    def _cells(self, query: Tensor, row: Tensor, value: Tensor, width: int) -> _Cells:
        """The cells of pairs (query, row) in tiles of a width, and their values, (num_cells,) each."""
        num_rows, width = len(self.candidates), max(1, width)
        row, order = torch.sort(row)
        tile = row // width
        column, num_queries = row - torch.clamp(tile * width, max=num_rows - width), len(self._queries)
        position = query[order] + column * num_queries if self._few else query[order] * width + column
        sizes = torch.bincount(tile, minlength=-(-num_rows // width)).tolist()
        return list(zip(position.split(sizes), value[order].split(sizes), strict=True))

    def _product(self, candidates: Tensor, out: Tensor | None = None) -> Tensor:
        """Products with some candidates, (len(self._queries), num_candidates)."""
        if self._few:
            return torch.mm(candidates, self._queries.T, out=None if out is None else out.T).T
        return torch.mm(self._queries, candidates.T, out=out)

    @property
    def _few(self) -> bool:
        """Whether queries are so few that their scores lie side by side in memory, which takes half the time."""
        return len(self._queries) <= _FEW_QUERIES

    @cached_property
    def _queries(self) -> Tensor:
        """The queries; a single one twice, as a product of one row is rounded differently in the last columns."""
        return self.query if len(self.query) != 1 else self.query.repeat(2, 1)

    @property
    def _width(self) -> int:
        """Columns of a tile whose scores are compared."""
        return self._width_for(_SCORES_IN_CACHE)

    def _width_for(self, most: int) -> int:
        """Columns of a tile of about `most` scores: a multiple of 64, as the last ones of others are rounded apart."""
        most = most if self.query.device.type == "cpu" else _SCORES_AT_ONCE
        width, num_rows = most // max(_FEWEST_QUERIES, len(self.query)), len(self.candidates)
        return min(max(1, width // 64) * 64, num_rows // 64 * 64 or num_rows)

    @cached_property
    def _added(self) -> tuple[Tensor, Tensor]:
        """`row * num_queries + query` of the distinct pairs, ascending, and what is added to each in all."""
        pairs, index = unique_inverse(self.pair_row * max(1, len(self.query)) + self.pair_query)
        return pairs, self.pair_score.new_zeros(len(pairs)).index_add_(0, index, self.pair_score)


class _Counts:
    """Rivals of targets, counted tile by tile.

    Args:
        query: Query of each target, ascending, int64 (num_targets,).
        target: (num_targets,).
        num_queries: Rows of a tile.
        width: Columns of a tile, at most.
    """

    def __init__(self, query: Tensor, target: Tensor, num_queries: int, width: int) -> None:
        is_first = torch.ones_like(query, dtype=torch.bool)
        is_first[1:] = query[1:] != query[:-1]
        # One target of each query is compared with the tile as it is, the others with its rows one by one.
        is_whole = is_first if int(is_first.sum()) == num_queries else torch.zeros_like(is_first)
        self._whole, self._rest = (torch.nonzero(mask)[:, 0] for mask in (is_whole, ~is_whole))
        self._query, self._target, self._total = query, target, torch.zeros_like(query)
        if query.device.type == "cpu":
            # Counts of all tiles are added up in one tile of bytes: that is faster than adding along rows.
            self._goal = target[self._whole].numpy()[:, None]
            self._found = np.empty((len(self._whole), width), np.bool_)
            self._bytes, self._in_bytes = np.zeros((len(self._whole), width), np.uint8), 0
            rest = self._rest.tolist(), query[self._rest].tolist(), target[self._rest].numpy()
            self._single = list(zip(*rest, strict=True))

    def add(self, tile: Tensor) -> None:
        """Count in a tile, (num_queries, num_columns)."""
        if tile.device.type == "cpu":
            self._add_in_cache(tile.numpy())
            return
        if len(self._whole):
            self._total[self._whole] += rivals_of(tile, self._target[self._whole])
        for part in self._rest.split(max(1, _SCORES_AT_ONCE // max(1, tile.shape[1]))):
            self._total[part] += rivals_of(tile[self._query[part]], self._target[part])

    def _add_in_cache(self, tile: np.ndarray) -> None:
        if len(self._whole):
            found, counts = self._found[:, : tile.shape[1]], self._bytes[:, : tile.shape[1]]
            for compare in (np.greater, np.greater_equal):
                compare(tile, self._goal, out=found)
                counts += found.view(np.uint8)
            self._in_bytes += 2
            if self._in_bytes + 2 > _MOST_IN_A_BYTE:
                self._empty_bytes()
        for place, query, goal in self._single:
            row = tile[query]
            self._total[place] += int(np.count_nonzero(row > goal) + np.count_nonzero(row >= goal))

    def total(self) -> Tensor:
        """The counts, int64 (num_targets,)."""
        if self._total.device.type == "cpu":
            self._empty_bytes()
        return self._total

    def _empty_bytes(self) -> None:
        self._total[self._whole] += torch.from_numpy(self._bytes.sum(1, dtype=np.int64))
        self._bytes.fill(0)
        self._in_bytes = 0
