"""Raw timestamp columns as int64: integers as they are, everything temporal as microseconds since 1970-01-01 UTC."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

TimeKind = Literal["integer", "timestamp"]

# Years 1 to 9999, the range that calendars and ISO strings share.
MIN_MICROSECONDS = -62_135_596_800_000_000
MAX_MICROSECONDS = 253_402_300_799_999_999
# Differences of two integers inside this bound still fit int64.
MAX_INTEGER = 2**62

_MICROSECONDS = {"s": 10**6, "ms": 10**3, "us": 1}
# pandas reads more than this ("20141130", "2014-1-1", "2014/11/30", "now"), which is not safe to take for a date.
_ALLOWED = r"^\s*\d{4}(-\d{2}(-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?(Z|[+-]\d{2}:?(\d{2})?)?)?)?)?\s*$"
# Allowed, but not read by pandas: blanks at either end, and a zone "+02:". More than six digits of a second would
# make it count nanoseconds, which do not reach from year 1 to 9999.
_SURPLUS = r"^\s+|([.,]\d{6})\d+|:?\s*$"


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
    """The kind of timestamps in a column of a type that may have them; None for an untyped column (all null)."""
    if pa.types.is_null(data_type):
        return None
    if pa.types.is_dictionary(data_type):
        return time_kind(data_type.value_type)
    return "integer" if pa.types.is_integer(data_type) else "timestamp"


def is_text(data_type: pa.DataType) -> bool:
    """Whether columns of this type have strings."""
    return pa.types.is_string(data_type) or pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type)


def read_timestamps(column: pa.Array) -> Timestamps:
    """Turn a column into int64 timestamps with masks for what cannot be used.

    Args:
        column: Integers, date32, date64, timestamp (with a zone: converted to UTC; without: taken as UTC), or ISO
            8601 strings; also dictionary-encoded. Dates may stop at the year or month: "1998", "1998-05".
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    null, readable = np.asarray(column.is_null()), np.ones(len(column), dtype=bool)
    low, high, factor = -MAX_INTEGER, MAX_INTEGER, 1
    if is_text(column.type):
        values, readable = _parse_iso(column)
        low, high = MIN_MICROSECONDS, MAX_MICROSECONDS
    elif time_kind(column.type) == "timestamp":
        values, factor = _temporal(column)
        # Compared in the column's own unit, before the multiplication that could overflow.
        low, high = MIN_MICROSECONDS // factor, MAX_MICROSECONDS // factor
    else:
        integers = column.cast(pa.int64()) if pa.types.is_null(column.type) else column
        values = integers.fill_null(0).to_numpy(zero_copy_only=False)
    outside = ~null & ((values < low) | (values > high))
    unusable = null | ~readable | outside
    return Timestamps(np.where(unusable, 0, values).astype(np.int64) * factor, null, ~readable & ~null, outside)


def _parse_iso(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """ISO 8601 strings to microseconds since epoch, UTC, of the years 0 to 10000.

    Returns:
        (values, readable), both of shape (rows,); a value is 0 where not readable.
    """
    texts = texts.cast(pa.large_string())
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
