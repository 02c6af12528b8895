"""The division of time: train < valid_start <= valid < test_start <= test, in whole snapshots; test may be empty."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.data_config import SplitConfig
from gam_kg.errors import ConfigError, DataError
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.schemas import SPLITS

# (timestamp, source, row) of a row, and those of the earliest and the latest row of each split.
Place = tuple[int, int, int]
Extremes = dict[str, tuple[Place, Place]]


@dataclass(frozen=True)
class Timeline:
    """Number of facts that hold in each snapshot, stored as its changes; mergeable in any order.

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
        return cls.merge([cls(start, ones), cls(stop + 1, -ones)])

    @classmethod
    def merge(cls, timelines: Iterable["Timeline"]) -> "Timeline":
        """Of all the facts together."""
        # A first change of 0, since there may be no timelines.
        changes = [pd.Series([0], [0]), *(pd.Series(found.change, found.snapshot) for found in timelines)]
        total = pd.concat(changes).groupby(level=0).sum()
        total = total[total != 0]
        return cls(total.index.to_numpy(), total.to_numpy())

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Snapshots with facts, ascending, and how many facts; both of shape (num_snapshots,)."""
        level, length = np.cumsum(self.change)[:-1], np.diff(self.snapshot)
        begin, level, length = self.snapshot[:-1][level > 0], level[level > 0], length[level > 0]
        offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        return np.repeat(begin, length) + offset, np.repeat(level, length)


def split_extremes(facts: pa.Table) -> Extremes:
    """The earliest and the latest row of each split of SOURCED_FACTS; ties go to the first row by (source, row)."""
    rows = {split: facts.filter(pc.equal(facts["split"], split)) for split in SPLITS}
    return {
        split: (extreme(found, "ascending"), extreme(found, "descending")) for split, found in rows.items() if found
    }


def merge_extremes(many: Iterable[Extremes]) -> Extremes:
    """The extremes of all rows together."""
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
        timeline: Timeline of all facts.
        extremes: Extremes of the split column; empty without one.
        files: Name of each source, for messages.

    Returns:
        (valid_start, test_start) in snapshots; where there is no test, its start is the snapshot after the last fact.

    Raises:
        ConfigError: The configured boundaries cannot be read, lie inside a snapshot or are out of order.
        DataError: The split column is out of order in time, or train or valid would be empty.
    """
    end = int(timeline.snapshot[-1])
    if config.valid_start is not None and config.test_start is not None:
        valid_start = axis.parse_start(config.valid_start, "data.split.valid_start")
        boundaries = valid_start, axis.parse_start(config.test_start, "data.split.test_start")
        if boundaries[0] >= boundaries[1]:
            raise ConfigError(
                f"data.split.valid_start={config.valid_start} must come before data.split.test_start="
                f"{config.test_start}, by at least one snapshot (time unit: {axis.unit})"
            )
    elif extremes:
        boundaries = _from_column(axis, extremes, files, end)
    else:
        boundaries = _from_fractions(config, timeline, end)
    _require_facts(timeline, axis, boundaries)
    return boundaries[0], min(boundaries[1], end)


def count_splits(timeline: Timeline, boundaries: tuple[int, int]) -> dict[str, int]:
    """Stored facts in train, valid and test."""
    snapshot, count = timeline.counts()
    cuts = np.searchsorted(snapshot, boundaries)
    return {split: int(part.sum()) for split, part in zip(SPLITS, np.split(count, cuts), strict=True)}


def extreme(facts: pa.Table, order: str) -> Place:
    """The earliest ("ascending") or latest ("descending") row of SOURCED_FACTS, of which there is at least one."""
    keys = [("timestamp", order), ("source", "ascending"), ("row", "ascending")]
    first = facts.take(pc.select_k_unstable(facts, 1, keys))
    timestamp, source, row = (first[name][0].as_py() for name, _ in keys)
    return timestamp, source, row


def _from_column(axis: TimeAxis, extremes: Extremes, files: Sequence[str], end: int) -> tuple[int, int]:
    missing = [split for split in ("train", "valid") if split not in extremes]
    if missing:
        raise DataError(
            f"the split column has no good row with {' or '.join(map(repr, missing))}; it needs 'train' and 'valid', "
            "and may have 'test'. Add them, or divide by time with data.split.valid_start and data.split.test_start"
        )
    snapshots = {split: axis.snapshot(np.array([at[0] for at in extremes[split]])).tolist() for split in extremes}
    snapshots.setdefault("test", [end, end])
    boundaries = snapshots["valid"][0], snapshots["test"][0]

    def place(split: str, which: int) -> str:
        _, source, row = extremes[split][which]
        return f"row {row} of {files[source]} is {split} in snapshot {axis.label(snapshots[split][which])}"

    for earlier, later in (("train", "valid"), ("valid", "test"), ("train", "test")):
        if snapshots[earlier][1] >= snapshots[later][0]:
            in_order = boundaries[0] < boundaries[1]
            valid, test = (f"={axis.label(at)}" if in_order else "" for at in boundaries)
            raise DataError(
                f"the split column is out of order in time: {place(earlier, 1)}, but {place(later, 0)}. Every snapshot "
                "must be only train, only valid or only test, in this order. Divide by time instead, with "
                f"data.split.valid_start{valid} data.split.test_start{test}; or correct the column"
            )
    return boundaries


def _from_fractions(config: SplitConfig, timeline: Timeline, end: int) -> tuple[int, int]:
    snapshot, count = timeline.counts()
    parts = SPLITS if config.test_fraction else SPLITS[:-1]
    if len(snapshot) < len(parts):
        raise DataError(
            f"the facts fill {len(snapshot)} snapshot(s); {', '.join(parts)} need at least one each. "
            "Use a shorter data.time_unit or more data"
        )
    before = np.cumsum(count) - count
    share = 1 - config.valid_fraction - config.test_fraction, 1 - config.test_fraction
    nearest = [int(np.argmin(np.abs(before - part * count.sum()))) for part in share]
    # Moved as little as needed for every part to have a snapshot.
    valid = min(max(nearest[0], 1), len(snapshot) + 1 - len(parts))
    test = min(max(nearest[1], valid + 1), len(snapshot) - 1)
    return int(snapshot[valid]), int(snapshot[test]) if config.test_fraction else end


def _require_facts(timeline: Timeline, axis: TimeAxis, boundaries: tuple[int, int]) -> None:
    counts = count_splits(timeline, boundaries)
    empty = [split for split in ("train", "valid") if not counts[split]]
    if empty:
        snapshot, _ = timeline.counts()
        valid, test = (axis.label(at) for at in boundaries)
        raise DataError(
            f"no facts in {' and '.join(empty)}: with valid_start={valid} and test_start={test}, of facts from "
            f"{axis.label(int(snapshot[0]))} to {axis.label(int(snapshot[-1]))}. "
            "Move data.split.valid_start and data.split.test_start"
        )
