import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.data_config import SplitConfig
from gam_kg.errors import ConfigError, DataError
from gam_kg.ingest.merging import SOURCED_FACTS
from gam_kg.ingest.splits import Timeline, choose_boundaries, count_splits, merge_extremes, split_extremes
from gam_kg.ingest.time_axis import TimeAxis

AXIS = TimeAxis("integer", 10, 0)
FILES = ("first.parquet", "second.parquet")
runs = st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 6)), max_size=20)


def timeline_of(*snapshots):
    return Timeline.of(np.array(snapshots), np.array(snapshots))


def rows_of(*rows):
    """Rows of (timestamp, split), all of source 0 but the last, of source 1."""
    timestamp, split = zip(*rows, strict=True)
    names = [["a"] * len(rows)] * 3
    source = [0] * (len(rows) - 1) + [1]
    columns = [*names, timestamp, [None] * len(rows), split, range(len(rows)), [0] * len(rows), source]
    return pa.table([pa.array(v, f.type) for v, f in zip(columns, SOURCED_FACTS, strict=True)], schema=SOURCED_FACTS)


@given(runs, st.integers(1, 3))
def test_a_timeline_counts_every_snapshot_of_every_run(found, parts):
    blocks = [np.array(found[part::parts], np.int64).reshape(-1, 2) for part in range(parts)]
    merged = Timeline.merge(Timeline.of(block[:, 0], block.sum(axis=1)) for block in blocks)
    expected = {}
    for start, length in found:
        for snapshot in range(start, start + length + 1):
            expected[snapshot] = expected.get(snapshot, 0) + 1
    snapshot, count = merged.counts()
    assert dict(zip(snapshot.tolist(), count.tolist(), strict=True)) == expected
    assert snapshot.tolist() == sorted(expected)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.floats(0.01, 0.49), st.floats(0.01, 0.49))
def test_fractions_give_three_full_parts_in_time_order(snapshots, valid, test):
    timeline = timeline_of(*snapshots)
    config = SplitConfig(valid_fraction=valid, test_fraction=test)
    if len(set(snapshots)) < 3:
        with pytest.raises(DataError, match="at least one each"):
            choose_boundaries(config, AXIS, timeline, {}, FILES)
        return
    boundaries = choose_boundaries(config, AXIS, timeline, {}, FILES)
    counts = count_splits(timeline, boundaries)
    assert counts == {
        "train": sum(at < boundaries[0] for at in snapshots),
        "valid": sum(boundaries[0] <= at < boundaries[1] for at in snapshots),
        "test": sum(at >= boundaries[1] for at in snapshots),
    }
    assert min(counts.values()) > 0


def test_fractions_are_of_facts_not_of_snapshots():
    timeline = Timeline.merge([timeline_of(*range(10)), timeline_of(*[0] * 90)])
    assert choose_boundaries(SplitConfig(valid_fraction=0.02, test_fraction=0.03), AXIS, timeline, {}, FILES) == (5, 7)


def test_boundaries_win_over_the_column():
    config = SplitConfig(valid_start=20, test_start=40)
    extremes = split_extremes(rows_of((0, "test"), (30, "valid"), (50, "train")))
    assert choose_boundaries(config, AXIS, timeline_of(0, 2, 4), extremes, FILES) == (2, 4)


def test_boundaries_must_be_in_order_and_leave_facts_to_train_and_valid():
    with pytest.raises(ConfigError, match=r"valid_start=20 must come before data.split.test_start=20"):
        choose_boundaries(SplitConfig(valid_start=20, test_start=20), AXIS, timeline_of(0, 2), {}, FILES)
    with pytest.raises(DataError, match="no facts in valid: with valid_start=30 and test_start=40"):
        choose_boundaries(SplitConfig(valid_start=30, test_start=40), AXIS, timeline_of(0, 2), {}, FILES)
    with pytest.raises(DataError, match="no facts in train: with valid_start=0 and test_start=20"):
        choose_boundaries(SplitConfig(valid_start=0, test_start=20), AXIS, timeline_of(0, 2), {}, FILES)


