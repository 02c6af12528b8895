"""ISO 8601 as gam-kg reads it: compared with Python's datetime, and where it reads less than pandas."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gam_kg.ingest.timestamps import MAX_MICROSECONDS, MIN_MICROSECONDS, read_timestamps

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = 60 * 10**6
blanks = st.sampled_from(["", " ", "\t", "\r\n", " \f "])
offsets = st.one_of(
    st.sampled_from([("", 0), ("Z", 0), ("-00:00", 0), ("+02:", 120)]),
    st.tuples(st.sampled_from([1, -1]), st.integers(0, 23), st.integers(0, 59), st.sampled_from(["", ":"])).map(
        lambda zone: (
            f"{'+' if zone[0] > 0 else '-'}{zone[1]:02}{zone[3]}{zone[2]:02}",
            zone[0] * (zone[1] * 60 + zone[2]),
        )
    ),
)


def read(*texts):
    return read_timestamps(pa.array(texts, pa.large_string()))


@st.composite
def written(draw):
    """A text and its microseconds since 1970."""
    at = draw(st.datetimes()).replace(tzinfo=UTC)
    form = draw(st.sampled_from(["%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"]))
    text = at.strftime(form.replace("%Y", f"{at.year:04}"))
    micros = (datetime.strptime(text, form).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    if form.endswith("%S"):
        digits = draw(st.text("0123456789", max_size=9))
        text += draw(st.sampled_from(".,")) + digits if digits else ""
        micros += int(digits[:6].ljust(6, "0"))
    if "%H" in form:
        zone, minutes = draw(offsets)
        text, micros = text + zone, micros - minutes * MINUTE
    return draw(blanks) + text + draw(blanks), micros


@given(st.lists(written(), max_size=5))
@example([("0001-01-01T00:00+00:01", MIN_MICROSECONDS - MINUTE), ("1500-01-01T00:00:00.123456789", -14831769599876544)])
@example([("9999-12-31T23:59:59.999999999", MAX_MICROSECONDS), ("9999-12-31T23:59-00:01", MAX_MICROSECONDS + 1)])
def test_texts_are_read_as_datetime_reads_them(rows):
    found = read(*(text for text, _ in rows))
    inside = [MIN_MICROSECONDS <= micros <= MAX_MICROSECONDS for _, micros in rows]
    micros = [micros if allowed else 0 for (_, micros), allowed in zip(rows, inside, strict=True)]
    assert not found.unparseable.any()
    assert found.out_of_range.tolist() == [not allowed for allowed in inside]
    assert found.values.tolist() == micros


@pytest.mark.parametrize(
    "text",
    [
        # pandas reads these.
        *("201411", "2014-1-1", "2014/11/30", "2014.11.30", "2014-11-30T12", "2014-11-30T1234", "20141130T123456"),
        *("now", "today", "-0001-01-01", "2014-11-30T12:34 +02:00", "2014-11-30T12:34:56 Z", "2014-11-30T12:34:56."),
        "2014-11-30T12:34:56.1234567890",
        # Neither reads these.
        *("", " ", "soon", "NaT", "2014-W05", "2014-W05-1", "2014-365", "12014-01-01", "+2014-11-30", "998"),
        *("2014-11-30t12:34", "2014-11-30T12:34z", "2014-11-30  12:34", "2014-11T12:00", "2014-11-30Z", "2014Z"),
        *("2023-02-29", "2023-13-01", "2023-00-01", "2023-01-00", "2014-11-30T24:00", "2014-11-30T23:60"),
        *(
            "2014-11-30T23:59:60",
            "2014-11-30T12:34-24:00",
            "2014-11-30T12:34+23:60",
            "2014-11-30\xa0",
            "２０１４-11-30",
        ),
    ],
)
def test_other_texts_are_unparseable(text):
    found = read(text, "2014-11-30", None)
    assert found.unparseable.tolist() == [True, False, False]
    assert found.null.tolist() == [False, False, True]
    assert not found.out_of_range.any()


@pytest.mark.parametrize("text", ["0000", "0000-01-01", "0000-12-31T23:59", "0001-01-01T00:00+01:00"])
def test_year_0_is_out_of_range(text):
    assert read(text).out_of_range.all()


@pytest.mark.parametrize(
    ("data_type", "microseconds"),
    [
        (pa.date32(), 86_400 * 10**6),
        (pa.date64(), 1000),
        (pa.timestamp("s"), 10**6),
        (pa.timestamp("ms", "Europe/Berlin"), 1000),
        (pa.timestamp("us"), 1),
    ],
)
def test_the_years_1_to_9999_are_in_range_in_every_unit(data_type, microseconds):
    first, last = -(-MIN_MICROSECONDS // microseconds), MAX_MICROSECONDS // microseconds
    integers = pa.array([first - 1, first, last, last + 1], pa.int32() if pa.types.is_date32(data_type) else pa.int64())
    found = read_timestamps(integers.view(data_type))
    assert found.out_of_range.tolist() == [True, False, False, True]
    assert found.values.tolist() == [0, first * microseconds, last * microseconds, 0]
    assert found.values.dtype == np.int64
