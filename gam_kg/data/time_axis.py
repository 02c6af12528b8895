"""The time axis: raw timestamps to snapshots (integer steps that hold the facts of one time unit), and to labels."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from gam_kg.data.timestamps import MAX_MICROSECONDS, MIN_MICROSECONDS, TimeKind, parse_iso
from gam_kg.errors import ConfigError

CALENDAR_UNITS = ("hour", "day", "week", "month", "year")

_MICROSECONDS = {"hour": 3_600_000_000, "day": 86_400_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# 1970-01-01 was a Thursday; ISO weeks begin on Monday.
_EPOCH_WEEKDAY = 3


@dataclass(frozen=True)
class TimestampRange:
    """What a block of raw timestamps says about the axis; mergeable in any order.

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
        """The axis whose snapshot 0 holds the earliest fact.

        Args:
            kind: What the input's timestamps are.
            unit: `data.time_unit`: a calendar unit, an integer step or "auto".
            found: Range of all timestamps of the input.

        Raises:
            ConfigError: A calendar unit for integers, or an integer step for dates.
        """
        if kind == "integer":
            if isinstance(unit, str) and unit != "auto":
                raise ConfigError(
                    f"data.time_unit={unit}: the timestamps are integers, which have no calendar; "
                    "use auto or an integer step, or store the timestamps as dates or ISO strings"
                )
            step = int(unit) if unit != "auto" else max(found.gap, 1)
            return cls(kind, step, found.minimum)
        if isinstance(unit, int):
            raise ConfigError(
                f"data.time_unit={unit}: the timestamps are dates, an integer step needs integer timestamps; "
                f"use auto (a day) or one of {', '.join(CALENDAR_UNITS)}"
            )
        unit = "day" if unit == "auto" else unit
        if unit not in CALENDAR_UNITS:
            raise ConfigError(f"data.time_unit={unit!r}: allowed are auto, {', '.join(CALENDAR_UNITS)}, or an integer")
        first = _unit_index(np.array([found.minimum]), unit)[0]
        return cls(kind, unit, _unit_start(int(first), unit))

    def snapshot(self, values: np.ndarray) -> np.ndarray:
        """Snapshots that hold raw timestamps.

        Args:
            values: int64 raw timestamps, any shape.

        Returns:
            int64 snapshots of the same shape; negative before the origin.
        """
        values = np.asarray(values, dtype=np.int64)
        if isinstance(self.unit, int):
            return (values - self.origin) // self.unit
        return _unit_index(values, self.unit) - self._first_unit

    def parse(self, value: int | str | date | datetime) -> int:
        """The snapshot that holds a timestamp given by a user.

        Args:
            value: An integer (also as text) on an integer axis; else a date, a datetime (without a zone: UTC) or an
                ISO string, which may stop at the year or month.

        Raises:
            ConfigError: The value is of the other kind, unreadable or out of range.
        """
        raw = self._raw_integer(value) if self.kind == "integer" else _raw_microseconds(value, self.unit)
        if not -(2**63) <= raw < 2**63:
            raise ConfigError(f"timestamp {value}: out of range")
        return int(self.snapshot(np.array([raw]))[0])

    def label(self, snapshot: int) -> str:
        """The start of a snapshot as a user would write it: "2014-11-30", "2014-11", "1998", or the integer."""
        if isinstance(self.unit, int):
            return str(self.origin + int(snapshot) * self.unit)
        index = self._first_unit + int(snapshot)
        if self.unit == "hour":
            return f"{np.datetime64(index, 'h')}:00"
        if self.unit == "week":
            return str(np.datetime64(index * 7 - _EPOCH_WEEKDAY, "D"))
        return str(np.datetime64(index, {"day": "D", "month": "M", "year": "Y"}[self.unit]))

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TimeAxis":
        """The axis that `to_dict` described."""
        return cls(**values)

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
            example = f"for instance {self.origin}"
            raise ConfigError(
                f"timestamp {value!r}: this data has integer timestamps; give an integer, {example}"
            ) from None


def _raw_microseconds(value: object, unit: int | str) -> int:
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return (moment - _EPOCH) // timedelta(microseconds=1)
    if isinstance(value, date):
        value = value.isoformat()
    if not isinstance(value, str):
        raise ConfigError(
            f"timestamp {value!r}: this data has dates (time unit: {unit}); give one in quotes, "
            'for instance "2014-11-30", "2014-11" or "2014-11-30T12:00"'
        )
    values, readable = parse_iso(pa.array([value], pa.large_string()))
    if not readable[0] or not MIN_MICROSECONDS <= values[0] <= MAX_MICROSECONDS:
        raise ConfigError(
            f"timestamp {value!r} is not an ISO 8601 date of the years 1 to 9999; "
            'write for instance "2014-11-30", "2014-11" or "2014-11-30T12:00"'
        )
    return int(values[0])


def _unit_index(values: np.ndarray, unit: str) -> np.ndarray:
    """Calendar units since 1970 of microseconds since epoch, rounded down."""
    if unit in _MICROSECONDS:
        return values // _MICROSECONDS[unit]
    days = values // _MICROSECONDS["day"]
    if unit == "week":
        return (days + _EPOCH_WEEKDAY) // 7
    return days.astype("datetime64[D]").astype("datetime64[M]" if unit == "month" else "datetime64[Y]").astype(np.int64)


def _unit_start(index: int, unit: str) -> int:
    """Microseconds since epoch at which a calendar unit begins."""
    if unit == "hour":
        return index * _MICROSECONDS["hour"]
    if unit == "week":
        index = index * 7 - _EPOCH_WEEKDAY
    elif unit != "day":
        index = int(np.datetime64(index, "M" if unit == "month" else "Y").astype("datetime64[D]").astype(np.int64))
    return index * _MICROSECONDS["day"]
