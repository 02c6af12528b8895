"""Validation of raw fact tables: every row is either good or quarantined with a reason, none is dropped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.config import ColumnsConfig
from gam_kg.data.timestamps import TimeKind, is_text, read_timestamps, time_kind
from gam_kg.errors import DataError
from gam_kg.schemas import QUARANTINE, SPLITS

FACTS = pa.schema(
    [
        pa.field("subject", pa.large_string(), nullable=False),
        pa.field("relation", pa.large_string(), nullable=False),
        pa.field("object", pa.large_string(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("end", pa.int64()),
        pa.field("split", pa.string()),
        pa.field("row", pa.int64(), nullable=False),
    ]
)

DUPLICATE = "duplicate"
NAME_COLUMNS = ("subject", "relation", "object")
REQUIRED_COLUMNS = (*NAME_COLUMNS, "timestamp")
OPTIONAL_COLUMNS = ("end_timestamp", "split")

_NAME_TYPES = "string, large_string, dictionary of strings, or any integer type"
_TIME_TYPES = "any integer type, date32, date64, timestamp, or ISO 8601 strings"
_SPLIT_TYPES = "string, large_string or dictionary of strings"


@dataclass(frozen=True)
class Validated:
    """The two halves of a raw table.

    Attributes:
        good: FACTS: names exactly as given (integers in decimal), timestamps as int64 (see `gam_kg.data.timestamps`),
            `end` and `split` null where the input has none, `row` from 0 within the file.
        quarantined: QUARANTINE: the original values as text, the row and the reason.
    """

    good: pa.Table
    quarantined: pa.Table


def check_schema(schema: pa.Schema, columns: ColumnsConfig, file: str) -> TimeKind | None:
    """Refuse a file whose columns are missing or of a type that cannot hold facts.

    Args:
        schema: The file's schema.
        columns: The names the columns go by.
        file: For messages.

    Returns:
        What the timestamps are; None where the column is untyped, that is, all null.

    Raises:
        DataError: Names the file, the column, its type, what is allowed and the columns there are.
    """
    missing = [name for name in REQUIRED_COLUMNS if getattr(columns, name) not in schema.names]
    if missing:
        wanted = ", ".join(repr(getattr(columns, name)) for name in missing)
        raise DataError(
            f"{file}: no column {wanted}; it has {', '.join(map(repr, schema.names))}. "
            f"Name the right ones, for instance data.columns.{missing[0]}=NAME"
        )
    for name in NAME_COLUMNS:
        _check_type(schema, getattr(columns, name), file, _is_name_type, _NAME_TYPES)
    _check_type(schema, columns.timestamp, file, _is_time_type, _TIME_TYPES)
    kind = time_kind(schema.field(columns.timestamp).type)
    if columns.end_timestamp in schema.names:
        _check_type(schema, columns.end_timestamp, file, _is_time_type, _TIME_TYPES)
        end = time_kind(schema.field(columns.end_timestamp).type)
        require_one_kind({f"{file}, column {columns.timestamp!r}": kind, f"column {columns.end_timestamp!r}": end})
    if columns.split in schema.names:
        _check_type(schema, columns.split, file, _is_split_type, _SPLIT_TYPES)
    return kind


def require_one_kind(kinds: Mapping[str, TimeKind | None]) -> TimeKind | None:
    """The kind all timestamps share; None if none of them is typed.

    Args:
        kinds: Kind by file (or column), for the message.

    Raises:
        DataError: Integers and dates are mixed; names one place of each.
    """
    first: dict[str, str] = {}
    for place, kind in kinds.items():
        if kind is not None:
            first.setdefault(kind, place)
    if len(first) > 1:
        raise DataError(
            f"timestamps are integers in {first['integer']}, but dates in {first['timestamp']}; "
            "store all of them as integers, or all of them as dates, timestamps or ISO strings"
        )
    return "integer" if "integer" in first else ("timestamp" if first else None)


def validate(
    table: pa.Table, columns: ColumnsConfig, file: str, first_row: int, *, use_split: bool = True
) -> Validated:
    """Divide a raw table into good and quarantined rows.

    Args:
        table: Rows of one file, with a schema that `check_schema` passed.
        columns: The names the columns go by.
        file: For the quarantine.
        first_row: Row number, from 0 within the file, of the table's first row.
        use_split: Whether an unknown split value makes a row bad; not where boundaries divide time.
    """
    raw = {
        name: _decoded(table[getattr(columns, name)])
        for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
        if getattr(columns, name) in table.column_names
    }
    if not use_split:
        raw.pop("split", None)
    names = {name: raw[name].cast(pa.large_string()) for name in NAME_COLUMNS}
    start = read_timestamps(raw["timestamp"])
    end = read_timestamps(raw["end_timestamp"]) if "end_timestamp" in raw else None
    split = raw["split"].cast(pa.string()) if "split" in raw else pa.nulls(len(table), pa.string())

    checks: list[tuple[str, np.ndarray]] = []
    for name, values in names.items():
        checks.append((f"null_{name}", np.asarray(values.is_null())))
        checks.append((f"empty_{name}", _mask(pc.equal(pc.utf8_trim_whitespace(values), ""))))
    checks.append(("null_timestamp", start.null))
    for found in (start, end) if end is not None else (start,):
        checks.append(("unparseable_timestamp", found.unparseable))
        checks.append(("out_of_range_timestamp", found.out_of_range))
    if end is not None:
        checks.append(("end_before_start", ~end.null & (end.values < start.values)))
    if "split" in raw:
        checks.append(("unknown_split", ~np.asarray(pc.is_in(split, value_set=pa.array(SPLITS)))))

    reason = np.select([mask for _, mask in checks], np.arange(len(checks)), default=-1)
    row = np.arange(first_row, first_row + len(table), dtype=np.int64)
    ends = pa.nulls(len(table), pa.int64()) if end is None else pa.array(end.values, pa.int64(), mask=end.null)
    good = np.flatnonzero(reason < 0)
    rows = [*names.values(), pa.array(start.values, pa.int64()), ends, split, pa.array(row)]
    bad = np.flatnonzero(reason >= 0)
    reasons = [checks[code][0] for code in reason[bad]]
    return Validated(
        # Nulls are possible in any column until the bad rows are gone, so the schema is put on last.
        pa.table(rows, names=FACTS.names).take(pa.array(good)).cast(FACTS),
        quarantine(table, columns, file, first_row, bad, reasons),
    )


def quarantine(
    table: pa.Table, columns: ColumnsConfig, file: str, first_row: int, positions: np.ndarray, reasons: list[str]
) -> pa.Table:
    """Rows of a raw table as QUARANTINE, with their original values as text.

    Args:
        table: Rows of one file.
        columns: The names the columns go by.
        file: Where they are from.
        first_row: Row number of the table's first row.
        positions: Rows within the table, shape (num_bad,).
        reasons: One for each position.
    """
    picked = table.take(pa.array(positions, pa.int64()))
    originals = [
        _as_text(_decoded(picked[getattr(columns, name)]))
        if getattr(columns, name) in table.column_names
        else pa.nulls(len(picked), pa.large_string())
        for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    ]
    files = pa.array([file] * len(picked), pa.large_string())
    return pa.table(
        [files, pa.array(positions + first_row, pa.int64()), pa.array(reasons, pa.string()), *originals],
        schema=QUARANTINE,
    )


def _check_type(schema: pa.Schema, column: str, file: str, allows: Callable[[pa.DataType], bool], allowed: str) -> None:
    found = schema.field(column).type
    if allows(found):
        return
    hint = ""
    if pa.types.is_floating(found):
        hint = "; floats cannot hold ids or timestamps exactly, cast the column to integers (pandas: astype('Int64'))"
    raise DataError(
        f"{file}: column {column!r} has type {found}, allowed: {allowed}{hint}. "
        f"The file's columns are {', '.join(map(repr, schema.names))}"
    )


def _is_name_type(found: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        return _is_name_type(found.value_type)
    return is_text(found) or pa.types.is_integer(found) or pa.types.is_null(found)


def _is_split_type(found: pa.DataType) -> bool:
    return _is_name_type(found) and not pa.types.is_integer(getattr(found, "value_type", found))


def _is_time_type(found: pa.DataType) -> bool:
    try:
        time_kind(found)
    except TypeError:
        return False
    return True


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _as_text(values: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(values.type) and values.type.tz is not None:
        # Formatting in a zone needs the machine's zone database; the stored instant is in UTC.
        utc = values.cast(pa.int64()).cast(pa.timestamp(values.type.unit)).cast(pa.large_string())
        return pc.binary_join_element_wise(utc, pa.scalar("Z", pa.large_string()), pa.scalar("", pa.large_string()))
    return values.cast(pa.large_string())


def _mask(values: pa.Array) -> np.ndarray:
    return np.asarray(values.fill_null(False))
