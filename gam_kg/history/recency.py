"""The k most recent distinct items of a group, updated snapshot by snapshot.

`SeenKeys` stores when each distinct key (a fact, or an object of a relation) was last seen and how often.
`RecencyIndex` stores the keys of each group in the order in which they were last seen. Both receive snapshots in time
order. Their memory is bounded by the number of distinct keys.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.graph.snapshot import lexical_order
from gam_kg.ops.ragged import (
    find_keys,
    insert_at,
    last_of_each,
    places_in,
    ragged_ranges,
    select,
    sort_with_positions,
    true_positions,
    unique,
)

_MOST_INT32 = torch.iinfo(torch.int32).max
_LEAST = torch.iinfo(torch.int64).min


def new_keys(table: Tensor, keys: Tensor) -> Tensor:
    """Those of some keys in any order that a table, ascending, has not: distinct and ascending."""
    keys = unique(keys)
    return select(~find_keys(table, keys)[1], keys)[0]


def with_keys(table: Tensor, keys: Tensor) -> Tensor:
    """The distinct keys of a table, ascending, and of others in any order."""
    new = new_keys(table, keys)
    return insert_at(table, new, torch.searchsorted(table, new) + torch.arange(len(new)))


class SeenKeys:
    """When each key was last seen, and in how many snapshots.

    Args:
        keys: Every key that will ever be inserted, distinct and ascending, int64 (num_keys,).

    Attributes:
        last: Snapshot in which each key was last seen, -1: never, int64 (num_keys,).
        count: In how many snapshots, int32 (num_keys,).
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys, self.last = keys, torch.full_like(keys, -1)
        self.count = torch.zeros_like(keys, dtype=torch.int32)

    def clear(self) -> None:
        """Go back to before the first snapshot."""
        self.last.fill_(-1)
        self.count.zero_()

    def places(self, keys: Tensor) -> Tensor:
        """Table places of the keys, ascending, without duplicates; (num_keys,) → (num_distinct,)."""
        return torch.searchsorted(self.keys, unique(keys))

    def find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """See `find_keys`."""
        return find_keys(self.keys, keys)

    def insert(self, places: Tensor, time: int) -> None:
        """Insert the keys of a snapshot, given by their distinct places, int64 (num_seen,)."""
        self.last.index_fill_(0, places, time)
        self.count.index_add_(0, places, torch.ones_like(places, dtype=torch.int32))


class KeyTable(SeenKeys):
    """When each key was first and last seen, in how many snapshots, and with what gaps between them.

    Args:
        keys: See `SeenKeys`.

    Attributes:
        first: Snapshot in which each key was first seen, int64 (num_keys,); no meaning where `count` is 0.
        streak: How many snapshots without a gap end in `last`, int32 (num_keys,).
        squared_gaps: Sum of the squares of its gaps, in snapshots, float32 (num_keys,).
    """

    COLUMNS = ("last", "first", "count", "streak", "squared_gaps")

    def __init__(self, keys: Tensor) -> None:
        super().__init__(keys)
        self.first, self.streak = torch.zeros_like(keys), torch.zeros_like(keys, dtype=torch.int32)
        self.squared_gaps = torch.zeros(len(keys), dtype=torch.float32)

    def clear(self) -> None:
        super().clear()
        self.squared_gaps.zero_()

    def insert(self, places: Tensor, time: int) -> None:
        is_new, gap = self.count.index_select(0, places) == 0, time - self.last.index_select(0, places)
        self.first.index_fill_(0, places[is_new], time)
        goes_on = ~is_new & (gap == 1)
        self.streak.index_copy_(0, places, torch.where(goes_on, self.streak.index_select(0, places), 0) + 1)
        self.squared_gaps.index_add_(0, places, torch.where(is_new, 0.0, gap.float() ** 2))
        super().insert(places, time)


@dataclass(frozen=True)
class Recent:
    """Items found by `RecencyIndex.recent`, sorted by row, and in a row from least to most recent.

    Attributes:
        row: Position of the group in the request, int64 (num_found,), ascending.
        item: int64 (num_found,).
        last: Snapshot in which the group last had the item, int64 (num_found,).
        count: In how many snapshots it had it, int64 (num_found,).
        place: Place of (group, item) in the key table, int64 (num_found,).
    """

    row: Tensor
    item: Tensor
    last: Tensor
    count: Tensor
    place: Tensor

    def where(self, mask: Tensor) -> "Recent":
        """The items at which a mask is true, bool (num_found,)."""
        return Recent(*select(mask, *vars(self).values()))


