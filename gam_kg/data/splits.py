"""The division of time: train < valid_start <= valid < test_start <= test, in whole snapshots."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.config import SplitConfig
from gam_kg.data.time_axis import TimeAxis
from gam_kg.errors import ConfigError, DataError
from gam_kg.schemas import SPLITS

# (timestamp, source, row) of the earliest row of a split, and of its latest.
Extremes = dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]]


@dataclass(frozen=True)
class Timeline:
    """How many facts hold in each snapshot, kept as the changes of that number; mergeable in any order.

    Attributes:
        snapshot: Where the number changes, int64, ascending, shape (changes,).
        change: By how much, int64, shape (changes,).
    """

    snapshot: np.ndarray
    change: np.ndarray

    @classmethod
    def of(cls, start: np.ndarray, stop: np.ndarray) -> "Timeline":
        """Of facts that hold in every snapshot of [start, stop], both inclusive."""
        ones = np.ones(len(start), np.int64)
        return cls._summed(np.concatenate([start, stop + 1]), np.concatenate([ones, -ones]))

    @classmethod
    def merge(cls, timelines: Iterable["Timeline"]) -> "Timeline":
        """Of all the facts together."""
        timelines = list(timelines)
        return cls._summed(
            np.concatenate([np.empty(0, np.int64), *(found.snapshot for found in timelines)]),
            np.concatenate([np.empty(0, np.int64), *(found.change for found in timelines)]),
        )

    @classmethod
    def _summed(cls, snapshot: np.ndarray, change: np.ndarray) -> "Timeline":
        distinct, position = np.unique(snapshot, return_inverse=True)
        total = np.zeros(len(distinct), np.int64)
        np.add.at(total, position, change)
        return cls(distinct[total != 0], total[total != 0])

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Snapshots that hold facts, ascending, and how many; both of shape (num_snapshots,)."""
        if not len(self.snapshot):
            return self.snapshot, self.change
        level, length = np.cumsum(self.change)[:-1], np.diff(self.snapshot)
        begin, level, length = self.snapshot[:-1][level > 0], level[level > 0], length[level > 0]
        offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        return np.repeat(begin, length) + offset, np.repeat(level, length)


def split_extremes(facts: pa.Table) -> Extremes:
    """The earliest and latest row of each split.

    Args:
        facts: SOURCED_FACTS.
    """
    found: Extremes = {}
    for split in SPLITS:
        rows = facts.filter(pc.equal(facts["split"], split))
        if len(rows):
            row, source, timestamp = (rows[name].to_numpy() for name in ("row", "source", "timestamp"))
            first = np.lexsort((row, source, timestamp))[0]
            last = np.lexsort((row, source, -timestamp))[0]
            found[split] = (
                (int(timestamp[first]), int(source[first]), int(row[first])),
                (int(timestamp[last]), int(source[last]), int(row[last])),
            )
    return found


def merge_extremes(many: Iterable[Extremes]) -> Extremes:
    """The extremes of all rows together; ties go to the first row by (source, row)."""
    merged: Extremes = {}
    for extremes in many:
        for split, (first, last) in extremes.items():
            known = merged.get(split, (first, last))
            merged[split] = (min(first, known[0]), min(last, known[1], key=lambda at: (-at[0], *at[1:])))
    return merged


def choose_boundaries(
    config: SplitConfig, axis: TimeAxis, timeline: Timeline, extremes: Extremes, files: Sequence[str]
) -> tuple[int, int]:
    """Boundaries from the configuration, else from the split column, else from the fractions.

    Args:
        config: `data.split`.
        axis: The time axis.
        timeline: Facts a snapshot.
        extremes: Of the split column; empty without one.
        files: Name of each source, for messages.

    Returns:
        (valid_start, test_start) in snapshots.

    Raises:
        ConfigError: The configured boundaries cannot be read or are out of order.
        DataError: The split column is out of order in time, or a part would be empty.
    """
    if config.valid_start is not None and config.test_start is not None:
        boundaries = axis.parse(config.valid_start), axis.parse(config.test_start)
        if boundaries[0] >= boundaries[1]:
            raise ConfigError(
                f"data.split.valid_start={config.valid_start} must come before data.split.test_start="
                f"{config.test_start}, by at least one snapshot (time unit: {axis.unit})"
            )
    elif extremes:
        boundaries = _from_column(axis, extremes, files)
    else:
        boundaries = _from_fractions(config, timeline)
    _require_facts_in_all(count_splits(timeline, boundaries), axis, boundaries, timeline)
    return boundaries


