"""Raw timestamp columns as int64: integers as they are, everything temporal as microseconds on the clock of a zone."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.ingest.text_columns import is_text
from gam_kg.ingest.time_format import INTEGER, rewrite
from gam_kg.ingest.time_zones import UTC_NAME, clock_of

TimeKind = Literal["integer", "timestamp"]

# Years 1 to 9999, the range that calendars and ISO strings share.
MIN_MICROSECONDS = -62_135_596_800_000_000
MAX_MICROSECONDS = 253_402_300_799_999_999
# Differences of two integers inside this bound still fit int64.
MAX_INTEGER = 2**62

# What is noted of a row. Each note speaks against a reading of all rows, so that the notes of many are their OR.
ZONED, NOT_ZONED, NOT_DATE_DIGITS, NOT_MONTH, NOT_YEAR = (1 << bit for bit in range(5))

_MICROSECONDS = {"s": 10**6, "ms": 10**3, "us": 1}
# pandas reads more than this ("2014-1-1", "2014/11/30", "now"), which is not safe to take for a date.
_ZONE = r"(Z|[+-]\d{2}:?(\d{2})?)"
_ALLOWED = rf"^\d{{4}}(-\d{{2}}(-\d{{2}}([T ]\d{{2}}:\d{{2}}(:\d{{2}}([.,]\d{{1,9}})?)?{_ZONE}?)?)?)?$"
_WITH_ZONE = rf":\d{{2}}([.,]\d+)?{_ZONE}$"
_DIGITS_OF_DATE = r"^(\d{4})(\d{2})(\d{2})$"
_MONTH, _YEAR = r"^\d{4}(-\d{2})?$", r"^\d{4}$"
_INTEGER = r"^([+-]?)0*(\d{1,18})$"
_SHORT = len("20240131")
# Allowed, but not read by pandas: a zone "+02:". More than six digits of a second would make it count nanoseconds,
# which do not reach from year 1 to 9999.
_SURPLUS = r"([.,]\d{6})\d+|:$"


@dataclass(frozen=True)
class TimeForm:
    """How timestamps are read.

    Attributes:
        zone: Zone on whose clock they are; instants are converted to it, and timestamps without a zone taken as its.
        format: `data.time_format`: of text, and of integers whose digits are a date; None: ISO 8601, or YYYYMMDD.
    """

    zone: str = UTC_NAME
    format: str | None = None


ISO = TimeForm()
"""ISO 8601, and instants on the clock of UTC."""


@dataclass(frozen=True)
class Timestamps:
    """A column of raw timestamps. All arrays have shape (rows,).

    Attributes:
        values: int64; 0 where any of the masks is set.
        null: Missing.
        unparseable: A string in no form that is allowed.
        out_of_range: Outside the years 1 to 9999, or beyond ±2^62 for integers.
        notes: uint8, 0 where any of the masks is set, else the OR of ZONED (it names an instant), NOT_ZONED (it names
            a time of a clock), NOT_DATE_DIGITS (it is not YYYYMMDD), NOT_MONTH (it is no month or year alone; of
            integers: not YYYYMM, YYYYMM00, YYYY0000, YYYYMMDDHHMM or YYYYMMDDHHMMSS), NOT_YEAR (it is no year alone).
    """

    values: np.ndarray
    null: np.ndarray
    unparseable: np.ndarray
    out_of_range: np.ndarray
    notes: np.ndarray


def time_kind(data_type: pa.DataType) -> TimeKind | None:
    """The kind of timestamps in a column of a type that may have them; None for an untyped column (all null)."""
    if pa.types.is_null(data_type):
        return None
    if pa.types.is_dictionary(data_type):
        return time_kind(data_type.value_type)
    return "integer" if pa.types.is_integer(data_type) else "timestamp"


def read_timestamps(column: pa.Array, form: TimeForm = ISO) -> Timestamps:
    """Turn a column into int64 timestamps with masks for what cannot be used.

    Args:
        column: Integers, date32, date64, timestamp, or strings; also dictionary-encoded. Without a format, strings are
            ISO 8601 (a date may stop at the year or month: "1998", "1998-05") or YYYYMMDD.
        form: How to read it.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text(column.type) or (pa.types.is_integer(column.type) and form.format not in (None, INTEGER)):
        # Each distinct text is read once.
        encoded = column.cast(pa.large_string()).dictionary_encode()
        found = _read_texts(encoded.dictionary, form, from_integers=not is_text(column.type))
        return _rows(found, encoded.indices)
    null = np.asarray(column.is_null())
    if time_kind(column.type) == "timestamp":
        values, factor = _temporal(column)
        zoned = pa.types.is_timestamp(column.type) and column.type.tz is not None
        notes = np.full(len(column), (ZONED if zoned else NOT_ZONED) | NOT_DATE_DIGITS | NOT_MONTH | NOT_YEAR, np.uint8)
        # Compared in the column's own unit, before the multiplication that could overflow.
        outside = ~null & ((values < MIN_MICROSECONDS // factor) | (values > MAX_MICROSECONDS // factor))
        values = np.where(null | outside, 0, values).astype(np.int64) * factor
        return _on_clock(values, null, np.zeros_like(null), outside, notes, form.zone)
    integers = column.cast(pa.int64()) if pa.types.is_null(column.type) else column
    return _integers(integers.fill_null(0).to_numpy(zero_copy_only=False), null, np.zeros_like(null))


def date_of_digits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers like 20240131 as dates.

    Returns:
        (microseconds, which of them are dates), both of the shape of `values`; 0 where they are not.
    """
    is_date = (values >= 1_01_01) & (values <= 9999_12_31)
    if not is_date.any():
        return np.zeros_like(values), is_date
    year, month, day = values // 10_000, values // 100 % 100, values % 100
    is_date &= (year >= 1000) & (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(is_date, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    is_date &= days.astype("datetime64[M]") == months
    return np.where(is_date, days.astype("datetime64[us]").astype(np.int64), 0), is_date


def _read_texts(texts: pa.Array, form: TimeForm, *, from_integers: bool) -> Timestamps:
    """Distinct texts without null."""
    texts = pc.ascii_trim_whitespace(texts)
    null = np.zeros(len(texts), bool)
    if form.format == INTEGER:
        allowed = pc.match_substring_regex(texts, _INTEGER)
        plain = pc.replace_substring(pc.replace_substring_regex(texts, _INTEGER, r"\1\2"), "+", "")
        return _integers(pc.if_else(allowed, plain, "0").cast(pa.int64()).to_numpy(), null, ~np.asarray(allowed))
    digits = _matches(texts, _DIGITS_OF_DATE)
    if form.format is not None:
        iso = rewrite(texts, form.format, pad=from_integers)
    else:
        iso = pc.replace_substring_regex(texts, _DIGITS_OF_DATE, r"\1-\2-\3") if digits.any() else texts
    values, readable = _parse_iso(iso)
    zoned = np.asarray(pc.match_substring_regex(iso, _WITH_ZONE).fill_null(False))
    notes = _noted(zoned, NOT_ZONED, ZONED) | _noted(digits, NOT_DATE_DIGITS)
    notes |= _noted(_matches(iso, _MONTH), NOT_MONTH) | _noted(_matches(iso, _YEAR), NOT_YEAR)
    outside = readable & ((values < MIN_MICROSECONDS) | (values > MAX_MICROSECONDS))
    return _on_clock(np.where(outside, 0, values), null, ~readable, outside, notes, form.zone)


def _on_clock(
    values: np.ndarray,
    null: np.ndarray,
    unparseable: np.ndarray,
    outside: np.ndarray,
    notes: np.ndarray,
    zone: str,
) -> Timestamps:
    """Instants converted to the clock of the zone, which may leave the years 1 to 9999."""
    usable = ~(null | unparseable | outside)
    instant = usable & ((notes & ZONED) > 0)
    if zone != UTC_NAME and instant.any():
        values = values.copy()
        values[instant] = clock_of(values[instant], zone)
        outside = outside | (usable & ((values < MIN_MICROSECONDS) | (values > MAX_MICROSECONDS)))
    usable &= ~outside
    return Timestamps(np.where(usable, values, 0), null, unparseable, outside, np.where(usable, notes, np.uint8(0)))


def _integers(values: np.ndarray, null: np.ndarray, unparseable: np.ndarray) -> Timestamps:
    outside = ~null & ((values < -MAX_INTEGER) | (values > MAX_INTEGER))
    usable = ~(null | unparseable | outside)
    values = np.where(usable, values, 0).astype(np.int64)
    _, is_date = date_of_digits(values)
    notes = NOT_YEAR | _noted(is_date, NOT_DATE_DIGITS) | _noted(_has_other_digits(values), NOT_MONTH)
    return Timestamps(values, null, unparseable, outside, np.where(usable, notes, np.uint8(0)))


def _has_other_digits(values: np.ndarray) -> np.ndarray:
    """Which integers have the digits of a month or year, or of a date with hours and minutes, or seconds."""
    minutes = np.where(values >= 10**13, values // 100, values)
    _, is_date = date_of_digits(minutes // 10_000)
    is_time = is_date & (minutes // 100 % 100 < 24) & (minutes % 100 < 60) & ((values < 10**13) | (values % 100 < 60))
    is_month = (values >= 1000_01) & (values <= 9999_12) & (values % 100 >= 1) & (values % 100 <= 12)
    is_open = (values >= 1000_00_00) & (values <= 9999_12_00) & (values % 100 == 0) & (values // 100 % 100 <= 12)
    return is_time | is_month | is_open


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    """Which texts match a pattern of few characters."""
    if (pc.min(pc.binary_length(texts)).as_py() or 0) > _SHORT:
        return np.zeros(len(texts), bool)
    return np.asarray(pc.match_substring_regex(texts, pattern).fill_null(False))


def _noted(is_so: np.ndarray, no: int, yes: int = 0) -> np.ndarray:
    return np.where(is_so, np.uint8(yes), np.uint8(no))


def _rows(distinct: Timestamps, indices: pa.Array) -> Timestamps:
    """Timestamps of rows from those of their distinct texts; a null index is a null."""
    null = np.asarray(indices.is_null())
    place = indices.fill_null(0).to_numpy(zero_copy_only=False) if len(distinct.values) else None

    def of_rows(found: np.ndarray) -> np.ndarray:
        return np.zeros(len(null), found.dtype) if place is None else np.where(null, found.dtype.type(0), found[place])

    masks = (distinct.unparseable, distinct.out_of_range, distinct.notes)
    return Timestamps(of_rows(distinct.values), null, *map(of_rows, masks))


def _parse_iso(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """ISO 8601 strings to microseconds since epoch, UTC where they have no zone, of the years 0 to 10000.

    Returns:
        (values, readable), both of shape (rows,); a value is 0 where not readable.
    """
    allowed = pc.match_substring_regex(texts, _ALLOWED)
    plain = pc.replace_substring(pc.replace_substring_regex(texts, _SURPLUS, r"\1"), ",", ".")
    plain = pc.if_else(allowed, plain, None).to_pandas()
    found = pd.to_datetime(plain, format="ISO8601", utc=True, errors="coerce").to_numpy("datetime64[us]")
    readable = ~np.isnat(found)
    return np.where(readable, found.astype(np.int64), 0), readable


def _temporal(column: pa.Array) -> tuple[np.ndarray, int]:
    """Dates and timestamps as int64 of their unit, 0 for nulls, and the microseconds of that unit."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s" if pa.types.is_date32(column.type) else "ms"))
    values = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if column.type.unit == "ns":
        return values // 1000, 1
    return values, _MICROSECONDS[column.type.unit]