class RecencyIndex:
    """The keys of each group from least to most recent.

    A group has room for twice its distinct keys. A key that is seen again is written behind the others and its old
    place becomes dead; when the room is full, dead places are removed. So a key is moved a constant number of times
    on average, and the k most recent ones are found at the end, whatever the size of the group.

    Args:
        table: The keys, as `group * width + item`.
        width: More than any item.
        tie: Numbers that order items alike in recency and count, int64 → int64; None: the items themselves. They must
            not depend on the future (ids sorted by degree do).
    """

    def __init__(self, table: SeenKeys, width: int, tie: Callable[[Tensor], Tensor] | None = None) -> None:
        self.table, self._width = table, width
        self.tie = tie or (lambda item: item)
        size = len(table.keys)
        dtype = torch.int32 if 2 * size <= _MOST_INT32 else torch.int64
        self._written = torch.zeros(2 * size, dtype=dtype)  # keys, in the room of their group
        self._position = torch.full((size,), -1, dtype=dtype)  # where each key is written
        self._used = torch.zeros(size + 1, dtype=dtype)  # room used, at the first key of each group

    def clear(self) -> None:
        """Go back to before the first snapshot."""
        self._position.fill_(-1)
        self._used.zero_()

    def order(self) -> Tensor:
        """Places of the keys seen so far, group by group, from least to most recent, int64 (num_seen,)."""
        places = self._written.long()
        is_live = torch.zeros_like(places, dtype=torch.bool)
        is_live[self._position[self._position >= 0].long()] = True
        return places[is_live]

    def sorted(self, places: Tensor) -> Tensor:
        """Places of keys seen so far in the order of `order`, which follows from the table, int64 (num_places,)."""
        keys = self.table.keys[places]
        last, count = self.table.last[places], self.table.count[places]
        return places[lexical_order(keys // self._width, last, count, self.tie(keys % self._width))]

    def restore(self, order: Tensor, places: Tensor) -> None:
        """Put the index, still empty, where one was whose `order` this is; `places` are the same, ascending."""
        groups, size = self.table.keys // self._width, len(self.table.keys)
        is_first = torch.ones(size, dtype=torch.bool)
        torch.ne(groups[1:], groups[:-1], out=is_first[1:])
        (first,) = torch.nonzero(is_first, as_tuple=True)
        seen = torch.zeros(size + 1, dtype=torch.int64).index_fill_(0, places + 1, 1).cumsum_(0)
        length = seen.index_select(0, torch.cat([first, torch.tensor([size])])).diff()
        first, length = select(length > 0, first, length)
        self._write(order, ragged_ranges(2 * first, length)[1])
        self._used[first] = length.to(self._used.dtype)

    def insert(self, places: Tensor) -> None:
        """Insert the newest snapshot's keys, after `insert` of the table; distinct ascending places, (num_seen,)."""
        if not len(places):
            return
        keys = self.table.keys.index_select(0, places)
        groups, of_key, length = torch.unique_consecutive(keys // self._width, return_inverse=True, return_counts=True)
        _, order = sort_with_positions(self.tie(keys % self._width))
        weight = of_key * (2**32) + self.table.count[places]
        order = order[sort_with_positions(weight[order])[1]]
        first, end = self._bounds(groups)
        full = self._used[first].long() + length > 2 * (end - first)
        if bool(full.any()):
            self._remove_dead(first[full])
        used = self._used[first].long()
        _, position = ragged_ranges(2 * first + used, length)
        self._write(places[order], position)
        self._used[first] = (used + length).to(self._used.dtype)

    def recent(self, groups: Tensor, limit: int | None = None) -> Recent:
        """The distinct items of each group, at most the `limit` most recent; None for all.

        Of items last seen at the same time, the more frequent are included; `tie` decides the rest.

        Args:
            groups: int64 (num_groups,).
            limit: Items per group.
        """
        stop, used = self._rooms(groups)
        if limit is None:
            return self._at(*self._live(stop - used, used))
        row, places = self._latest(stop, used, limit)
        return self._at(*select(last_of_each(row, len(groups), limit), row, places))

    def find(self, groups: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """See `SeenKeys.find`, of pairs of a group and an item, int64 (num_pairs,) each."""
        return self.table.find(groups * self._width + items)

    def among(self, found: Recent, groups: Tensor, items: Tensor) -> Recent:
        """Those of the (group, item) pairs, (num_pairs,) each, that are in `found`; `row` is the pair's position."""
        place, known = self.find(groups, items)
        is_found = torch.zeros(len(self.table.keys), dtype=torch.bool).index_fill_(0, found.place, True)
        pair = true_positions(known & is_found[place] if len(is_found) else known)
        return self._at(pair, place[pair])

    def _latest(self, stop: Tensor, used: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """Live keys at the end of rooms, further back until there are `limit` of each, or all."""
        groups, found, width = torch.arange(len(stop)), [], used.clamp(max=2 * limit)
        while True:
            length = width.index_select(0, groups)
            row, places = self._live(stop.index_select(0, groups) - length, length)
            row = groups.index_select(0, row)
            short = (torch.bincount(row, minlength=len(stop)) < limit) & (width < used)
            short &= torch.zeros_like(short).index_fill_(0, groups, True)
            if not bool(short.any()):
                found.append((row, places))
                break
            found.append(select(~short.index_select(0, row), row, places))
            groups = true_positions(short)
            width = torch.where(short, torch.minimum(4 * width + 1, used), width)
        if len(found) == 1:
            return found[0]
        row, order = sort_with_positions(torch.cat([row for row, _ in found]))
        return row, torch.cat([places for _, places in found]).index_select(0, order)

    def _rooms(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Where the used room of each group ends, and how long it is."""
        first, end = self._bounds(groups)
        used = torch.where(end > first, self._used[first], 0).long()
        return 2 * first + used, used

    def _live(self, start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        row, position = ragged_ranges(start, length)
        places = self._written.index_select(0, position).long()
        row, places = select(self._position.index_select(0, places) == position, row, places)
        return row, places

    def _at(self, row: Tensor, places: Tensor) -> Recent:
        item = self.table.keys.index_select(0, places) % self._width
        last, count = self.table.last.index_select(0, places), self.table.count.index_select(0, places).long()
        return Recent(row, item, last, count, places)

    def _remove_dead(self, first: Tensor) -> None:
        """Move the live keys of groups, given by their first keys, to the start of their rooms."""
        row, places = self._live(2 * first, self._used[first].long())
        length = torch.bincount(row, minlength=len(first))
        _, position = ragged_ranges(2 * first, length)
        self._write(places, position)
        self._used[first] = length.to(self._used.dtype)

    def _write(self, places: Tensor, position: Tensor) -> None:
        self._written[position] = places.to(self._written.dtype)
        self._position[places] = position.to(self._position.dtype)

    def _bounds(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """First key of each group, and the key after its last."""
        start = groups * self._width
        first, end = places_in(self.table.keys, torch.cat([start, start + self._width])).chunk(2)
        return first, end


def thresholds(items: Tensor, limit: Tensor) -> Tensor:
    """The (last, count, tie) of each group's k-th most recent item, k being its limit.

    Args:
        items: Group, last, count and tie, int64 (num_items, 4).
        limit: Items per group, int64 (num_groups,).

    Returns:
        int64 (num_groups, 3), the least there can be for a group with no more than `limit` items.
    """
    length = torch.bincount(items[:, 0], minlength=len(limit))
    crowded = length > limit
    items = items[crowded[items[:, 0]]]
    items = items[lexical_order(*items.T)]
    end = torch.cumsum(torch.where(crowded, length, 0), 0)
    least = torch.full((len(limit), 3), _LEAST)
    least[crowded] = items[(end - limit)[crowded], 1:]
    return least


def reaches(items: Tensor, least: Tensor) -> Tensor:
    """Whether items reach their group's threshold, bool (num_items,); see `thresholds`."""
    (_, last, count, tie), (least_last, least_count, least_tie) = items.T, least[items[:, 0]].T
    by_count = (count > least_count) | (count == least_count) & (tie >= least_tie)
    return (last > least_last) | (last == least_last) & by_count
