"""The popularity of candidates for relations, told only of those that a sampled step meets."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.data.past import Popularity, log_bucket
from gam_kg.data.ragged import distinct, in_order, offsets_of, where
from gam_kg.data.recency import LATER, Cut, RecencyIndex


@dataclass(frozen=True)
class Popular:
    """The most recent objects of the relations asked about in a moment.

    It reads the index that it is of, and so goes no further than the next snapshot that this is told of.

    Attributes:
        index: Objects by relation; items are rows of the shard.
        time: The moment, from which recency counts.
        relations: Relations asked about, ascending, int64 (num_relations,).
        row: Relation of each object, as its place there, int64 (num_objects,), ascending.
        key: Place of (relation, object) among the keys of the index, int64 (num_objects,).
        other: The objects, int64 (num_objects,).
    """

    index: RecencyIndex
    time: int
    relations: Tensor
    row: Tensor
    key: Tensor
    other: Tensor

    @classmethod
    def none(cls, index: RecencyIndex, time: int, like: Tensor) -> "Popular":
        """Of no relations yet; `like` is any tensor of the same device."""
        nothing = torch.zeros(0, dtype=torch.int64, device=like.device)
        return cls(index, time, nothing, nothing, nothing, nothing)

    def also(self, relations: Tensor, reach: int | Cut) -> "Popular":
        """The same with more relations.

        Args:
            relations: Distinct, int64 (num_asked,); those that it has are not looked up again.
            reach: How far back, as of `RecencyIndex.recent`.
        """
        (new,) = torch.nonzero(~torch.isin(relations, self.relations), as_tuple=True)
        if not len(new):
            return self
        more, reach = relations.index_select(0, new), reach.select(new) if isinstance(reach, Cut) else reach
        row, key = self.index.recent_keys(more, reach)
        known = distinct(torch.cat([self.relations, more]))
        relation = torch.cat([self.relations.index_select(0, self.row), more.index_select(0, row)])
        row, key = torch.searchsorted(known, relation), torch.cat([self.key, key])
        if len(self.relations):
            row, order = in_order(row)
            key = key.index_select(0, order)
        return Popular(self.index, self.time, known, row, key, self.index.items(key))

    def only(self, relations: Tensor) -> "Popular":
        """The part of some of its relations, ascending, int64 (num_asked,)."""
        if len(relations) == len(self.relations):
            return self
        place = torch.full_like(self.relations, -1)
        place[torch.searchsorted(self.relations, relations)] = torch.arange(len(relations), device=place.device)
        row = place.index_select(0, self.row)
        return Popular(self.index, self.time, relations, *where(row >= 0, row, self.key, self.other))

    def among(self, wanted: Callable[[Tensor], Tensor]) -> Popularity:
        """Of some candidates.

        Args:
            wanted: Tells of candidates, int64 (num_objects,), whether they are, bool (num_objects,).
        """
        row, key, other = where(wanted(self.other), self.row, self.key, self.other)
        return Popularity(self.relations, self.relations[:0], row, other, *self._buckets(key))

    def of_pairs(self, row: Tensor, other: Tensor) -> tuple[Tensor, Popularity]:
        """Of pairs of a relation and a candidate, in any order and any number of times.

        Args:
            row: Place of the relation, int64 (num_pairs,).
            other: int64 (num_pairs,).

        Returns:
            Which of the pairs have any, int64 (num_found,), and what these have.
        """
        key, there = self.index.find(self.relations.index_select(0, row), other)
        (pair,) = torch.nonzero(there, as_tuple=True)
        row, other, key = (values.index_select(0, pair) for values in (row, other, key))
        start, length = offsets_of(self.row, len(self.relations))
        # Within a relation objects are by how recent they are: those from the least recent one on are all there.
        least = torch.full_like(start, LATER)
        least[length > 0] = self.index.order(self.key.index_select(0, start[length > 0]))
        recent = self.index.order(key) >= least.index_select(0, row)
        pair, row, other, key = where(recent, pair, row, other, key)
        return pair, Popularity(self.relations, self.relations[:0], row, other, *self._buckets(key))

    def _buckets(self, key: Tensor) -> tuple[Tensor, Tensor]:
        last, count = self.index.seen_last(key)
        return log_bucket(self.time - last), log_bucket(count)
