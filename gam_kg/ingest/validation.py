"""Validation of raw fact tables: every row is either good or quarantined with a reason, none is dropped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.config import ColumnsConfig
from gam_kg.errors import DataError
from gam_kg.ingest.timestamps import TimeKind, is_text, read_timestamps, time_kind
from gam_kg.schemas import QUARANTINE, SPLITS, table_schema

DUPLICATE = "duplicate"
NAME_COLUMNS = ("subject", "relation", "object")
TIME_COLUMNS = ("timestamp", "end_timestamp")
REQUIRED_COLUMNS = (*NAME_COLUMNS, "timestamp")
OPTIONAL_COLUMNS = ("end_timestamp", "split")

FACTS = table_schema(
    dict.fromkeys(NAME_COLUMNS, pa.large_string())
    | {"timestamp": pa.int64(), "end": pa.int64(), "split": pa.string(), "row": pa.int64()},
    nullable=("end", "split"),
)

_TEXT = (is_text, pa.types.is_null)
_NAME = (*_TEXT, pa.types.is_integer), "string, large_string, dictionary of strings, or any integer type"
_TIME = (
    (*_TEXT, pa.types.is_integer, pa.types.is_date, pa.types.is_timestamp),
    "any integer type, date32, date64, timestamp, or ISO 8601 strings",
)
_SPLIT = _TEXT, "string, large_string or dictionary of strings"
_ALLOWED_TYPES = dict.fromkeys(NAME_COLUMNS, _NAME) | dict.fromkeys(TIME_COLUMNS, _TIME) | {"split": _SPLIT}


@dataclass(frozen=True)
class Validated:
    """The two halves of a raw table.

    Attributes:
        good: FACTS: names exactly as given (integers in decimal), timestamps as int64 (see `gam_kg.ingest.timestamps`),
            `end` and `split` null where the input has none, `row` from 0 within the file.
        quarantined: QUARANTINE: the original values as text, the row and the reason.
    """

    good: pa.Table
    quarantined: pa.Table


def check_schema(schema: pa.Schema, columns: ColumnsConfig, file: str) -> TimeKind | None:
    """Refuse a file whose columns are missing or of a type that cannot store facts.

    Args:
        schema: The file's schema.
        columns: The file's name of each column.
        file: For messages.

    Returns:
        What the timestamps are; None where they are untyped, that is, all null.

    Raises:
        DataError: A column is missing or of a wrong type; names the file, the column, what is allowed and all columns.
    """
    missing = [name for name in REQUIRED_COLUMNS if getattr(columns, name) not in schema.names]
    if missing:
        raise DataError(
            f"{file}: no column {', '.join(repr(getattr(columns, name)) for name in missing)}; it has "
            f"{', '.join(map(repr, schema.names))}. Name the right ones, for instance data.columns.{missing[0]}=NAME"
        )
    found = {name: column for name, column in columns.model_dump().items() if column in schema.names}
    for name, column in found.items():
        _check_type(schema, column, file, *_ALLOWED_TYPES[name])
    times = [found[name] for name in TIME_COLUMNS if name in found]
    kinds = {f"{file}, column {column!r}": time_kind(schema.field(column).type) for column in times}
    require_one_kind(kinds)
    return next(iter(kinds.values()))


def require_one_kind(kinds: Mapping[str, TimeKind | None]) -> TimeKind | None:
    """The kind that all timestamps share, from that of each file (or column); None if none of them is typed.

    Raises:
        DataError: Integers and dates are mixed; names the first file (or column) of each.
    """
    first = {kind: place for place, kind in reversed([*kinds.items()]) if kind}
    if len(first) > 1:
        raise DataError(
            f"timestamps are integers in {first['integer']}, but dates in {first['timestamp']}; "
            "store all of them as integers, or all of them as dates, timestamps or ISO strings"
        )
    return next(iter(first), None)


def validate(
    table: pa.Table, columns: ColumnsConfig, file: str, first_row: int, *, use_split: bool = True
) -> Validated:
    """Divide a raw table into good and quarantined rows.

    Args:
        table: Rows of one file, with a schema that `check_schema` passed.
        columns: The file's name of each column.
        file: For the quarantine.
        first_row: Number of the table's first row, from 0 within the file.
        use_split: Whether an unknown split value makes a row bad; not where boundaries divide time.
    """
    raw = _decoded_columns(table, columns)
    names = {name: raw[name].cast(pa.large_string()) for name in NAME_COLUMNS}
    start, end = (read_timestamps(raw[name]) for name in TIME_COLUMNS)
    use_split = use_split and columns.split in table.column_names
    split = raw["split"].cast(pa.string()) if use_split else pa.nulls(len(table), pa.string())

    # The reason for a row is the first check that it fails.
    checks: list[tuple[str, np.ndarray]] = []
    for name, values in names.items():
        checks.append((f"null_{name}", np.asarray(values.is_null())))
        checks.append((f"empty_{name}", np.asarray(pc.equal(pc.utf8_trim_whitespace(values.fill_null("")), ""))))
    checks.append(("null_timestamp", start.null))
    for found in (start, end):
        checks.append(("unparseable_timestamp", found.unparseable))
        checks.append(("out_of_range_timestamp", found.out_of_range))
    checks.append(("end_before_start", ~end.null & (end.values < start.values)))
    checks.append(("unknown_split", use_split & ~np.asarray(pc.is_in(split, value_set=pa.array(SPLITS)))))
    reason = np.select([failed for _, failed in checks], np.arange(len(checks)), default=-1)

    ends = pa.array(end.values, mask=end.null)
    rows = [*names.values(), start.values, ends, split, np.arange(first_row, first_row + len(table))]
    bad = np.flatnonzero(reason >= 0)
    return Validated(
        # Nulls are possible in any column until the bad rows are gone, so the schema is put on last.
        pa.table(rows, names=FACTS.names).filter(pa.array(reason < 0)).cast(FACTS),
        quarantine(table, columns, file, first_row, bad, [checks[code][0] for code in reason[bad]]),
    )


def quarantine(
    table: pa.Table, columns: ColumnsConfig, file: str, first_row: int, positions: np.ndarray, reasons: list[str]
) -> pa.Table:
    """Rows of a raw table (see `validate`) as QUARANTINE, with their original values as text.

    `positions` are rows within the table, shape (num_bad,), each with one of the `reasons`.
    """
    originals = _decoded_columns(table.take(pa.array(positions, pa.int64())), columns)
    texts = [_as_text(originals[name]) for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)]
    return pa.table([[file] * len(positions), positions + first_row, reasons, *texts], schema=QUARANTINE)


def _check_type(
    schema: pa.Schema, column: str, file: str, allows: tuple[Callable[[pa.DataType], bool], ...], allowed: str
) -> None:
    found = schema.field(column).type
    if any(allow(found.value_type if pa.types.is_dictionary(found) else found) for allow in allows):
        return
    hint = ""
    if pa.types.is_floating(found):
        hint = "; floats cannot hold ids or timestamps exactly, cast the column to integers (pandas: astype('Int64'))"
    raise DataError(
        f"{file}: column {column!r} has type {found}, allowed: {allowed}{hint}. "
        f"The file's columns are {', '.join(map(repr, schema.names))}"
    )


def _decoded_columns(table: pa.Table, columns: ColumnsConfig) -> dict[str, pa.Array]:
    """The columns under our names, without dictionaries; nulls for those that the table does not have."""
    found = {}
    for name, column in columns.model_dump().items():
        values = table[column].combine_chunks() if column in table.column_names else pa.nulls(len(table))
        found[name] = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    return found


def _as_text(values: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(values.type) and values.type.tz is not None:
        # Formatting in a zone needs the machine's zone database; the stored instant is in UTC.
        utc = values.cast(pa.int64()).cast(pa.timestamp(values.type.unit)).cast(pa.large_string())
        return pc.replace_substring_regex(utc, "$", "Z")
    return values.cast(pa.large_string())
