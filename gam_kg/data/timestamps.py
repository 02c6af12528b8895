"""Raw timestamp columns as int64: integers as they are, everything temporal as microseconds since 1970-01-01 UTC."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TimeKind = Literal["integer", "timestamp"]

# Years 1 to 9999, what calendars and ISO strings agree on.
MIN_MICROSECONDS = -62_135_596_800_000_000
MAX_MICROSECONDS = 253_402_300_799_999_999
# Differences of two integers inside this bound still fit int64.
MAX_INTEGER = 2**62

_DAY = 86_400_000_000
_UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_ISO = (
    r"^\s*(?P<year>\d{4})(?:-(?P<month>\d{2})(?:-(?P<day>\d{2})(?:[T ](?P<hour>\d{2}):(?P<minute>\d{2})"
    r"(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?:Z|(?P<sign>[+-])(?P<zone_hour>\d{2}):?(?P<zone_minute>\d{2})?)?)?)?)?\s*$"
)


@dataclass(frozen=True)
class Timestamps:
    """A column of raw timestamps. All arrays have shape (rows,).

    Attributes:
        values: int64; 0 where any of the masks is set.
        null: Missing.
        unparseable: A string that is no ISO 8601 date or time.
        out_of_range: Outside the years 1 to 9999, or beyond ±2^62 for integers.
    """

    values: np.ndarray
    null: np.ndarray
    unparseable: np.ndarray
    out_of_range: np.ndarray


def time_kind(data_type: pa.DataType) -> TimeKind | None:
    """What a column of this type says about time; None for an untyped column (all null).

    Raises:
        TypeError: The type holds no timestamps.
    """
    if pa.types.is_null(data_type):
        return None
    if pa.types.is_dictionary(data_type):
        return time_kind(data_type.value_type)
    if pa.types.is_integer(data_type):
        return "integer"
    if pa.types.is_date(data_type) or pa.types.is_timestamp(data_type) or is_text(data_type):
        return "timestamp"
    raise TypeError(str(data_type))


def is_text(data_type: pa.DataType) -> bool:
    """Whether columns of this type hold strings."""
    return pa.types.is_string(data_type) or pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type)


def read_timestamps(column: pa.Array) -> Timestamps:
    """Turn a column into int64 timestamps with masks for what cannot be used.

    Args:
        column: Integers, date32, date64, timestamp (with a zone: converted to UTC; without: taken as UTC), or ISO
            8601 strings; also dictionary-encoded. Dates may stop at the year or month: "1998", "1998-05".
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    null = np.asarray(column.is_null())
    nothing = np.zeros(len(column), dtype=bool)
    if pa.types.is_null(column.type):
        return Timestamps(np.zeros(len(column), np.int64), null, nothing, nothing)
    if is_text(column.type):
        values, readable = parse_iso(column)
        outside = readable & ((values < MIN_MICROSECONDS) | (values > MAX_MICROSECONDS))
        return _masked(values, null, ~readable & ~null, outside)
    if pa.types.is_integer(column.type):
        filled = column.fill_null(0).to_numpy(zero_copy_only=False)
        outside = (filled > MAX_INTEGER) | (filled < (0 if filled.dtype.kind == "u" else -MAX_INTEGER))
        return _masked(np.where(outside, 0, filled).astype(np.int64), null, nothing, outside)
    values, outside = _microseconds(column)
    return _masked(values, null, nothing, outside & ~null)


def parse_iso(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """ISO 8601 strings to microseconds since epoch, UTC.

    Returns:
        (values, readable), both of shape (rows,); a value is 0 where not readable.
    """
    found = pc.extract_regex(texts.cast(pa.large_string()), _ISO)
    readable = np.asarray(found.is_valid())
    part = {name: _number(found, name, default=1 if name in ("month", "day") else 0) for name in _NUMBERS}
    month = (part["year"] - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (part["month"] - 1)
    day = month.astype("datetime64[D]") + (part["day"] - 1)
    # 2023-02-30 lands in March: a day is real only if it stays in its month.
    readable &= (part["month"] >= 1) & (part["month"] <= 12) & (part["day"] >= 1)
    readable &= day.astype("datetime64[M]") == month
    for name, limit in (("hour", 24), ("minute", 60), ("second", 60), ("zone_hour", 24), ("zone_minute", 60)):
        readable &= part[name] < limit
    sign = np.where(np.asarray(pc.equal(pc.struct_field(found, "sign"), "-").fill_null(False)), -1, 1)
    minutes = part["hour"] * 60 + part["minute"] - sign * (part["zone_hour"] * 60 + part["zone_minute"])
    values = day.astype(np.int64) * _DAY + (minutes * 60 + part["second"]) * 10**6 + part["fraction"]
    return np.where(readable, values, 0), readable


_NUMBERS = ("year", "month", "day", "hour", "minute", "second", "fraction", "zone_hour", "zone_minute")


def _number(found: pa.StructArray, name: str, default: int) -> np.ndarray:
    text = pc.struct_field(found, name)
    if name == "fraction":
        text = pc.utf8_slice_codeunits(pc.utf8_rpad(text, 6, "0"), 0, 6)
    text = pc.if_else(pc.equal(text, ""), str(default), text).fill_null(str(default))
    return text.cast(pa.int64()).to_numpy(zero_copy_only=False)


def _microseconds(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    if pa.types.is_date32(column.type):
        raw = column.cast(pa.int32()).cast(pa.int64())
        per_second = 1 / 86_400
    else:
        raw = column.cast(pa.int64())
        per_second = _UNITS_PER_SECOND["ms" if pa.types.is_date64(column.type) else column.type.unit]
    values = raw.fill_null(0).to_numpy(zero_copy_only=False)
    if per_second == 10**9:
        values, per_second = values // 1000, 10**6
    # Compared in the column's own unit, before the multiplication that could overflow.
    factor = round(10**6 / per_second)
    outside = (values < -(-MIN_MICROSECONDS // factor)) | (values > MAX_MICROSECONDS // factor)
    return np.where(outside, 0, values) * factor, outside


def _masked(values: np.ndarray, null: np.ndarray, unparseable: np.ndarray, outside: np.ndarray) -> Timestamps:
    return Timestamps(np.where(null | unparseable | outside, 0, values), null, unparseable, outside & ~null)