def count_splits(timeline: Timeline, boundaries: tuple[int, int]) -> dict[str, int]:
    """Stored facts in train, valid and test."""
    snapshot, count = timeline.counts()
    cuts = np.searchsorted(snapshot, boundaries)
    return {split: int(part.sum()) for split, part in zip(SPLITS, np.split(count, cuts), strict=True)}


def _from_column(axis: TimeAxis, extremes: Extremes, files: Sequence[str]) -> tuple[int, int]:
    missing = [split for split in SPLITS if split not in extremes]
    if missing:
        raise DataError(
            f"the split column has no good row with {' or '.join(map(repr, missing))}; it needs 'train', 'valid' and "
            "'test'. Add them, or divide by time with data.split.valid_start and data.split.test_start"
        )
    snapshots = {split: [int(axis.snapshot(np.array(at[0]))) for at in extremes[split]] for split in SPLITS}
    boundaries = snapshots["valid"][0], snapshots["test"][0]
    for earlier, later in (("train", "valid"), ("valid", "test"), ("train", "test")):
        if snapshots[earlier][1] >= snapshots[later][0]:
            raise DataError(_explain_order(axis, extremes, files, earlier, later, boundaries))
    return boundaries


def _explain_order(
    axis: TimeAxis, extremes: Extremes, files: Sequence[str], earlier: str, later: str, boundaries: tuple[int, int]
) -> str:
    def place(split: str, which: int) -> str:
        timestamp, source, row = extremes[split][which]
        label = axis.label(int(axis.snapshot(np.array(timestamp))))
        return f"row {row} of {files[source]} is {split} in snapshot {label}"

    valid, test = (axis.label(at) for at in boundaries)
    advice = (
        f"data.split.valid_start={valid} data.split.test_start={test}"
        if boundaries[0] < boundaries[1]
        else ("data.split.valid_start and data.split.test_start")
    )
    return (
        f"the split column is out of order in time: {place(earlier, 1)}, but {place(later, 0)}. Every snapshot "
        f"must be wholly train, valid or test, in this order. Divide by time instead: {advice}; or mend the column"
    )


def _from_fractions(config: SplitConfig, timeline: Timeline) -> tuple[int, int]:
    snapshot, count = timeline.counts()
    if len(snapshot) < len(SPLITS):
        raise DataError(
            f"the facts fill {len(snapshot)} snapshot(s); train, valid and test need at least one each. "
            "Use a shorter data.time_unit or more data"
        )
    before = np.cumsum(count) - count
    share = 1 - config.valid_fraction - config.test_fraction, 1 - config.test_fraction
    nearest = [int(np.argmin(np.abs(before - part * count.sum()))) for part in share]
    # Moved as little as needed for every part to hold a snapshot.
    valid = min(max(nearest[0], 1), len(snapshot) - 2)
    test = min(max(nearest[1], valid + 1), len(snapshot) - 1)
    return int(snapshot[valid]), int(snapshot[test])


def _require_facts_in_all(
    counts: dict[str, int], axis: TimeAxis, boundaries: tuple[int, int], timeline: Timeline
) -> None:
    empty = [split for split in SPLITS if not counts[split]]
    if empty:
        snapshot, _ = timeline.counts()
        valid, test = (axis.label(at) for at in boundaries)
        raise DataError(
            f"no facts in {' and '.join(empty)}: with valid_start={valid} and test_start={test}, of facts from "
            f"{axis.label(int(snapshot[0]))} to {axis.label(int(snapshot[-1]))}. "
            "Move data.split.valid_start and data.split.test_start"
        )
