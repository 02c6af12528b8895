"""CSV and TSV files with a header, read in blocks so that memory does not grow with the file."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from gam_kg.config import ColumnsConfig
from gam_kg.errors import DataError
from gam_kg.importers.fact_file import IMPORTABLE, ImportSummary, facts_schema, writing_facts
from gam_kg.importers.text_file import open_text
from gam_kg.ingest.validation import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, TIME_COLUMNS

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
BLOCK_BYTES = 1 << 24


def import_table(path: Path, out: Path, columns: ColumnsConfig) -> ImportSummary:
    """Import a table of facts: .csv by commas, .tsv and .txt by tabs, each also with .gz.

    The first line names the columns. Subjects, relations, objects and splits stay text ("007" stays "007"), and empty
    cells become nulls, for `prepare` to report. Timestamps become int64 if every one is an integer and stay text
    otherwise. The file is read twice, the first time for the timestamps only.

    Args:
        path: The table, UTF-8.
        out: Parquet file to write: subject, relation, object, timestamp, and end_timestamp and split if present.
        columns: Names of the columns in the table.

    Raises:
        DataError: The file has another suffix, cannot be read, lacks a column, or has a row of another length than its
            header.
    """
    delimiter = DELIMITERS.get(Path(path.name.lower().removesuffix(".gz")).suffix)
    if delimiter is None:
        raise DataError(f"cannot import {str(path)!r}; allowed: {IMPORTABLE}")
    found = _find_columns(path, delimiter, columns)
    schema = facts_schema({"source": "table", "import_from": str(path)}, _find_types(path, delimiter, found))
    num_facts = 0
    with writing_facts(out, schema) as writer:
        for block in _blocks(path, delimiter, found):
            writer.write_batch(block.select(schema.names).cast(schema))
            num_facts += block.num_rows
        if not num_facts:
            raise DataError(f"{path}: no facts below the header")
    return ImportSummary(source=str(path), out=out, num_facts=num_facts)


def _find_columns(path: Path, delimiter: str, columns: ColumnsConfig) -> dict[str, str]:
    """Our name → the table's name, of the columns to read."""
    with open_text(path) as file:
        header = next(csv.reader(file, delimiter=delimiter), None)
    if not header:
        raise DataError(f"{path} is empty; its first line must name the columns")
    named = columns.model_dump()
    missing = [f"{key} ({named[key]!r})" for key in REQUIRED_COLUMNS if named[key] not in header]
    if missing:
        raise DataError(
            f"{path}, line 1: no column for {', '.join(missing)}; the header is {', '.join(map(repr, header))}; "
            "name the columns with data.columns.subject=..., data.columns.relation=... and so on"
        )
    found = {key: named[key] for key in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if named[key] in header}
    twice = [name for name in found.values() if header.count(name) > 1]
    if twice:
        raise DataError(f"{path}, line 1: column {twice[0]!r} appears twice in the header; rename one of them")
    return found


def _find_types(path: Path, delimiter: str, found: dict[str, str]) -> dict[str, pa.DataType]:
    """Types of the timestamps, and of the split if there is one."""
    types = {key: pa.int64() for key in TIME_COLUMNS if key in found}
    for block in _blocks(path, delimiter, {key: found[key] for key in types}):
        for key, texts in zip(types, block.columns, strict=True):
            try:
                texts.cast(types[key])
            except pa.ArrowInvalid:
                types[key] = pa.large_string()
    return types | ({"split": pa.string()} if "split" in found else {})


def _blocks(path: Path, delimiter: str, found: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """The columns in `found`, as text under our names, in blocks of about `BLOCK_BYTES`."""
    names = list(found.values())
    types = dict.fromkeys(names, pa.large_string())
    convert = arrow_csv.ConvertOptions(
        include_columns=names, column_types=types, null_values=[""], strings_can_be_null=True
    )
    parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    read = arrow_csv.ReadOptions(block_size=BLOCK_BYTES)
    try:
        with arrow_csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
            for block in reader:
                if any(pc.any(pc.match_substring(texts, "\n")).as_py() for texts in block.columns):
                    raise pa.ArrowInvalid("a cell runs over several lines")
                yield block.rename_columns(list(found))
    except (pa.ArrowInvalid, OSError) as error:
        _refuse_bad_row(path, delimiter, names)
        raise DataError(f"cannot read {path}: {error}") from None


def _refuse_bad_row(path: Path, delimiter: str, names: list[str]) -> None:
    """Find the first bad row again, for its line: Arrow counts rows, and not those it skips.

    Raises:
        DataError: A row has another length than the header, or a cell of the named columns has several lines, as a
            quote does that is never closed: it swallows the rows up to the next quote.
    """
    with open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = next(reader)
        line = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(
                    f"{path}, line {line}: {len(row)} column(s) where the header has {len(header)}; "
                    f"found {delimiter.join(row)!r}; put cells that contain the delimiter in double quotes"
                )
            if any("\n" in cell and name in names for cell, name in zip(row, header, strict=False)):
                raise DataError(
                    f"{path}, line {line}: a quoted cell runs over several lines; allowed: one line a cell in the "
                    f"columns {', '.join(names)}; close the quote, or write a quote inside a cell as two and the cell "
                    "in quotes"
                )
            line = reader.line_num + 1
