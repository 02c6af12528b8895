"""Input files → good rows and rows that cannot be stored, and what is counted before snapshots are known.

Each function works on some row groups, or on the rows of some, so that many processes may share a large input.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import DataError
from gam_kg.ingest.merging import SOURCED_FACTS
from gam_kg.ingest.sources import RowGroup, Sources
from gam_kg.ingest.splits import Extremes, Place, extreme, split_extremes
from gam_kg.ingest.time_axis import TimeAxis, TimestampRange
from gam_kg.ingest.time_notes import Notes
from gam_kg.ingest.timestamps import TimeForm, date_of_digits
from gam_kg.ingest.validation import Validated, quarantine, validate
from gam_kg.schemas import QUARANTINE

# Intervals beyond this are open ends written as a far date, or a time unit too fine for the data.
MAX_SNAPSHOTS_PER_FACT = 100_000

Interval = tuple[int, int, int, int, int]
"""(length, timestamp, end, source, row) of a row."""

Refused = Mapping[str, Mapping[int, np.ndarray]]
"""Reason → source → row numbers, ascending, of good rows that are not stored all the same."""


@dataclass(frozen=True)
class Reader:
    """Reads and validates the input.

    Attributes:
        sources: The files.
        columns: Their names of the columns.
        form: How timestamps are read.
        folds: Differences between names that do not count.
        use_split: Whether the split column matters.
    """

    sources: Sources
    columns: ColumnsConfig
    form: TimeForm
    folds: tuple[str, ...]
    use_split: bool

    def tables(self, groups: pa.Table) -> Iterator[tuple[int, int, pa.Table, Validated]]:
        """(source, first row, raw table, the same validated) of each piece of some row groups."""
        for values in groups.to_pylist():
            group = RowGroup(**values)
            for table, first_row in self.sources.read(group, self.columns):
                found = validate(
                    table,
                    self.columns,
                    self.sources.names[group.source],
                    first_row,
                    use_split=self.use_split,
                    form=self.form,
                    folds=self.folds,
                )
                yield group.source, first_row, table, found


@dataclass(frozen=True)
class FactsSummary:
    """Counts of a block of facts.

    Attributes:
        notes: Notes of all rows.
        timestamps: Range of all starts and ends; None without rows.
        extremes: Those of the splits.
        longest: The longest interval.
        first_open: (timestamp, source, row) of the earliest row without an end; None if there is none.
        latest: The latest start or end.
    """

    notes: Notes
    timestamps: TimestampRange | None
    extremes: Extremes
    longest: Interval
    first_open: Place | None
    latest: int


def read_facts(groups: pa.Table, reader: Reader) -> Iterator[pa.Table]:
    """Row groups → the good rows, as SOURCED_FACTS."""
    for source, _, _, found in reader.tables(groups):
        number = pa.array(np.full(len(found.good), source, np.int32))
        yield pa.table([*found.good.columns, number], schema=SOURCED_FACTS)


def read_quarantine(groups: pa.Table, reader: Reader, refused: Refused) -> Iterator[pa.Table]:
    """Row groups → the bad rows and the refused ones with their original values, as QUARANTINE in row order."""
    yield QUARANTINE.empty_table()
    for source, first_row, table, found in reader.tables(groups):
        file, tables = reader.sources.names[source], [found.quarantined]
        for reason, rows_of_source in refused.items():
            rows = rows_of_source.get(source, np.empty(0, np.int64))
            here = rows[slice(*np.searchsorted(rows, [first_row, first_row + len(table)]))] - first_row
            tables.append(quarantine(table, reader.columns, file, first_row, here, [reason] * len(here)))
        yield pa.concat_tables(tables).sort_by("row")


def read_date_digits(facts: pa.Table) -> pa.Table:
    """SOURCED_FACTS whose timestamps are integers like 20240131 → the same with dates."""
    for name in ("timestamp", "end"):
        column = facts.column_names.index(name)
        dates, _ = date_of_digits(facts[name].fill_null(0).to_numpy())
        dates = pa.array(dates, mask=facts[name].is_null().to_numpy())
        facts = facts.set_column(column, SOURCED_FACTS.field(name), dates)
    return facts


def summarise_facts(facts: pa.Table) -> FactsSummary:
    """Summarise a block of facts whose snapshots are not known yet."""
    if not len(facts):
        return FactsSummary(Notes(0, {}), None, {}, (0, 0, 0, 0, 0), None, 0)
    timestamp, source, row = (facts[name].to_numpy() for name in ("timestamp", "source", "row"))
    with_end = facts["end"].is_valid().to_numpy()
    end = np.where(with_end, facts["end"].fill_null(0).to_numpy(), timestamp)
    at = int(np.argmax(end - timestamp))
    found = TimestampRange.merge([TimestampRange.of(timestamp), TimestampRange.of(end)])
    longest = (int(end[at] - timestamp[at]), int(timestamp[at]), int(end[at]), int(source[at]), int(row[at]))
    open_rows = facts.filter(facts["end"].is_null())
    first_open = extreme(open_rows, "ascending") if len(open_rows) else None
    return FactsSummary(Notes.of(facts), found, split_extremes(facts), longest, first_open, int(end.max()))


def require_short(axis: TimeAxis, summaries: Iterable[FactsSummary], files: Sequence[str], last: int | None) -> None:
    """Refuse facts that hold in too many snapshots.

    Args:
        axis: The time axis.
        summaries: Those of all blocks that have facts.
        files: Name of each source.
        last: The last snapshot of the data, where facts without an end hold up to it.

    Raises:
        DataError: Names the row.
    """
    summaries = [*summaries]
    _, start, end, source, row = max((found.longest for found in summaries), default=(0, 0, 0, 0, 0))
    first, stop = axis.snapshot(np.array([start, end])).tolist()
    opened = min((found.first_open for found in summaries if found.first_open is not None), default=None)
    if last is not None and opened is not None:
        begin = int(axis.snapshot(np.array(opened[:1]))[0])
        if last - begin > stop - first:
            (first, stop), (_, source, row) = (begin, last), opened
    if stop - first >= MAX_SNAPSHOTS_PER_FACT:
        advice = ", or leave the end empty where it is not known" if last is None else ""
        raise DataError(
            f"row {row} of {files[source]} is valid from {axis.label(first)} to {axis.label(stop)}, "
            f"{stop - first + 1} snapshots; at most {MAX_SNAPSHOTS_PER_FACT} are allowed. Use a longer data.time_unit "
            f"(now {axis.unit}){advice}"
        )
