"""The k most recent distinct items of a group, kept up to date as snapshots pass.

`SeenKeys` knows of each distinct key (a fact, or an object of a relation) when it was last seen and how often.
`RecencyIndex` keeps the keys of each group in the order in which they were last seen. Both are told of snapshots in
time order and know nothing of later ones. Their memory is bounded by the number of distinct keys.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.data.ragged import distinct, in_order, ragged_ranges, where

LATER = torch.iinfo(torch.int64).max
_MOST_INT32 = torch.iinfo(torch.int32).max


class SeenKeys:
    """When each of some keys was last seen, and in how many snapshots.

    Args:
        keys: Every key that will ever be seen, distinct and ascending, int64 (num_keys,).
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self.last = torch.full_like(keys, -1)
        self.count = torch.zeros_like(keys, dtype=torch.int32)

    def clear(self) -> None:
        """Forget what was seen."""
        self.last.fill_(-1)
        self.count.zero_()

    def find(self, keys: Tensor) -> Tensor:
        """Places of the distinct ones of some keys, ascending, int64 (num_distinct,).

        Args:
            keys: Some of the keys, in any order and any number of times, int64 (num_asked,).
        """
        return torch.searchsorted(self.keys, distinct(keys))

    def add(self, ids: Tensor, time: int) -> None:
        """See keys in a snapshot.

        Args:
            ids: Their places, distinct, int64 (num_seen,).
            time: The snapshot.
        """
        self.last.index_fill_(0, ids, time)
        self.count.index_add_(0, ids, torch.ones_like(ids, dtype=torch.int32))


@dataclass(frozen=True)
class Recent:
    """Answer of `RecencyIndex.recent`, ragged by row and within a row from least to most recent.

    Attributes:
        row: Position of the group in the request, int64 (num_found,), ascending.
        item: int64 (num_found,).
        last: Snapshot the item was last seen with the group, int64 (num_found,).
        count: In how many snapshots it was seen, int64 (num_found,).
        key: Place of the (group, item) among the seen keys, int64 (num_found,).
    """

    row: Tensor
    item: Tensor
    last: Tensor
    count: Tensor
    key: Tensor


@dataclass(frozen=True)
class Cut:
    """The least item of each group that is still among the most recent ones, by (last, count, tie).

    Attributes:
        last: -1 where all items are, `LATER` where none is, int64 (num_groups,).
        count, tie: int64 (num_groups,).
        limit: How many items a group has at most from there on.
    """

    last: Tensor
    count: Tensor
    tie: Tensor
    limit: int

    def select(self, groups: Tensor) -> "Cut":
        """That of some of the groups, told by their place, int64 (num_selected,)."""
        return Cut(*(column.index_select(0, groups) for column in (self.last, self.count, self.tie)), self.limit)


