"""The time axis: raw timestamps to snapshots (integer steps of one time unit), and to labels."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa

from gam_kg.errors import ConfigError
from gam_kg.ingest.timestamps import TimeKind, read_timestamps

CALENDAR_UNITS = {"hour": "h", "day": "D", "week": "W", "month": "M", "year": "Y"}
"""Unit → its code in NumPy."""

# NumPy begins weeks on Thursday, since 1970-01-01 was one; ISO weeks begin on Monday.
_MONDAY = np.timedelta64(3, "D")
_EXAMPLES = 'for instance "2014-11-30", "2014-11" or "2014-11-30T12:00"'


@dataclass(frozen=True)
class TimestampRange:
    """The part of a block of raw timestamps that determines the axis; mergeable in any order.

    Attributes:
        minimum: The earliest timestamp.
        gap: The greatest integer that divides every difference between timestamps; 0 if there is no difference.
    """

    minimum: int
    gap: int

    @classmethod
    def of(cls, values: np.ndarray) -> "TimestampRange":
        """Range of a non-empty int64 array."""
        minimum = int(values.min())
        return cls(minimum, int(np.gcd.reduce(values - minimum)))

    @classmethod
    def merge(cls, ranges: Iterable["TimestampRange"]) -> "TimestampRange":
        """Range of all the blocks together; at least one."""
        ranges = list(ranges)
        minimum = min(found.minimum for found in ranges)
        return cls(minimum, math.gcd(*(math.gcd(found.gap, found.minimum - minimum) for found in ranges)))


@dataclass(frozen=True)
class TimeAxis:
    """Where snapshots begin and how long they are.

    Attributes:
        kind: "integer" (timestamps as given) or "timestamp" (microseconds since 1970-01-01 UTC).
        unit: Integer step, or one of "hour", "day", "week" (ISO, from Monday), "month", "year".
        origin: Raw timestamp at which snapshot 0 begins.
    """

    kind: TimeKind
    unit: int | str
    origin: int

    @classmethod
    def fit(cls, kind: TimeKind, unit: int | str, found: TimestampRange) -> "TimeAxis":
        """The axis whose snapshot 0 has the earliest fact.

        Args:
            kind: What the timestamps are.
            unit: `data.time_unit`: a calendar unit, an integer step or "auto".
            found: Range of all timestamps.

        Raises:
            ConfigError: A calendar unit for integers, or an integer step for dates.
        """
        if kind == "integer":
            if isinstance(unit, str) and unit != "auto":
                raise ConfigError(
                    f"data.time_unit={unit}: the timestamps are integers, which have no calendar; "
                    "use auto or an integer step, or store the timestamps as dates or ISO strings"
                )
            return cls(kind, int(unit) if unit != "auto" else max(found.gap, 1), found.minimum)
        if isinstance(unit, int):
            raise ConfigError(
                f"data.time_unit={unit}: the timestamps are dates, an integer step needs integer timestamps; "
                f"use auto (a day) or one of {', '.join(CALENDAR_UNITS)}"
            )
        unit = "day" if unit == "auto" else unit
        start = _unit_start(int(_unit_index(np.array([found.minimum]), unit)[0]), unit)
        return cls(kind, unit, int(start.astype("datetime64[us]").astype(np.int64)))

    def snapshot(self, values: np.ndarray) -> np.ndarray:
        """Snapshots of int64 raw timestamps; int64 of the same shape, negative before the origin."""
        values = np.asarray(values, dtype=np.int64)
        if isinstance(self.unit, int):
            return (values - self.origin) // self.unit
        return _unit_index(values, self.unit) - self._first_unit

    def parse(self, value: int | str | date) -> int:
        """The snapshot of a timestamp that a user gives.

        Args:
            value: An integer (also as text) on an integer axis; else a date, a datetime (without a zone: UTC) or an
                ISO string, which may stop at the year or month.

        Raises:
            ConfigError: The value is of the other kind, unreadable or out of range.
        """
        raw = self._raw_integer(value) if self.kind == "integer" else _raw_microseconds(value, self.unit)
        if not -(2**63) <= raw < 2**63:
            raise ConfigError(f"timestamp {value} is outside 64-bit integers")
        return int(self.snapshot(np.array([raw]))[0])

    def label(self, snapshot: int) -> str:
        """The start of a snapshot as a user would write it: "2014-11-30", "2014-11", "1998", or the integer."""
        if isinstance(self.unit, int):
            return str(self.origin + int(snapshot) * self.unit)
        start = _unit_start(self._first_unit + int(snapshot), self.unit)
        return f"{start}:00" if self.unit == "hour" else str(start)

    @property
    def _first_unit(self) -> int:
        assert isinstance(self.unit, str)
        return int(_unit_index(np.array([self.origin]), self.unit)[0])

    def _raw_integer(self, value: object) -> int:
        try:
            if isinstance(value, (bool, date, float)):
                raise ValueError
            return int(value)  # ty: ignore[invalid-argument-type]
        except (TypeError, ValueError):
            raise ConfigError(
                f"timestamp {value!r}: this data has integer timestamps; give an integer, for instance {self.origin}"
            ) from None


def _raw_microseconds(value: object, unit: int | str) -> int:
    if not isinstance(value, (str, date)):
        raise ConfigError(
            f"timestamp {value!r}: this data has dates (time unit: {unit}); give one in quotes, {_EXAMPLES}"
        )
    found = read_timestamps(pa.array([value] if isinstance(value, str) else pd.to_datetime([value], utc=True)))
    if found.unparseable[0] or found.out_of_range[0]:
        raise ConfigError(f"timestamp {value!r} is not an ISO 8601 date of the years 1 to 9999; write {_EXAMPLES}")
    return int(found.values[0])


def _unit_index(values: np.ndarray, unit: str) -> np.ndarray:
    """Calendar units since 1970 of microseconds since epoch, rounded down."""
    times = values.astype("datetime64[us]")
    if unit == "week":
        times = times + _MONDAY
    return times.astype(f"datetime64[{CALENDAR_UNITS[unit]}]").astype(np.int64)


def _unit_start(index: int, unit: str) -> np.datetime64:
    """The beginning of a calendar unit, which prints as precisely as the unit is."""
    start = np.int64(index).astype(f"datetime64[{CALENDAR_UNITS[unit]}]")
    return start.astype("datetime64[D]") - _MONDAY if unit == "week" else start
