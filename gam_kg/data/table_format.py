"""CSV and TSV files with a header, read in blocks so that memory does not grow with the file."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import csv as arrow_csv

from gam_kg.config import ColumnsConfig
from gam_kg.data.fact_file import ImportSummary, facts_schema, writing_facts
from gam_kg.data.text_file import not_utf8, open_text
from gam_kg.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
BLOCK_BYTES = 1 << 24
REQUIRED = ("subject", "relation", "object", "timestamp")
OPTIONAL = ("end_timestamp", "split")
TIMES = ("timestamp", "end_timestamp")


def table_delimiter(path: Path) -> str | None:
    """What separates the columns of a file of this name, or None if its name is not that of a table."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return DELIMITERS.get(suffixes[-1]) if suffixes else None


def import_table(path: Path, out: Path, columns: ColumnsConfig) -> ImportSummary:
    """Import a table of facts: .csv by commas, .tsv and .txt by tabs, each also with .gz.

    The first line names the columns. Subjects, relations, objects and splits are kept as text ("007" stays "007"),
    and empty cells become nulls, for `prepare` to report. Timestamps become int64 if every one is an integer and
    stay text otherwise. The file is read twice, the first time for the timestamps only.

    Args:
        path: The table, UTF-8.
        out: Parquet file to write: subject, relation, object, timestamp, and end_timestamp and split if present.
        columns: Names of the columns in the table.

    Raises:
        DataError: The file cannot be read, lacks a column, or has a row of another length than its header.
    """
    delimiter = table_delimiter(path)
    if delimiter is None:
        raise DataError(f"{path}: a table's name ends with .csv, .tsv or .txt, or one of these and .gz")
    found = _find_columns(path, delimiter, columns)
    types = _timestamp_types(path, delimiter, found)
    end = types.get("end_timestamp")
    schema = facts_schema(
        types["timestamp"], {"source": "table", "import_from": str(path)}, end=end, split="split" in found
    )
    num_facts = 0
    with writing_facts(out, schema) as writer:
        for block in _blocks(path, delimiter, found):
            writer.write_batch(_typed(block, schema))
            num_facts += block.num_rows
        if not num_facts:
            raise DataError(f"{path}: no facts below the header")
    return ImportSummary(source=str(path), format="table", out=out, num_facts=num_facts)


def _find_columns(path: Path, delimiter: str, columns: ColumnsConfig) -> dict[str, str]:
    """Our name → the table's name, of the columns to read."""
    try:
        with open_text(path) as file:
            header = next(csv.reader(file, delimiter=delimiter), None)
    except UnicodeDecodeError:
        raise DataError(not_utf8(path)) from None
    except (OSError, EOFError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not header:
        raise DataError(f"{path} is empty; its first line must name the columns")
    named = columns.model_dump()
    missing = [f"{key} ({named[key]!r})" for key in REQUIRED if named[key] not in header]
    if missing:
        raise DataError(
            f"{path}, line 1: no column for {', '.join(missing)}; the header is {', '.join(map(repr, header))}; "
            "name the columns with data.columns.subject=..., data.columns.relation=... and so on"
        )
    found = {key: named[key] for key in (*REQUIRED, *OPTIONAL) if named[key] in header}
    twice = [name for name in found.values() if header.count(name) > 1]
    if twice:
        raise DataError(f"{path}, line 1: column {twice[0]!r} stands twice in the header; rename one of them")
    return found


def _blocks(path: Path, delimiter: str, found: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """The columns in `found`, as text under our names, in blocks of about `BLOCK_BYTES`."""
    names = list(found.values())
    convert = arrow_csv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pa.large_string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    read = arrow_csv.ReadOptions(block_size=BLOCK_BYTES)
    try:
        with arrow_csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
            for block in reader:
                if any(_has_line_break(column) for column in block.columns):
                    raise DataError(_explain_line_break(path, delimiter, names))
                yield block.rename_columns(list(found))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(_explain(path, delimiter, error)) from None


def _timestamp_types(path: Path, delimiter: str, found: dict[str, str]) -> dict[str, pa.DataType]:
    times = {key: found[key] for key in TIMES if key in found}
    integers = dict.fromkeys(times, True)
    for block in _blocks(path, delimiter, times):
        for key in times:
            integers[key] = integers[key] and _all_integers(block[key])
    return {key: pa.int64() if integers[key] else pa.large_string() for key in times}


def _all_integers(texts: pa.Array) -> bool:
    try:
        texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def _typed(block: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([block[field.name].cast(field.type) for field in schema], schema=schema)


def _has_line_break(texts: pa.Array) -> bool:
    content = texts.buffers()[2]
    return content is not None and b"\n" in content.to_pybytes()


def _explain_line_break(path: Path, delimiter: str, names: list[str]) -> str:
    """A quote that is never closed swallows rows up to the next one, so a name of several lines is refused."""
    with open_text(path) as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        line = 2
        for row in reader:
            if any("\n" in (row[name] or "") for name in names):
                break
            line = reader.line_num + 1
    return (
        f"{path}, line {line}: a quoted cell runs over several lines; allowed: one line a cell in the columns "
        f"{', '.join(names)}; close the quote, or write a quote inside a cell as two and the cell in quotes"
    )


def _explain(path: Path, delimiter: str, error: Exception) -> str:
    """The first row of a wrong length, by line; Arrow counts rows, and not those it skips."""
    try:
        with open_text(path) as file:
            reader = csv.reader(file, delimiter=delimiter)
            header = next(reader)
            for row in reader:
                if row and len(row) != len(header):
                    return (
                        f"{path}, line {reader.line_num}: {len(row)} column(s) where the header has {len(header)}; "
                        f"found {delimiter.join(row)!r}; put cells that contain the delimiter in double quotes"
                    )
    except UnicodeDecodeError:
        return not_utf8(path)
    except (OSError, EOFError, csv.Error):
        pass
    return f"cannot read {path}: {error}"
