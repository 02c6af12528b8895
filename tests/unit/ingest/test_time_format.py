"""Formats of timestamps: compared with strptime, and where they read less than it."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.errors import ConfigError
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.ingest.time_format import COMMON_FORMATS, check_format
from gam_kg.ingest.timestamps import NOT_DATE_DIGITS, TimeForm, date_of_digits, read_timestamps

EPOCH, MICROSECOND = datetime(1970, 1, 1), timedelta(microseconds=1)
FORMATS = [
    *COMMON_FORMATS[:-1],
    "%Y%m%d",
    "%d%m%Y",
    "%d.%m.%Y %H:%M:%S.%f",
    "%Y",
    "%m/%Y",
    "%B %d, %Y %H:%M",
    "%Y%m%d%H%M%S",
]


def read(texts, text_format, zone="UTC"):
    check_format(text_format)
    return read_timestamps(pa.array(texts), TimeForm(zone, text_format))


@given(
    st.lists(st.datetimes(datetime(1000, 1, 1)), min_size=1, max_size=5),
    st.sampled_from(FORMATS),
    st.sampled_from(["", " ", "\n"]),
)
def test_texts_are_read_as_strptime_reads_them(times, text_format, blank):
    texts = [blank + at.strftime(text_format) + blank for at in times]
    expected = [(datetime.strptime(text.strip(), text_format) - EPOCH) // MICROSECOND for text in texts]
    found = read([*texts, None], text_format)
    assert found.values.tolist() == [*expected, 0]
    assert found.null.tolist() == [False] * len(texts) + [True]
    assert not found.unparseable.any()


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_an_offset_makes_an_instant_which_is_put_on_the_clock_of_the_zone(at, minutes):
    sign, offset = "+-"[minutes < 0], f"{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
    found = read([f"{at:%d/%m/%Y %H:%M}{sign}{offset}", f"{at:%d/%m/%Y %H:%M}Z"], "%d/%m/%Y %H:%M%z", "+02:00")
    at = at.replace(second=0, microsecond=0) + timedelta(hours=2)
    expected = [(time - EPOCH) // MICROSECOND for time in (at - timedelta(minutes=minutes), at)]
    assert found.values.tolist() == expected


@pytest.mark.parametrize(
    ("text", "text_format"),
    [
        ("31/01/24", "%d/%m/%Y"),
        ("31/13/2024", "%d/%m/%Y"),
        ("30/02/2024", "%d/%m/%Y"),
        ("2024-01-31", "%d/%m/%Y"),
        ("31/01/2024 10:00", "%d/%m/%Y"),
        ("31/01/2024", "%d/%m/%Y %H:%M"),
        ("1012024", "%d%m%Y"),  # strptime guesses
        ("1/1/2024 13:05 PM", "%d/%m/%Y %I:%M %p"),
        ("1/1/2024 0:05 AM", "%d/%m/%Y %I:%M %p"),
        ("1 Foo 2024", "%d %b %Y"),
        ("١/١/2024", "%d/%m/%Y"),
        ("", "%d/%m/%Y"),
    ],
)
def test_text_that_does_not_fit_is_unparseable(text, text_format):
    assert read([text], text_format).unparseable.tolist() == [True]


def test_one_digit_is_enough_between_separators_and_integers_have_lost_their_zeros():
    first = (datetime(2024, 2, 1) - EPOCH) // MICROSECOND
    assert read(["1/2/2024", "01/02/2024", " 1/02/2024 "], "%d/%m/%Y").values.tolist() == [first] * 3
    assert read([1022024], "%d%m%Y").values.tolist() == [first]
    assert read([20240201], "%Y%m%d").values.tolist() == [first]
    assert read([202402], "%Y%m").values.tolist() == [first]


@pytest.mark.parametrize(
    "text_format",
    ["%d/%m", "%Q", "%Y%Y", "%Y %y", "%Y-%d", "%Y %H", "%d/%m/%Y %I", "%Y %", "day", "", "%Y-%m-%d %I:%M"],
)
def test_a_format_that_is_none_is_refused(text_format):
    with pytest.raises(ConfigError, match=r"data\.time_format=.*%d/%m/%Y"):
        check_format(text_format)


def test_plain_integers_are_read_from_text_and_integers():
    found = read(["20240131", "-7", " 0012 ", "1.5", "x", None, "99999999999999999999"], "integer")
    assert found.values.tolist() == [20240131, -7, 12, 0, 0, 0, 0]
    assert found.unparseable.tolist() == [False, False, False, True, True, False, True]
    assert read([20240131], "integer").values.tolist() == [20240131]


@given(st.lists(st.integers(-(10**9), 10**9) | st.dates(date(1000, 1, 1)).map(lambda day: int(f"{day:%Y%m%d}"))))
def test_digits_are_a_date_where_the_calendar_has_it(values):
    def day(value):
        try:
            return datetime.strptime(str(value), "%Y%m%d") if len(str(value)) == 8 else None
        except ValueError:
            return None

    expected = [day(value) for value in values]
    micros, is_date = date_of_digits(np.array(values, np.int64))
    assert is_date.tolist() == [found is not None for found in expected]
    assert micros.tolist() == [(found - EPOCH) // MICROSECOND if found else 0 for found in expected]
    notes = read_timestamps(pa.array(values, pa.int64())).notes & NOT_DATE_DIGITS
    assert (notes == 0).tolist() == is_date.tolist()


def test_digits_of_a_date_are_read_as_text_too():
    found = read_timestamps(pa.array(["20240131", " 20240131 ", "20240230", "2024-01-31", "202401"]))
    first = (datetime(2024, 1, 31) - EPOCH) // MICROSECOND
    assert found.values.tolist() == [first, first, 0, first, 0]
    assert found.unparseable.tolist() == [False, False, True, False, True]


def test_what_a_user_gives_may_be_in_the_format_or_iso_but_never_both():
    axis = TimeAxis("timestamp", "day", 0, "UTC", "%d/%m/%Y")
    assert axis.parse("1/2/2024") == axis.parse("2024-02-01") == axis.parse(20240201) == axis.parse(date(2024, 2, 1))
    with pytest.raises(ConfigError, match=r"written as %d/%m/%Y"):
        axis.parse("2/30/2024")
    odd = TimeAxis("timestamp", "day", 0, "UTC", "%Y%d%m")
    assert odd.parse("20240131") == odd.parse("20243101") == odd.parse("2024-01-31")
    with pytest.raises(ConfigError, match="one date in ISO 8601 and another as %Y%d%m"):
        odd.parse("20240201")
    assert odd.parse("20240202") == odd.parse(datetime(2024, 2, 2, tzinfo=UTC))
