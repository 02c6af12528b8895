"""Facts from CSV and TSV files with a header, read in blocks so that memory does not grow with the files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.data_config import ColumnsConfig, DataConfig
from gam_kg.errors import DataError
from gam_kg.importers.csv_table import TextTable, assignment, open_table
from gam_kg.importers.fact_file import ImportSummary, facts_schema, writing_facts
from gam_kg.importers.source import IMPORTABLE, Source
from gam_kg.importers.table_times import WholeNumbers
from gam_kg.ingest.column_names import looks_like, respelt
from gam_kg.ingest.names import strip_cells
from gam_kg.ingest.validation import NAME_COLUMNS, OPTIONAL_COLUMNS, REQUIRED_COLUMNS, TIME_COLUMNS
from gam_kg.schemas import SPLITS

TABLE_ENDINGS = (".csv", ".tsv", ".tab", ".psv")
PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")


def import_tables(
    source: Source, out: Path, data: DataConfig, prefix: str, recorded: dict[str, str], *, may_be_empty: bool = False
) -> ImportSummary:
    """Import tables of facts, one after another.

    The first line of each names the columns. Names lose white space and control characters around them; otherwise
    subjects, relations, objects and splits stay text ("007" stays "007"). Empty cells become nulls, for `prepare` to
    report. Timestamps become int64 if every one is a whole number, and stay text otherwise or where `data.time_format`
    is set. Files named train, valid and test without a column split get one. The files are read twice, the first time
    for the timestamps only.

    Args:
        source: The files.
        out: Parquet file to write: subject, relation, object, timestamp, and end_timestamp and split if
            present.
        data: `columns` names the columns of the tables; `csv` is how they are read.
        prefix: What stands before the settings of `data`, for messages.
        recorded: Key → text about the source, for the file's metadata.
        may_be_empty: Whether there may be no facts.

    Raises:
        ConfigError: There is no such encoding.
        DataError: A file cannot be read, lacks a column, or has a row of another length than its header; or there are
            no facts.
        OutputError: `out` cannot be written.
    """
    tables, left_out = _open_tables(source, data, prefix)
    found = _find_columns(tables[0], data.columns, prefix)
    for table in tables[1:]:
        if (others := _find_columns(table, data.columns, prefix)) != found:
            odd = next(iter(set(found).symmetric_difference(others)))
            raise DataError(f"only one of {tables[0].path} and {table.path} has a column for {odd}; give it to both")
    splits = {} if "split" in found else _splits_of_files(tables)
    times = _look_at_times(tables, found, data, prefix)
    integers = bool(times) and all(one.all_whole for one in times.values())
    kind = pa.int64() if integers else pa.large_string()
    types: dict[str, pa.DataType] = {key: kind for key in TIME_COLUMNS if key in found}
    schema = facts_schema(recorded, types | ({"split": pa.string()} if "split" in found or splits else {}))
    num_read = num_facts = num_stripped = 0
    with writing_facts(out, schema) as writer:
        for table in tables:
            for raw in table.blocks(found.values(), found.values()):
                block = pa.table([strip_cells(texts) for texts in raw.columns], names=[*found])
                num_read += len(raw)
                num_stripped += sum(_num_changed(raw[found[name]], block[name]) for name in NAME_COLUMNS)
                block = block.filter(~np.logical_and.reduce([texts.is_null() for texts in block.columns]))
                num_facts += len(block)
                columns = dict(zip(block.column_names, block.columns, strict=True))
                if integers:
                    columns |= {name: times[name].integers(columns[name]) for name in types}
                if splits:
                    columns["split"] = pa.repeat(splits[table.path], len(block))
                writer.write_table(pa.table(columns).select(schema.names).cast(schema))
        if not num_facts and not may_be_empty:
            raise DataError(f"{source.name}: no facts below the header")
    notes = [f"columns that are not used: {', '.join(unused)}"] if (unused := _unused(tables, found)) else []
    notes += [note for one in times.values() if (note := one.note(are_integers=integers))]
    if not source.named:
        more = [f"... and {len(left_out) - 10:,} more"] if len(left_out) > 10 else []
        notes.append(f"read {len(tables):,} files, left out {len(left_out):,}")
        notes += [*(f"left out {one}" for one in left_out[:10]), *more]
    return ImportSummary(
        source=source.name,
        out=out,
        num_facts=num_facts,
        num_empty=num_read - num_facts,
        num_stripped=num_stripped,
        notes=tuple(notes),
    )


def _open_tables(source: Source, data: DataConfig, prefix: str) -> tuple[list[TextTable], list[str]]:
    """The tables among the files, and the other files, each with its reason.

    Raises:
        DataError: A file that is a table by its name, or the only one, cannot be read as one; or there is no table.
    """
    tables, left_out = [], [*source.left_out]
    named = data.columns.model_dump()
    for path in source.files:
        try:
            table = open_table(path, data, prefix, [named[key] for key in REQUIRED_COLUMNS])
            _find_columns(table, data.columns, prefix)
            tables.append(table)
        except DataError as error:
            if source.named or _ends_as_table(path):
                raise
            left_out.append(f"{path}: {_reason(error, path)}")
    if not tables:
        raise DataError(
            f"{source.name}: no train.txt, and no table among {len(left_out):,} files ({left_out[0]}); "
            f"allowed: {IMPORTABLE}"
        )
    return tables, left_out


def _reason(error: DataError, path: Path) -> str:
    """The first part of a message, without the file."""
    return str(error).partition(";")[0].replace(str(path), "").removeprefix("cannot read").strip(" :,")


def _ends_as_table(path: Path) -> bool:
    name = path.name.lower()
    for ending in PACKED_ENDINGS:
        name = name.removesuffix(ending)
    return name.endswith(TABLE_ENDINGS)


def _find_columns(table: TextTable, columns: ColumnsConfig, prefix: str) -> dict[str, str]:
    """Our name → the table's name, of the columns to read.

    Raises:
        DataError: A required column is missing, or one that the user names; or one is there in another spelling only.
    """
    named = columns.model_dump()
    found = {key: named[key] for key in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if named[key] in table.header}
    chosen = [key for key in OPTIONAL_COLUMNS if named[key] != ColumnsConfig.model_fields[key].default]
    missing = [key for key in (*REQUIRED_COLUMNS, *chosen) if key not in found]
    free = [name for name in table.header if name not in found.values()]
    alike = {role: name for name in free if (role := looks_like(name, named)) not in found and role is not None}
    misspelt = {role: name for name in free if (role := respelt(name, named)) is not None and role not in found}
    if not missing and not misspelt:
        return found
    wrong = ", ".join(f"{key} ({named[key]!r})" for key in missing or misspelt)
    guesses = {key: alike.get(key, "NAME") for key in missing or misspelt}
    raise DataError(
        f"{table.path}, line 1: no column for {wrong}; the header is {', '.join(map(repr, table.header))}. Name the "
        f"columns: {' '.join(assignment(prefix, f'columns.{key}', name) for key, name in guesses.items())}"
    )


def _look_at_times(
    tables: list[TextTable], found: dict[str, str], data: DataConfig, prefix: str
) -> dict[str, WholeNumbers]:
    """What the texts of the columns of timestamps are.

    Raises:
        DataError: All would be whole numbers with the other decimal sign, or by two readings.
    """
    times = {key: WholeNumbers(found[key], data.csv.decimal) for key in TIME_COLUMNS if key in found}
    for table in tables:
        for block in table.blocks([found[key] for key in times], ()):
            for one, texts in zip(times.values(), block.columns, strict=True):
                one.look_at(strip_cells(texts))
    for one in times.values():
        one.refuse_two_readings(prefix)
    return times if data.time_format is None else {}


def _splits_of_files(tables: list[TextTable]) -> dict[Path, str]:
    """The split that each file is named after, as in train.csv; none where no file is.

    Raises:
        DataError: Some files are named after a split and others are not.
    """
    named = {table.path: table.path.name.split(".")[0].lower() for table in tables}
    others = [path for path, name in named.items() if name not in SPLITS]
    if len(named) == 1:
        return {}
    if others and len(others) < len(named):
        first = next(path for path in named if path not in others)
        raise DataError(
            f"{first} is named after a split and {others[0]} is not; name each file train, valid or test, or give all "
            "of them a column split"
        )
    return {} if others else named


def _unused(tables: list[TextTable], found: dict[str, str]) -> list[str]:
    names = dict.fromkeys(name for table in tables for name in table.header if name not in found.values())
    return [repr(name) for name in names]


def _num_changed(raw: pa.ChunkedArray, clean: pa.ChunkedArray) -> int:
    return pc.sum(pc.not_equal(raw, clean)).as_py() or 0