def test_test_may_be_empty_and_then_starts_after_the_last_fact():
    timeline = timeline_of(0, 2, 3)
    extremes = split_extremes(rows_of((0, "train"), (20, "valid"), (30, "valid")))
    for config, found in (
        (SplitConfig(valid_start=20, test_start=40), {}),
        (SplitConfig(valid_start=20, test_start=900), extremes),
        (SplitConfig(), extremes),
        (SplitConfig(valid_fraction=0.6, test_fraction=0), {}),
    ):
        boundaries = choose_boundaries(config, AXIS, timeline, found, FILES)
        assert boundaries == (2, 4)
        assert count_splits(timeline, boundaries) == {"train": 1, "valid": 2, "test": 0}
    with pytest.raises(DataError, match=r"fill 1 snapshot\(s\); train, valid need"):
        choose_boundaries(SplitConfig(test_fraction=0), AXIS, timeline_of(0), {}, FILES)


@pytest.mark.parametrize(
    ("axis", "valid", "test", "message"),
    [
        (AXIS, 10, 25, r"test_start=25 lies inside .*time unit: 10.* 20 and 30"),
        (TimeAxis("integer", 7, 0), "20", 35, r"valid_start='20' lies inside .* 14 and 21"),
        (TimeAxis("timestamp", "month", 0, "UTC"), "2023-10-20", "2024-01", r"2023-10 and 2023-11"),
        (TimeAxis("timestamp", "week", 0, "UTC"), "2024-01-01", "2024-01-10", r"2024-01-08 and 2024-01-15"),
        (TimeAxis("timestamp", "day", 0, "UTC"), "2024-01-01", "2024-01-02T00:00:00.5", r"2024-01-02 and 2024-01-03"),
        (TimeAxis("timestamp", "year", 0, "UTC"), 2023, 20240102, r"2024 and 2025"),
        (
            TimeAxis("timestamp", "day", 0, "Asia/Tokyo"),
            "2024-01-01",
            "2024-01-02T00:00Z",
            r"2024-01-02 and 2024-01-03",
        ),
    ],
)
def test_a_boundary_inside_a_snapshot_is_refused_with_the_nearest_starts(axis, valid, test, message):
    with pytest.raises(ConfigError, match=message):
        choose_boundaries(SplitConfig(valid_start=valid, test_start=test), axis, timeline_of(0), {}, FILES)


def test_the_column_gives_the_boundaries():
    extremes = split_extremes(rows_of((0, "train"), (19, "train"), (20, "valid"), (39, "valid"), (40, "test")))
    assert choose_boundaries(SplitConfig(), AXIS, timeline_of(0, 1, 2, 3, 4), extremes, FILES) == (2, 4)


def test_a_column_out_of_order_names_the_rows_and_the_way_out():
    # Distinct timestamps, but one snapshot of ten steps would be both train and valid.
    extremes = split_extremes(rows_of((0, "train"), (21, "train"), (22, "valid"), (40, "test")))
    with pytest.raises(DataError) as error:
        choose_boundaries(SplitConfig(), AXIS, timeline_of(0, 2, 4), extremes, FILES)
    for words in (
        "row 1 of first.parquet is train in snapshot 20",
        "row 2 of first.parquet is valid in snapshot 20",
        "data.split.valid_start=20 data.split.test_start=40",
    ):
        assert words in str(error.value)


def test_a_column_without_a_part_is_refused():
    extremes = split_extremes(rows_of((0, "train"), (40, "test")))
    with pytest.raises(DataError, match="no good row with 'valid'"):
        choose_boundaries(SplitConfig(), AXIS, timeline_of(0, 4), extremes, FILES)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["train", "valid", "test", None])), min_size=2, max_size=20)
)
def test_extremes_do_not_depend_on_blocks(rows):
    table = rows_of(*rows)
    cut = len(rows) // 2
    halves = [split_extremes(table.slice(cut)), split_extremes(table.slice(0, cut))]
    assert merge_extremes(halves) == split_extremes(table)
