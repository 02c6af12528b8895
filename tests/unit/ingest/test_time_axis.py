import json
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.errors import ConfigError
from gam_kg.ingest.time_axis import CALENDAR_UNITS, TimeAxis, TimestampRange

times = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda time: time.replace(tzinfo=UTC))


def micros(time):
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def axis_of(kind, unit, values):
    return TimeAxis.fit(kind, unit, TimestampRange.of(np.array(values, np.int64)))


@given(times, times)
def test_days_weeks_months_and_years_are_those_of_the_calendar(first, later):
    units = {
        "hour": lambda at: micros(at) // 3_600_000_000,
        "day": lambda at: at.toordinal(),
        "week": lambda at: (at.toordinal() - 1) // 7,  # 0001-01-01 was a Monday
        "month": lambda at: at.year * 12 + at.month,
        "year": lambda at: at.year,
    }
    assert set(units) == set(CALENDAR_UNITS)
    for unit, index in units.items():
        axis = axis_of("timestamp", unit, [micros(first)])
        found = axis.snapshot(np.array([micros(first), micros(later)]))
        assert found.tolist() == [0, index(later) - index(first)], unit


def test_weeks_are_iso_weeks():
    axis = axis_of("timestamp", "week", [micros(datetime(2021, 1, 3, tzinfo=UTC))])  # the Sunday of week 53 of 2020
    assert axis.snapshot(np.array([micros(datetime(2021, 1, 4, tzinfo=UTC))])).tolist() == [1]
    assert axis.label(0) == "2020-12-28"


@given(st.sampled_from([*CALENDAR_UNITS]), times, times)
def test_labels_read_back_to_their_snapshot(unit, first, later):
    axis = axis_of("timestamp", unit, [micros(first)])
    snapshot = int(axis.snapshot(np.array([micros(later)]))[0])
    if unit == "week" and later.toordinal() <= 7:
        return  # its Monday may lie before year 1
    assert axis.parse(axis.label(snapshot)) == snapshot
    assert axis.parse(later) == snapshot
    assert TimeAxis(**json.loads(json.dumps(asdict(axis)))) == axis


@given(st.integers(1, 10**6), st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
def test_integer_snapshots_are_steps_from_the_first(step, first, other):
    axis = axis_of("integer", step, [first])
    snapshot = int(axis.snapshot(np.array([other]))[0])
    begin = int(axis.label(snapshot))
    assert begin <= other < begin + step
    assert (begin - first) % step == 0
    assert axis.parse(other) == axis.parse(str(other)) == snapshot


@given(st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=20), st.integers(1, 4))
def test_auto_is_the_greatest_step_that_divides_every_gap_whatever_the_blocks(values, parts):
    blocks = [np.array(part, np.int64) for part in (values[start::parts] for start in range(parts)) if part]
    found = TimestampRange.merge([TimestampRange.of(block) for block in blocks])
    gaps = [value - min(values) for value in values]
    assert found == TimestampRange.of(np.array(values, np.int64))
    assert found.minimum == min(values)
    assert found.gap == np.gcd.reduce(np.array(gaps, dtype=object))
    assert TimeAxis.fit("integer", "auto", found).unit == max(found.gap, 1)


def test_auto_of_dates_is_a_day():
    assert axis_of("timestamp", "auto", [0]).unit == "day"


@pytest.mark.parametrize(
    ("unit", "label"),
    [
        ("hour", "2014-11-30T13:00"),
        ("day", "2014-11-30"),
        ("week", "2014-11-24"),
        ("month", "2014-11"),
        ("year", "2014"),
    ],
)
def test_labels_are_written_as_a_user_would(unit, label):
    assert axis_of("timestamp", unit, [micros(datetime(2014, 11, 30, 13, 59, tzinfo=UTC))]).label(0) == label


def test_all_ways_to_write_a_time_agree():
    axis = axis_of("timestamp", "hour", [0])
    noon = 12 + 24 * (date(2014, 11, 30) - date(1970, 1, 1)).days
    for text in ("2014-11-30T12:00", "2014-11-30 12:34:56.789", "2014-11-30T12:00Z", "2014-11-30T14:00+02:00"):
        assert axis.parse(text) == noon, text
    assert axis.parse(datetime(2014, 11, 30, 14, tzinfo=timezone(timedelta(hours=2)))) == noon
    assert axis.parse(date(2014, 11, 30)) == axis.parse("2014-11-30") == noon - 12


@pytest.mark.parametrize(
    "value", [201, 20141301, True, "yesterday", "2023-02-30", "2023-13-01", "0000-01-01", 1.5, None]
)
def test_a_calendar_axis_refuses(value):
    with pytest.raises(ConfigError, match="2014-11-30"):
        axis_of("timestamp", "day", [0]).parse(value)


@pytest.mark.parametrize("value", ["2014-11-30", date(2014, 11, 30), True, 1.5, None, "x"])
def test_an_integer_axis_refuses(value):
    with pytest.raises(ConfigError, match="integer"):
        axis_of("integer", 1, [5]).parse(value)


def test_units_must_fit_the_timestamps():
    with pytest.raises(ConfigError, match=r"data.time_unit=day.*integers"):
        axis_of("integer", "day", [0])
    with pytest.raises(ConfigError, match=r"data.time_unit=24.*dates"):
        axis_of("timestamp", 24, [0])


def test_a_column_is_read_as_each_of_its_values_is():
    columns = [
        pa.array(["06/05/2020", "2020-05-06", "2020", "20200506", " 2020-05-06T23:30Z", "soon", "", None]),
        pa.array([20200506, 2020, 7, None]),
        pa.array([date(2020, 5, 6), None]),
        pa.array([datetime(2020, 5, 6, 23, 30, tzinfo=UTC)], pa.timestamp("us", "UTC")),
        pa.array(["5", " -12 ", "1_000", "9" * 25, "4611686018427387904", "1.0", "+7"]),
    ]
    for axis in (TimeAxis("timestamp", "day", 0, "Europe/Berlin", "%d/%m/%Y"), TimeAxis("integer", 7, -3)):
        for column in columns:
            expected = []
            for value in column.to_pylist():
                try:
                    expected.append(axis.parse(value))
                except ConfigError:
                    expected.append(None)
            snapshots, readable = axis.read(column)
            assert [s if r else None for s, r in zip(snapshots.tolist(), readable.tolist(), strict=True)] == expected


def test_a_date_with_two_meanings_is_not_read():
    axis = TimeAxis("timestamp", "day", 0, format="%Y-%d-%m")
    assert axis.read(pa.array(["2020-05-06", "2020-13-06", "2020-06-06"]))[1].tolist() == [False, True, True]


def test_a_time_zone_has_no_meaning_where_the_facts_have_none():
    axis = TimeAxis("timestamp", "day", 0)
    column = pa.array(["1970-01-03", "1970-01-03T00:00Z", "1970-01-03T00:00+01:00", "1970-01-03T00:00"])
    snapshots, readable = axis.read(column)
    assert readable.tolist() == [True, False, False, True]
    assert snapshots[readable].tolist() == [2, 2]
    assert not axis.read(pa.array([0], pa.timestamp("us", "Europe/Berlin")))[1].any()
    assert axis.parse("1970-01-03T00:00") == 2
    for value in ("1970-01-03T00:00Z", datetime(1970, 1, 3, tzinfo=UTC)):
        with pytest.raises(ConfigError, match=r"has a time zone, and those of the facts have none.*data\.time_zone"):
            axis.parse(value)
