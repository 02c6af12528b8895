"""Notes on the timestamps of all rows, and what is decided when all have been read: clock, kind and time unit."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gam_kg.errors import ConfigError, DataError
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.ingest.time_zones import UTC_NAME
from gam_kg.ingest.timestamps import (
    NOT_DATE_DIGITS,
    NOT_MONTH,
    NOT_YEAR,
    NOT_ZONED,
    ZONED,
    TimeForm,
    TimeKind,
    read_timestamps,
)
from gam_kg.ingest.validation import INTEGER_ENTITIES, INTEGER_RELATION, RENAMED

_ALL = (ZONED, NOT_ZONED, NOT_DATE_DIGITS, NOT_MONTH, NOT_YEAR, RENAMED, INTEGER_ENTITIES, INTEGER_RELATION)
_DATES_BY_CHANCE = 0.1  # of integers of eight digits 4% are dates
_FIRST_TEXTS = 100  # nearly always enough to tell formats apart

logger = logging.getLogger("gam_kg")


@dataclass(frozen=True)
class Notes:
    """The notes of some rows; mergeable in any order.

    Attributes:
        num_rows: The rows.
        found: Note → how many rows have it, and the (source, row) of the first.
    """

    num_rows: int
    found: dict[int, tuple[int, tuple[int, int]]]

    @classmethod
    def of(cls, facts: pa.Table) -> "Notes":
        """Of SOURCED_FACTS in the order of the input."""
        notes, found = facts["notes"].to_numpy(), {}
        for note in _ALL:
            rows = np.flatnonzero(notes & note)
            if len(rows):
                first = facts["source"][rows[0]].as_py(), facts["row"][rows[0]].as_py()
                found[note] = len(rows), first
        return cls(len(facts), found)

    @classmethod
    def merge(cls, many: Iterable["Notes"]) -> "Notes":
        """Of all the rows together."""
        num_rows, found = 0, {}
        for one in many:
            num_rows += one.num_rows
            for note, (count, first) in one.found.items():
                known = found.get(note, (0, first))
                found[note] = known[0] + count, min(known[1], first)
        return cls(num_rows, found)

    def count(self, note: int) -> int:
        """Rows that have a note."""
        return self.found[note][0] if note in self.found else 0

    @property
    def integer_names(self) -> list[str]:
        """Those of "entity" and "relation" whose names are integers in all rows."""
        kinds = {"entity": INTEGER_ENTITIES, "relation": INTEGER_RELATION}
        return [kind for kind, note in kinds.items() if self.count(note) == self.num_rows]

    def first(self, note: int, files: Sequence[str]) -> str:
        """Where the first row with a note is, for messages; there must be one."""
        source, row = self.found[note][1]
        return f"row {row} of {files[source]}"


def require_one_clock(notes: Notes, files: Sequence[str]) -> None:
    """Refuse timestamps with and without a time zone together.

    Raises:
        DataError: Names the first row of each.
    """
    if notes.count(ZONED) and notes.count(NOT_ZONED):
        raise DataError(
            f"timestamps with and without a time zone are mixed: {notes.first(ZONED, files)} has one, "
            f"{notes.first(NOT_ZONED, files)} has a timestamp without; write all of them with an offset, as "
            "2024-03-31T12:00+02:00, or none"
        )


def report_zone(notes: Notes, zone: str | None, form: TimeForm) -> None:
    """Say whose clock divides time where neither `data.time_zone` nor a column does."""
    if notes.count(ZONED) and zone is None and form.zone == UTC_NAME:
        logger.info("timestamps are instants: snapshots begin on the clock of UTC; data.time_zone names another zone")


def decide_kind(kind: TimeKind, form: TimeForm, notes: Notes, files: Sequence[str]) -> TimeKind:
    """What the timestamps are, where integers may be dates: they are if all of them are like 20240131.

    Raises:
        DataError: Most of the integers are such dates, but not all.
    """
    if form.format is not None:
        return kind
    num_dates = notes.num_rows - notes.count(NOT_DATE_DIGITS)
    if kind == "timestamp":
        if num_dates:
            logger.info("timestamps like 20240131 are read as dates, YYYYMMDD (%d rows)", num_dates)
        return kind
    if num_dates == notes.num_rows:
        logger.info(
            "timestamps are integers like 20240131: read as dates, YYYYMMDD; data.time_format=integer reads them as "
            "plain integers"
        )
        return "timestamp"
    if 2 * num_dates >= notes.num_rows:
        raise DataError(
            f"{num_dates} of {notes.num_rows} rows have integer timestamps that are dates like 20240131 (YYYYMMDD), "
            f"but {notes.first(NOT_DATE_DIGITS, files)} has another; say what they are: data.time_format=%Y%m%d "
            "for dates, data.time_format=integer for plain integers"
        )
    if num_dates == notes.count(NOT_MONTH) or _DATES_BY_CHANCE * notes.num_rows < num_dates:
        logger.warning(
            "timestamps are integers with the digits of dates, months or times (20240131, 20240000, 202401, "
            "202401311200, 20240131120000), and are read as plain integers; data.time_format=%Y%m%d, %Y%m, "
            "%Y%m%d%H%M or %Y%m%d%H%M%S reads what they look like"
        )
    return kind


def decide_unit(unit: int | str, kind: TimeKind, notes: Notes) -> int | str:
    """`data.time_unit`, where "auto" is a month or year if no timestamp says more."""
    if unit == "auto" and kind == "timestamp":
        for name, note in (("year", NOT_YEAR), ("month", NOT_MONTH)):
            if not notes.count(note):
                logger.info(
                    "timestamps are %ss: a snapshot is a %s; data.time_unit=day divides time by days", name, name
                )
                return name
    return unit


def fitting_formats(texts: pa.Array | pa.ChunkedArray, formats: Iterable[str]) -> list[str]:
    """Those of some formats that read the most texts, if these are at least half of them; nulls do not count."""
    distinct = texts.unique().drop_null()
    fit = list(formats)
    for part in (distinct.slice(0, _FIRST_TEXTS), distinct):
        if len(part):
            read = [np.count_nonzero(~read_timestamps(part, TimeForm(format=one)).unparseable) for one in fit]
            least = max([len(part) / 2, *read])
            fit = [one for one, count in zip(fit, read, strict=True) if count >= least]
    return fit


def require_used(zone: str | None, kind: TimeKind) -> None:
    """Refuse a zone for timestamps that have none.

    Raises:
        ConfigError: `data.time_zone` is set, and the timestamps are plain integers.
    """
    if zone is not None and kind == "integer":
        raise ConfigError(
            f"data.time_zone={zone}: the timestamps are integers, which have no time zone; remove it, or say with "
            "data.time_format what dates they are"
        )


def require_kind(kind: TimeKind | None, axis: TimeAxis, files: Sequence[str]) -> None:
    """Refuse dates and text where the timestamps of a graph are integers; `kind` is what the schemas say.

    Raises:
        DataError: So it is.
    """
    if kind == "timestamp" and axis.kind == "integer":
        raise DataError(
            f"{files[0]}: the timestamps are dates or text, and those of the graph are integers, for instance "
            f"{axis.origin}; store them as integers"
        )


def read_as(kind: TimeKind, axis: TimeAxis, zone: str | None, notes: Notes, files: Sequence[str]) -> TimeKind:
    """What new timestamps are, so that a graph's axis reads them as `prepare` would read them with the graph's facts.

    Args:
        kind: What the schemas say.
        axis: The graph's axis.
        zone: `data.time_zone` of the graph.
        notes: Notes of the new rows.
        files: Name of each source.

    Returns:
        "timestamp" where integers are dates like 20240131, else `kind`.

    Raises:
        DataError: They are integers and no dates on an axis of dates, or have a time zone where those of the graph have
            none, or none where those of the graph have one, or both.
    """
    if kind == axis.kind == "integer":
        return kind
    if kind == "integer" and notes.count(NOT_DATE_DIGITS):
        raise DataError(
            f"{notes.first(NOT_DATE_DIGITS, files)} has an integer timestamp that is no date like 20240131 (YYYYMMDD), "
            "and those of the graph are dates; store them as dates or ISO strings"
        )
    require_one_clock(notes, files)
    if axis.zone is None and notes.count(ZONED):
        raise DataError(
            f"{notes.first(ZONED, files)} has a timestamp with a time zone, and those of the graph have none; write "
            "all of them without, on the same clock"
        )
    if axis.zone is not None and zone is None and (kind == "integer" or notes.count(NOT_ZONED)):
        place = files[0] if kind == "integer" else notes.first(NOT_ZONED, files)
        raise DataError(
            f"{place} has a timestamp without a time zone, and those of the graph have one; "
            "write it with an offset, as 2024-03-31T12:00+02:00"
        )
    return axis.kind
