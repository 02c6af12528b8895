"""The time axis: raw timestamps to snapshots (integer steps of one time unit), and to labels."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pyarrow as pa

from gam_kg.errors import ConfigError
from gam_kg.ingest.text_columns import is_text
from gam_kg.ingest.time_zones import UTC_NAME, zone_info
from gam_kg.ingest.timestamps import ISO, MAX_INTEGER, ZONED, TimeForm, TimeKind, Timestamps, read_timestamps
from gam_kg.text import quoted

CALENDAR_UNITS = {"hour": "h", "day": "D", "week": "W", "month": "M", "year": "Y"}
"""Unit → its code in NumPy."""

# NumPy begins weeks on Thursday, since 1970-01-01 was one; ISO weeks begin on Monday.
_MONDAY = np.timedelta64(3, "D")
_INTEGER = r"^\s*[+-]?[0-9]+\s*$"
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

    Calendar units are those of the zone's clock: a day may have 23 or 25 hours, and the hour that a clock shows twice
    is one snapshot.

    Attributes:
        kind: "integer" (timestamps as given) or "timestamp" (microseconds since 1970-01-01 00:00 on the zone's clock).
        unit: Integer step, or one of "hour", "day", "week" (ISO, from Monday), "month", "year".
        origin: Raw timestamp at which snapshot 0 begins.
        zone: The zone of timestamps; None for integers, and where they are times of a clock whose zone is not known.
        format: The form of timestamps as text, beside ISO 8601; see `TimeForm`.
    """

    kind: TimeKind
    unit: int | str
    origin: int
    zone: str | None = None
    format: str | None = None

    @classmethod
    def fit(cls, kind: TimeKind, unit: int | str, found: TimestampRange, form: TimeForm = ISO) -> "TimeAxis":
        """The axis whose snapshot 0 has the earliest fact.

        Args:
            kind: What the timestamps are.
            unit: `data.time_unit`: a calendar unit, an integer step or "auto".
            found: Range of all timestamps.
            form: How they were read.

        Raises:
            ConfigError: A calendar unit for integers, or an integer step for dates.
        """
        if kind == "integer":
            if isinstance(unit, str) and unit != "auto":
                raise ConfigError(
                    f"data.time_unit={unit}: the timestamps are integers, which have no calendar; "
                    "use auto or an integer step, store the timestamps as dates or ISO strings, or say with "
                    "data.time_format what dates they are"
                )
            return cls(kind, int(unit) if unit != "auto" else max(found.gap, 1), found.minimum)
        if isinstance(unit, int):
            raise ConfigError(
                f"data.time_unit={unit}: the timestamps are dates, an integer step needs integer timestamps; "
                f"use auto (a day) or one of {', '.join(CALENDAR_UNITS)}. If they are integers like 20240131 and no "
                "dates, set data.time_format=integer"
            )
        unit = "day" if unit == "auto" else unit
        start = _unit_start(int(_unit_index(np.array([found.minimum]), unit)[0]), unit)
        return cls(kind, unit, _microseconds(start), form.zone, form.format)

    def snapshot(self, values: np.ndarray) -> np.ndarray:
        """Snapshots of int64 raw timestamps; int64 of the same shape, negative before the origin."""
        values = np.asarray(values, dtype=np.int64)
        if isinstance(self.unit, int):
            return (values - self.origin) // self.unit
        return _unit_index(values, self.unit) - self._first_unit

    def parse(self, value: int | str | date) -> int:
        """The snapshot of a timestamp that a user gives.

        Args:
            value: An integer (also as text) on an integer axis; else a date, a datetime (without a zone: on the clock
                of the axis) or text in ISO 8601, which may stop at the year or month, or in the format of the axis;
                also a year, or YYYYMMDD, as an integer.

        Raises:
            ConfigError: The value is of the other kind, unreadable, out of range, or has two meanings.
        """
        return int(self.snapshot(np.array([self._raw(value)]))[0])

    def read(self, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Snapshots of a column, int64 (rows,), and whether each timestamp can be read, bool (rows,); a null cannot.

        Args:
            column: Integers or strings, each read as `parse` reads it; or dates or timestamps.
        """
        in_digits = is_text(column.type) or pa.types.is_integer(column.type)
        if self.kind == "integer":
            texts = column.cast(pa.large_string()).to_pylist() if in_digits else [None] * len(column)
            numbers = [int(text) if text and re.fullmatch(_INTEGER, text) else MAX_INTEGER + 1 for text in texts]
            readable = np.array([abs(number) <= MAX_INTEGER for number in numbers], dtype=bool)
            values = np.array([number if fits else 0 for number, fits in zip(numbers, readable, strict=True)])
        else:
            column = column.cast(pa.large_string()) if in_digits else column
            forms = [TimeForm(self.zone or ISO.zone, text) for text in (None, self.format if in_digits else None)]
            iso, formatted = (read_timestamps(column, form) for form in forms)
            fits = [self._fits(found) for found in (iso, formatted)]
            values = np.where(fits[0], iso.values, formatted.values)
            readable = np.where(fits[0] & fits[1], iso.values == formatted.values, fits[0] | fits[1])
        return self.snapshot(np.where(readable, values, self.origin).astype(np.int64)), readable

    def snapshot_at(self, value: int | str | date | None, default: int) -> int:
        """The snapshot of a timestamp that a user gives, see `parse`; `default` where there is none.

        Raises:
            ConfigError: It is no timestamp of the graph, or before the first fact.
        """
        if value is None:
            return default
        snapshot = self.parse(value)
        if snapshot < 0:
            raise ConfigError(f"{value}: before the first fact ({self.label(0)}), when nothing is known")
        return snapshot

    def parse_start(self, value: int | str | date, key: str) -> int:
        """The snapshot that begins at a timestamp that a user gives, see `parse`; `key` names it in messages.

        Raises:
            ConfigError: It is no such timestamp, or lies inside a snapshot.
        """
        raw = self._raw(value)
        snapshot = int(self.snapshot(np.array([raw]))[0])
        if raw != self._start(snapshot):
            raise ConfigError(
                f"{key}={quoted(value)} lies inside a snapshot (time unit: {self.unit}), and the facts of a snapshot "
                f"belong to one split; the nearest starts of a snapshot are {self.label(snapshot)} and "
                f"{self.label(snapshot + 1)}"
            )
        return snapshot

    def label(self, snapshot: int) -> str:
        """The start of a snapshot as a user would write it: "2014-11-30", "2014-11", "1998", or the integer."""
        if isinstance(self.unit, int):
            return str(self.origin + int(snapshot) * self.unit)
        start = _unit_start(self._first_unit + int(snapshot), self.unit)
        return f"{start}:00" if self.unit == "hour" else str(start)

    def end_seconds(self, snapshot: int) -> float | None:
        """When a snapshot ends, in seconds since 1970; None where timestamps are plain integers.

        Where the facts have no time zone, it is taken for UTC.
        """
        if isinstance(self.unit, int):
            return None
        local = datetime.fromtimestamp(self._start(snapshot + 1) / 1e6, UTC)
        return local.replace(tzinfo=zone_info(self.zone or UTC_NAME)).timestamp()

    @property
    def _first_unit(self) -> int:
        assert isinstance(self.unit, str)
        return int(_unit_index(np.array([self.origin]), self.unit)[0])

    def _start(self, snapshot: int) -> int:
        """Raw timestamp at which a snapshot begins."""
        if isinstance(self.unit, int):
            return self.origin + snapshot * self.unit
        return _microseconds(_unit_start(self._first_unit + snapshot, self.unit))

    def _fits(self, found: Timestamps) -> np.ndarray:
        """Which timestamps can be read; one with a time zone cannot where the facts have none."""
        unknown = (found.notes & ZONED > 0) & (self.zone is None)
        return ~(found.null | found.unparseable | found.out_of_range | unknown)

    def _raw(self, value: object) -> int:
        raw = self._raw_integer(value) if self.kind == "integer" else self._raw_microseconds(value)
        if not -(2**63) <= raw < 2**63:
            raise ConfigError(f"timestamp {quoted(value)} is outside 64-bit integers")
        return raw

    def _raw_integer(self, value: object) -> int:
        try:
            if isinstance(value, (bool, date, float)) or not re.fullmatch(_INTEGER, str(value)):
                raise ValueError
            return int(value)  # ty: ignore[invalid-argument-type]
        except (TypeError, ValueError):
            raise ConfigError(
                f"timestamp {quoted(value)}: this data has integer timestamps; give an integer, for instance "
                f"{self.origin}"
            ) from None

    def _raw_microseconds(self, value: object) -> int:
        value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(value, (str, date)):
            raise ConfigError(
                f"timestamp {quoted(value)}: this data has dates (time unit: {self.unit}); give one in quotes, "
                f"{_EXAMPLES}"
            )
        if isinstance(value, datetime) and value.tzinfo is not None:
            value = pd.to_datetime([value], utc=True)[0]
        readings = {}
        for text_format in {None, self.format}:
            found = read_timestamps(pa.array([value]), TimeForm(self.zone or ISO.zone, text_format))
            if self.zone is None and found.notes[0] & ZONED:
                raise ConfigError(
                    f"timestamp {quoted(value)} has a time zone, and those of the facts have none; leave it away, or "
                    "set data.time_zone to that of the facts"
                )
            if self._fits(found)[0]:
                readings[text_format] = int(found.values[0])
        if not readings:
            form = f", or written as {self.format}" if self.format else ""
            raise ConfigError(
                f"timestamp {quoted(value)} is not an ISO 8601 date of the years 1 to 9999{form}; write {_EXAMPLES}"
            )
        if len({*readings.values()}) > 1:
            raise ConfigError(
                f"timestamp {quoted(value)} is one date in ISO 8601 and another as {self.format}; write {_EXAMPLES}"
            )
        return next(iter(readings.values()))


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


def _microseconds(start: np.datetime64) -> int:
    return int(start.astype("datetime64[us]").astype(np.int64))
