"""How many answers a query has had since each of them was last one: whose turn it is, where answers take turns."""

import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries


class Turns:
    """How many answers each query has had, and how many it had had when each of its facts was last seen.

    Args:
        keys: The rank's facts, as `query * width + item`, ascending, int64 (num_facts,).
        width: More than any item.
    """

    def __init__(self, keys: Tensor, width: int) -> None:
        self._keys, self._width = keys, width
        # A query's total stands at the first of its facts; a query without facts of the rank has none.
        self._total, self._at_last = (torch.zeros_like(keys, dtype=torch.int32) for _ in range(2))

    def clear(self) -> None:
        """Go back to before the first snapshot."""
        self._total.zero_()
        self._at_last.zero_()

    def insert(self, queries: Queries, query: Tensor, places: Tensor) -> None:
        """Insert the answers of a snapshot.

        Args:
            queries: The queries of all ranks.
            query: Their numbers, as in `keys`, int64 (num_queries,).
            places: Places of the rank's facts of the snapshot in `keys`, distinct, int64 (num_seen,).
        """
        if not len(self._keys):
            return
        first, answers = self._first(query), torch.bincount(queries.answer_query, minlength=len(query))
        known = self._keys.index_select(0, first) // self._width == query
        self._total.index_add_(0, first[known], answers[known].to(torch.int32))
        of_seen = self._first(self._keys.index_select(0, places) // self._width)
        self._at_last.index_copy_(0, places, self._total.index_select(0, of_seen))

    def since(self, query: Tensor, row: Tensor, places: Tensor) -> Tensor:
        """How many answers a query has had after the snapshot in which a fact of it was last seen, (num_facts,).

        Args:
            query: Numbers of queries, int64 (num_queries,).
            row: Which of them has each fact, int64 (num_facts,).
            places: Places of the facts in `keys`, int64 (num_facts,).
        """
        if not len(places):
            return places
        total = self._total.index_select(0, self._first(query))
        return (total.index_select(0, row) - self._at_last.index_select(0, places)).long()

    def _first(self, query: Tensor) -> Tensor:
        """Place of the first fact of each query that has one, else any place."""
        return torch.searchsorted(self._keys, query * self._width).clamp_(max=len(self._keys) - 1)
