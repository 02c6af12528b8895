"""Which rules are stored: all with enough hits; where they are too many, those with more hits, found in bounded memory.

Keys are counted exactly while there is room for all. Where there is not, hits are first counted by cells of a table, in
which several keys may share a cell, and then exactly for the keys whose cell has enough: no other can have enough.
"""

import logging
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.graph.anchored import buckets_of_rank
from gam_kg.graph.partition import Partition
from gam_kg.ops.ragged import find_keys, insert_at, select, unique_counts

logger = logging.getLogger("gam_kg")

MERGED_AT_ONCE = 2**20
"""Hits that wait to be counted together, at least; where there are many keys, a quarter of their number."""

COUNTED_PER_RULE, CELLS_PER_RULE = 2, 4
"""Keys that are counted at once, and cells, for each rule that may be stored."""

_MIX = 0x1E3779B97F4A7C15  # an odd number; products wrap around


class KeyCounts:
    """Distinct keys, ascending, and how often each was added.

    Attributes:
        keys: int64 (num_keys,).
        counts: int32 (num_keys,).
    """

    def __init__(self) -> None:
        self.keys, self.counts = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)

    def add(self, keys: Tensor) -> None:
        """Count keys, int64 (num_added,), each as often as it is there."""
        found, number = unique_counts(keys)
        place, known = find_keys(self.keys, found)
        self.counts.index_add_(0, place[known], number[known].int())
        found, number = select(~known, found, number.int())
        at = torch.searchsorted(self.keys, found) + torch.arange(len(found))
        self.keys, self.counts = insert_at(self.keys, found, at), insert_at(self.counts, number, at)

    def only(self, mask: Tensor) -> None:
        """Drop the other keys than those at which a mask, bool (num_keys,), is true."""
        self.keys, self.counts = select(mask, self.keys, self.counts)


class RuleCells:
    """Hits by cells of a table: every rule has a cell, which it may share with others.

    The cells of a bucket of entities are those of rules with these as answers, so that they are the same on any number
    of ranks.

    Args:
        partition: The entities of the rank.
        most: Rules of all ranks that may be stored.
    """

    def __init__(self, partition: Partition, most: int) -> None:
        self._partition, self._num_rows = partition, max(1, partition.num_rows)
        self._per_bucket = max(1, CELLS_PER_RULE * most // partition.buckets)
        own = buckets_of_rank(partition.buckets, partition.rank, partition.world_size)
        self._number, self._hits = len(own) * self._per_bucket, torch.zeros(0, dtype=torch.int32)

    def count(self, parts: Iterable[Tensor]) -> None:
        """Count hits by cell: keys of rules (see `RuleTable`), int64 (num_hits,) at a time."""
        self._hits = torch.zeros(self._number, dtype=torch.int32)
        for keys in parts:
            self._hits.index_add_(0, self._of(keys), torch.ones(len(keys), dtype=torch.int32))

    def reach(self, keys: Tensor, fewest: int) -> Tensor:
        """Whether the cells of keys, int64 (num_keys,), have at least `fewest` hits, bool (num_keys,)."""
        parts = keys.split(MERGED_AT_ONCE)  # numbers of cells take more memory than keys
        return torch.cat([self._hits.index_select(0, self._of(part)) >= fewest for part in parts])

    def _of(self, keys: Tensor) -> Tensor:
        entity = self._partition.ids.index_select(0, keys % self._num_rows)
        mixed = (keys // self._num_rows * _MIX + entity) * _MIX
        bucket = entity % self._partition.buckets // self._partition.world_size
        return bucket * self._per_bucket + (mixed >> 32) % self._per_bucket


def stored_rules(
    read: Callable[[], Iterable[Tensor]], config: HistoryConfig, partition: Partition, total: Callable[[Tensor], Tensor]
) -> tuple[Tensor, int]:
    """The keys of the rules of a rank that are stored, and how many hits they have at least; see `frequent`."""
    most = config.max_rules
    keys, fewest = frequent(read, config.rule_count, most, RuleCells(partition, most), total)
    if fewest > config.rule_count and partition.rank == 0:
        logger.warning(
            "rules that led to an answer less than %d times are left out, as there are too many for "
            "model.history.max_rules=%d",
            *(fewest, most),
        )
    return keys, fewest


def frequent(
    read: Callable[[], Iterable[Tensor]], fewest: int, most: int, cells: RuleCells, total: Callable[[Tensor], Tensor]
) -> tuple[Tensor, int]:
    """The distinct keys with at least some number of hits. A collective.

    Args:
        read: Reads all hits anew: keys, int64 (num_hits,) at a time.
        fewest: Hits of a key, at least.
        most: Distinct keys of all ranks, at most. Where there are more, keys need more hits.
        cells: Counts hits by cell.
        total: Sums over all ranks.

    Returns:
        The keys, ascending, int64 (num_frequent,), and how many hits they have at least; the same on any number of
        ranks.
    """
    counts = _counted(read(), COUNTED_PER_RULE * most, total)
    if counts is None:
        counts, fewest = _counted_by_cells(read, fewest, COUNTED_PER_RULE * most, cells, total)
    counts.only(counts.counts >= fewest)
    while _total(total, counts.keys) > most:
        fewest += 1
        counts.only(counts.counts >= fewest)
    return counts.keys, fewest


def _counted(parts: Iterable[Tensor], most: int, total: Callable[[Tensor], Tensor]) -> KeyCounts | None:
    """Counts of all keys; None where these are more than `most`."""
    counts = KeyCounts()
    for keys in _joined(parts, counts, total):
        counts.add(keys)
        if _total(total, counts.keys) > most:
            return None
    return counts


def _counted_by_cells(
    read: Callable[[], Iterable[Tensor]], fewest: int, most: int, cells: RuleCells, total: Callable[[Tensor], Tensor]
) -> tuple[KeyCounts, int]:
    """Counts of at most `most` keys, all that have some number of hits among them, and that number; see `frequent`."""
    cells.count(read())
    counts = KeyCounts()
    for keys in _joined(read(), counts, total):
        counts.add(keys[cells.reach(keys, fewest)])
        while _total(total, counts.keys) > most:
            fewest += 1
            counts.only(cells.reach(counts.keys, fewest))
    return counts, fewest


def _joined(parts: Iterable[Tensor], counts: KeyCounts, total: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """The parts, several together, at the same parts on all ranks: counting takes longer the more there are."""
    waiting, number, room = [torch.zeros(0, dtype=torch.int64)], 0, MERGED_AT_ONCE
    for part in parts:
        waiting.append(part)
        number += _total(total, part)
        if number > room:
            keys = torch.cat(waiting)
            waiting, number = [keys[:0].clone()], 0
            yield keys
            room = max(MERGED_AT_ONCE, _total(total, counts.keys) // 4)
    yield torch.cat(waiting)


def _total(total: Callable[[Tensor], Tensor], keys: Tensor) -> int:
    return int(total(torch.tensor([len(keys)])))
