"""The k most recent distinct items of a group, as of any snapshot, from one build.

`RecencyIndex` is a log sorted by (group, time). Each row of the log knows when its item is next seen in the group, so a
row is the item's latest exactly when that next time is not before t: one build serves every t, no row is ever moved,
and nothing at or after t can show.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.data.ragged import ragged_ranges

_LATER = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Recent:
    """Answer of `RecencyIndex.recent`, ragged by row and within a row from oldest to latest.

    Attributes:
        row: Position of the group in the request, int64 (num_found,), ascending.
        item: int64 (num_found,).
        last: Snapshot the item was last seen with the group, int64 (num_found,).
        count: In how many snapshots it was seen, int64 (num_found,).
    """

    row: Tensor
    item: Tensor
    last: Tensor
    count: Tensor


@dataclass(frozen=True)
class Cut:
    """The least item of each group that is still among the most recent ones, by (last, count, tie).

    Attributes:
        last: -1 where all items are, later than any snapshot where none is, int64 (num_groups,).
        count, tie: int64 (num_groups,).
    """

    last: Tensor
    count: Tensor
    tie: Tensor


class RecencyIndex:
    """The most recent distinct items of a group, as of any snapshot.

    Args:
        group: int64 (num_rows,).
        item: int64 (num_rows,).
        time: Snapshot of each row, int64 (num_rows,), not negative.
        tie: Gives numbers for items, int64 → int64, that order those alike in recency and count; None: their ids. It
            must not depend on the future, as ids by degree do.
    """

    def __init__(
        self, group: Tensor, item: Tensor, time: Tensor, tie: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self._tie = tie or (lambda item: item)
        self._span = int(time.max()) + 1 if len(time) else 1
        if len(group) and int(group.max()) >= _LATER // (self._span + 1):
            raise ValueError(
                f"{int(group.max())} groups over {self._span} snapshots do not fit 64 bits; use a larger time_unit"
            )
        order = torch.argsort(time, stable=True)
        for column in (item, group):
            order = order[torch.argsort(column[order], stable=True)]
        group, item, time = group[order], item[order], time[order]
        # Sorted by (group, item, time): repeats of an item stand next to each other.
        same = torch.zeros(len(group), dtype=torch.bool, device=group.device)
        same[1:] = (group[1:] == group[:-1]) & (item[1:] == item[:-1])
        repeat = same.clone()
        repeat[1:] &= time[1:] == time[:-1]
        group, item, time, same = (column[~repeat] for column in (group, item, time, same))
        position = torch.arange(len(group), device=group.device)
        first = torch.cummax(torch.where(same, 0, position), 0).values if len(group) else position
        following = torch.full_like(time, _LATER)
        following[:-1] = torch.where(same[1:], time[1:], _LATER)

        count = position - first + 1
        order = torch.argsort(self._tie(item), stable=True)
        order = order[torch.argsort(count[order], stable=True)]
        order = order[torch.argsort((group * self._span + time)[order], stable=True)]
        self._key = (group * self._span + time)[order]
        self._item = item[order]
        self._following = following[order]
        self._count = count[order]

    def occurrences(self, groups: Tensor, as_of: int) -> Recent:
        """Every time an item was seen with each group before `as_of`: `last` and `count` tell of that time.

        Args:
            groups: int64 (num_groups,).
            as_of: Only rows with time `< as_of` are seen.
        """
        low, high = self._bounds(groups, as_of)
        return self._at(*ragged_ranges(low, high - low))

    def recent(self, groups: Tensor, as_of: int, limit: int | Cut | None = None) -> Recent:
        """The distinct items seen with each group before `as_of`, at most the `limit` most recent of each.

        At the limit, of items last seen at the same time the more frequent are kept, and `tie` decides the rest.

        Args:
            groups: int64 (num_groups,).
            as_of: Only rows with time `< as_of` are seen.
            limit: Items a group; or the least item of each group; None for all.
        """
        if isinstance(limit, Cut):
            return self._since(groups, as_of, limit)
        low, high = self._bounds(groups, as_of)
        available = high - low
        width = available if limit is None else available.clamp(max=2 * limit)
        while True:
            row, position = self._live(high - width, width, as_of)
            found = torch.bincount(row, minlength=len(groups))
            if limit is None:
                break
            short = (found < limit) & (width < available)
            if not bool(short.any()):
                break
            width = torch.where(short, torch.minimum(4 * width, available), width)
        if limit is not None:
            from_end = torch.cumsum(found, 0)[row] - 1 - torch.arange(len(row), device=row.device)
            kept = from_end < limit
            row, position = row[kept], position[kept]
        return self._at(row, position)

    def cut(self, groups: Tensor, as_of: int, limit: int) -> Cut:
        """The least item of each group that `recent` finds with `limit`.

        An index that has part of each group's items gives with this cut just those that `recent` finds in the whole.
        """
        cut = Cut(*(torch.full_like(groups, -1) for _ in range(3)))
        if limit == 0:
            cut.last.fill_(_LATER)
            return cut
        low, high = self._bounds(groups, as_of)
        crowded = torch.nonzero(high - low > limit)[:, 0]
        if len(crowded):
            found = self.recent(groups[crowded], as_of, limit)
            length = torch.bincount(found.row, minlength=len(crowded))
            first = (torch.cumsum(length, 0) - length)[length == limit]
            full = crowded[length == limit]
            cut.last[full], cut.count[full] = found.last[first], found.count[first]
            cut.tie[full] = self._tie(found.item[first])
        return cut

    def _since(self, groups: Tensor, as_of: int, cut: Cut) -> Recent:
        low, high = self._bounds(groups, as_of)
        since = torch.searchsorted(self._key, groups * self._span + cut.last.clamp(0, self._span))
        low = torch.minimum(torch.maximum(low, since), high)
        row, position = self._live(low, high - low, as_of)
        found = self._at(row, position)
        at_cut = torch.nonzero(found.last == cut.last[row])[:, 0]
        row, count = row[at_cut], found.count[at_cut]
        tie = self._tie(found.item[at_cut])
        below = (count < cut.count[row]) | ((count == cut.count[row]) & (tie < cut.tie[row]))
        kept = torch.ones_like(found.row, dtype=torch.bool)
        kept[at_cut[below]] = False
        return Recent(*(column[kept] for column in vars(found).values()))

    def _live(self, low: Tensor, width: Tensor, as_of: int) -> tuple[Tensor, Tensor]:
        """Rows of ranges that are their item's latest as of a snapshot."""
        row, position = ragged_ranges(low, width)
        live = self._following[position] >= as_of
        return row[live], position[live]

    def _at(self, row: Tensor, position: Tensor) -> Recent:
        return Recent(row, self._item[position], self._key[position] % self._span, self._count[position])

    def _bounds(self, groups: Tensor, as_of: int) -> tuple[Tensor, Tensor]:
        first = groups * self._span
        return torch.searchsorted(self._key, first), torch.searchsorted(
            self._key, first + min(max(as_of, 0), self._span)
        )