class RecencyIndex:
    """The keys of each group from least to most recent.

    A group has room for twice its distinct keys. A key that is seen again is written behind the others, and its old
    place is dead; when the room is full the dead places are squeezed out. So a key is moved a constant number of times
    on average, and the k most recent ones are found at the end, whatever the size of the group.

    Args:
        seen: The keys, as `group * width + item`.
        width: More than any item.
        tie: Gives numbers for items, int64 → int64, that order those alike in recency and count; None: the items. It
            must not depend on the future, as ids by degree do.
    """

    def __init__(self, seen: SeenKeys, width: int, tie: Callable[[Tensor], Tensor] | None = None) -> None:
        self._seen, self._width = seen, width
        self._tie = tie or (lambda item: item)
        size, device = len(seen.keys), seen.keys.device
        dtype = torch.int32 if 2 * size <= _MOST_INT32 else torch.int64
        self._written = torch.zeros(2 * size, dtype=dtype, device=device)  # keys, in the room of their group
        self._place = torch.full((size,), -1, dtype=dtype, device=device)  # where each key is written
        self._used = torch.zeros(size + 1, dtype=dtype, device=device)  # room used, at the first key of each group

    def clear(self) -> None:
        """Forget what was seen."""
        self._place.fill_(-1)
        self._used.zero_()

    def add(self, ids: Tensor) -> None:
        """Take note that keys were seen in the newest snapshot, which `SeenKeys.add` has been told of.

        Args:
            ids: Their places, distinct and ascending, int64 (num_seen,).
        """
        if not len(ids):
            return
        keys = self._seen.keys.index_select(0, ids)
        groups, of_key, length = torch.unique_consecutive(keys // self._width, return_inverse=True, return_counts=True)
        order = torch.argsort(self._tie(keys % self._width))
        weight = of_key * (2**32) + self._seen.count[ids]
        order = order[torch.argsort(weight[order], stable=True)]
        first, end = self._keys_of(groups)
        used = self._used[first].long()
        full = used + length > 2 * (end - first)
        if bool(full.any()):
            self._squeeze(first[full])
            used = self._used[first].long()
        _, position = ragged_ranges(2 * first + used, length)
        self._write(ids[order], position)
        self._used[first] = (used + length).to(self._used.dtype)

    def recent(self, groups: Tensor, limit: int | Cut | None = None) -> Recent:
        """The distinct items seen with each group, at most the `limit` most recent of each.

        At the limit, of items last seen at the same time the more frequent are kept, and `tie` decides the rest.

        Args:
            groups: int64 (num_groups,).
            limit: Items a group; or the least item of each group; None for all.
        """
        if isinstance(limit, Cut):
            return self._above(groups, limit)
        return self._at(*self.recent_keys(groups, limit))

    def recent_keys(self, groups: Tensor, limit: int | Cut | None = None) -> tuple[Tensor, Tensor]:
        """Rows and places of the keys of what `recent` finds, int64 (num_found,) each."""
        if isinstance(limit, Cut):
            found = self._above(groups, limit)
            return found.row, found.key
        stop, used = self._rooms(groups)
        if limit is None:
            return self._live(stop - used, used)
        row, ids = self._latest(stop, used, used.clamp(max=2 * limit), lambda row, _: _lengths(row, groups) >= limit)
        row, ids = where(last_of_each(row, len(groups), limit), row, ids)
        return row, ids

    def find(self, groups: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Places of keys, int64 (num_asked,), and whether each is one that will ever be seen, bool (num_asked,)."""
        keys, key = self._seen.keys, groups * self._width + items
        if not len(keys):
            return torch.zeros_like(key), torch.zeros_like(key, dtype=torch.bool)
        place = torch.searchsorted(keys, key).clamp_(max=len(keys) - 1)
        return place, keys.index_select(0, place) == key

    def items(self, ids: Tensor) -> Tensor:
        """Items of keys, told by their places, int64 (num_asked,)."""
        return self._seen.keys.index_select(0, ids) % self._width

    def order(self, ids: Tensor) -> Tensor:
        """Numbers that order keys of a group as `recent` does; -1 for those not yet seen, int64 (num_asked,)."""
        return self._place.index_select(0, ids).long()

    def seen_last(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """When keys were last seen, and in how many snapshots, int64 (num_asked,) each."""
        return self._seen.last.index_select(0, ids), self._seen.count.index_select(0, ids).long()

    def cut(self, groups: Tensor, limit: int) -> Cut:
        """The least item of each group that `recent` finds with `limit`.

        An index that has part of each group's items gives with this cut just those that `recent` finds in the whole.
        """
        cut = Cut(*(torch.full_like(groups, -1) for _ in range(3)), limit)
        if limit == 0:
            cut.last.fill_(LATER)
            return cut
        first, end = self._keys_of(groups)
        crowded = torch.nonzero(torch.where(end > first, self._used[first], 0) > limit)[:, 0]
        if len(crowded):
            found = self.recent(groups[crowded], limit)
            length = _lengths(found.row, crowded)
            least = (torch.cumsum(length, 0) - length)[length == limit]
            full = crowded[length == limit]
            cut.last[full], cut.count[full] = found.last[least], found.count[least]
            cut.tie[full] = self._tie(found.item[least])
        return cut

    def _above(self, groups: Tensor, cut: Cut) -> Recent:
        stop, used = self._rooms(groups)
        used = torch.where(cut.last == LATER, 0, used)
        width = torch.where(cut.last < 0, used, used.clamp(max=cut.limit))

        def reached(row: Tensor, ids: Tensor) -> Tensor:
            oldest = torch.full_like(cut.last, LATER)
            return oldest.scatter_reduce_(0, row, self._seen.last.index_select(0, ids), "amin") < cut.last

        found = self._at(*self._latest(stop, used, width, reached))
        last = cut.last[found.row]
        kept = found.last > last
        at_cut = torch.nonzero(found.last == last)[:, 0]
        row, count = found.row[at_cut], found.count[at_cut]
        above = (count == cut.count[row]) & (self._tie(found.item[at_cut]) >= cut.tie[row])
        kept[at_cut] = above | (count > cut.count[row])
        return Recent(*where(kept, *vars(found).values()))

    def _latest(
        self, stop: Tensor, used: Tensor, width: Tensor, enough: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Live keys at the end of rooms, further back until there are enough of each."""
        asked, found = torch.arange(len(stop), device=stop.device), []
        while True:
            length = width.index_select(0, asked)
            row, ids = self._live(stop.index_select(0, asked) - length, length)
            row = asked.index_select(0, row)
            short = ~enough(row, ids) & (width < used)
            short &= torch.zeros_like(short).index_fill_(0, asked, True)
            if not bool(short.any()):
                found.append((row, ids))
                break
            found.append(where(~short.index_select(0, row), row, ids))
            (asked,) = torch.nonzero(short, as_tuple=True)
            width = torch.where(short, torch.minimum(4 * width + 1, used), width)
        if len(found) == 1:
            return found[0]
        row, order = in_order(torch.cat([row for row, _ in found]))
        return row, torch.cat([ids for _, ids in found]).index_select(0, order)

    def _rooms(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Where the used room of each group ends, and how long it is."""
        first, end = self._keys_of(groups)
        used = torch.where(end > first, self._used[first], 0).long()
        return 2 * first + used, used

    def _live(self, start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        row, position = ragged_ranges(start, length)
        ids = self._written.index_select(0, position).long()
        row, ids = where(self._place.index_select(0, ids) == position, row, ids)
        return row, ids

    def _at(self, row: Tensor, ids: Tensor) -> Recent:
        return Recent(row, self.items(ids), *self.seen_last(ids), ids)

    def _squeeze(self, first: Tensor) -> None:
        """Move the live keys of groups, told by their first keys, to the start of their rooms."""
        row, ids = self._live(2 * first, self._used[first].long())
        length = _lengths(row, first)
        _, position = ragged_ranges(2 * first, length)
        self._write(ids, position)
        self._used[first] = length.to(self._used.dtype)

    def _write(self, ids: Tensor, position: Tensor) -> None:
        self._written[position] = ids.to(self._written.dtype)
        self._place[ids] = position.to(self._place.dtype)

    def _keys_of(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """First key of each group, and the key after its last."""
        start = groups * self._width
        bounds = torch.searchsorted(self._seen.keys, torch.cat([start, start + self._width]))
        first, end = bounds.chunk(2)
        return first, end


def last_of_each(row: Tensor, num_rows: int, limit: int) -> Tensor:
    """Which are among the last `limit` of their row, bool (total,), of an ascending `row` vector (total,)."""
    end = torch.cumsum(torch.bincount(row, minlength=num_rows), 0)
    return end.index_select(0, row) - torch.arange(len(row), device=row.device) <= limit


def _lengths(row: Tensor, groups: Tensor) -> Tensor:
    return torch.bincount(row, minlength=len(groups))
