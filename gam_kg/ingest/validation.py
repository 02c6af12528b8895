"""Validation of raw fact tables: every row is either good or quarantined with a reason, none is dropped."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import DataError
from gam_kg.ingest.names import clean_names, strip_names
from gam_kg.ingest.text_columns import is_text, text_of, valid_utf8
from gam_kg.ingest.time_types import TimeType, require_one_time, time_type
from gam_kg.ingest.time_zones import UTC_NAME
from gam_kg.ingest.timestamps import ISO, TimeForm, Timestamps, read_timestamps
from gam_kg.schemas import QUARANTINE, SPLITS, table_schema

DUPLICATE, UNPARSEABLE = "duplicate", "unparseable_timestamp"
NAME_COLUMNS = ("subject", "relation", "object")
TIME_COLUMNS = ("timestamp", "end_timestamp")
REQUIRED_COLUMNS = (*NAME_COLUMNS, "timestamp")
OPTIONAL_COLUMNS = ("end_timestamp", "split")

FACTS = table_schema(
    dict.fromkeys(NAME_COLUMNS, pa.large_string())
    | {"timestamp": pa.int64(), "end": pa.int64(), "split": pa.string(), "row": pa.int64(), "notes": pa.uint8()},
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


# Notes beside those of `gam_kg.ingest.timestamps`: a name of the row was stripped or folded; both entities, or the
# relation, are integers in the input.
RENAMED, INTEGER_ENTITIES, INTEGER_RELATION = 32, 64, 128


@dataclass(frozen=True)
class Validated:
    """The two halves of a raw table.

    Attributes:
        good: FACTS: names stripped and folded (integers in decimal), timestamps as int64 (see
            `gam_kg.ingest.timestamps`), `end` and `split` null where the input has none, `row` from 0 within the file,
            `notes` with those of the timestamps and RENAMED, INTEGER_ENTITIES, INTEGER_RELATION.
        quarantined: QUARANTINE: the original values as text, the row and the reason.
    """

    good: pa.Table
    quarantined: pa.Table


def check_schema(schema: pa.Schema, columns: ColumnsConfig, file: str) -> TimeType:
    """Refuse a file whose columns are missing or of a type that cannot store facts.

    Args:
        schema: The file's schema.
        columns: The file's name of each column.
        file: For messages.

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
    times = {
        f"{file}, column {found[name]!r}": schema.field(found[name]).type for name in TIME_COLUMNS if name in found
    }
    return require_one_time({place: time_type(data_type, place) for place, data_type in times.items()})


def validate(
    table: pa.Table,
    columns: ColumnsConfig,
    file: str,
    first_row: int,
    *,
    use_split: bool = True,
    form: TimeForm = ISO,
    folds: Collection[str] = (),
) -> Validated:
    """Divide a raw table into good and quarantined rows.

    Args:
        table: Rows of one file, with a schema that `check_schema` passed.
        columns: The file's name of each column.
        file: For the quarantine.
        first_row: Number of the table's first row, from 0 within the file.
        use_split: Whether an unknown split value makes a row bad; not where boundaries divide time.
        form: How timestamps are read.
        folds: `data.normalize_names`.
    """
    raw, valid = _valid_columns(_decoded_columns(table, columns))
    given = [raw[name].cast(pa.large_string()) for name in NAME_COLUMNS]
    names = [clean_names(values, folds) for values in given]
    start, end = (read_timestamps(raw[name], form) for name in TIME_COLUMNS)
    ends, early = _ends(start, end, raw, form)
    use_split = use_split and columns.split in table.column_names
    split = strip_names(raw["split"].cast(pa.string())) if use_split else pa.nulls(len(table), pa.string())

    # The reason for a row is the first check that it fails.
    checks = [("invalid_utf8", ~valid)]
    for name, values in zip(NAME_COLUMNS, names, strict=True):
        checks.append((f"null_{name}", np.asarray(values.is_null())))
        checks.append((f"empty_{name}", np.asarray(pc.equal(values.fill_null(""), ""))))
    checks.append(("null_timestamp", start.null))
    for found in (start, end):
        checks.append((UNPARSEABLE, found.unparseable))
        checks.append(("out_of_range_timestamp", found.out_of_range))
    checks.append(("end_before_start", early))
    checks.append(("unknown_split", use_split & ~np.asarray(pc.is_in(split, value_set=pa.array(SPLITS)))))
    reason = np.select([failed for _, failed in checks], np.arange(len(checks)), default=-1)

    renamed = [pc.not_equal(*pair).fill_null(False) for pair in zip(given, names, strict=True)]
    notes = start.notes | end.notes | np.where(np.any(renamed, axis=0), np.uint8(RENAMED), np.uint8(0))
    for note, roles in {INTEGER_ENTITIES: ("subject", "object"), INTEGER_RELATION: ("relation",)}.items():
        if all(pa.types.is_integer(raw[role].type) for role in roles):
            notes |= np.uint8(note)
    rows = [*names, start.values, ends, split, np.arange(first_row, first_row + len(table)), notes]
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
    texts = [text_of(originals[name]) for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)]
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


def _valid_columns(raw: dict[str, pa.Array]) -> tuple[dict[str, pa.Array], np.ndarray]:
    """The columns with nulls for text that is no UTF-8, and which rows have none of it."""
    rows = np.ones(len(raw["subject"]), bool)
    found = dict(raw)
    for name, values in raw.items():
        if is_text(values.type) and not (valid := valid_utf8(values)).all():
            found[name] = pc.if_else(pa.array(valid), values, None)
            rows &= valid
    return found, rows


def _ends(start: Timestamps, end: Timestamps, raw: dict[str, pa.Array], form: TimeForm) -> tuple[pa.Array, np.ndarray]:
    """Ends, null where there are none; and which of them are before their start."""
    early = ~end.null & (end.values < start.values)
    values = end.values
    if form.zone != UTC_NAME and early.any():
        # A clock that is set back in autumn shows an end before its start.
        instants = [read_timestamps(raw[name], replace(form, zone=UTC_NAME)).values for name in TIME_COLUMNS]
        set_back = early & (instants[0] <= instants[1])
        values, early = np.where(set_back, start.values, values), early & ~set_back
    return pa.array(values, mask=end.null), early
