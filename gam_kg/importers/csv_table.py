"""CSV and TSV files: the separator is found, quotes are strict, and every row has the length of the header."""

import csv
import re
import shlex
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from gam_kg.data_config import CsvConfig, DataConfig
from gam_kg.errors import DataError
from gam_kg.importers.text_file import open_text, text_lines
from gam_kg.ingest.names import strip_cells, strip_names
from gam_kg.text import quoted

SEPARATORS = (",", ";", "\t", "|")
SAMPLE_LINES = 100
PIECE_ROWS = 512
BLOCK_BYTES = 1 << 24
# Spreadsheets write and read such a line in front of the header.
_STATED_SEPARATOR = re.compile(r'"?sep=(.)"?[\r\n]*')


def setting(prefix: str, key: str) -> str:
    """A setting of `data` as the user writes it: data.columns.subject, or subject where the verb imports."""
    return prefix + key if prefix else key.removeprefix("columns.")


def assignment(prefix: str, key: str, value: str) -> str:
    """The setting with a value, fit for a shell."""
    return shlex.quote(f"{setting(prefix, key)}={value}")


@dataclass(frozen=True)
class TextTable:
    """A text table whose dialect is known.

    Attributes:
        path: The file.
        header: Names of its columns, stripped.
        separator: What separates its cells.
        csv: How it is read.
        prefix: What stands before the settings of `data`, for messages.
    """

    path: Path
    header: tuple[str, ...]
    separator: str
    csv: CsvConfig
    prefix: str

    def blocks(self, names: Collection[str], one_line: Collection[str]) -> Iterator[pa.Table]:
        """Some columns as text, exactly as it is in the file, in tables of about `BLOCK_BYTES`.

        Args:
            names: Columns to read, in this order.
            one_line: Columns whose cells must not run over several lines.

        Raises:
            DataError: A row has another length than the header, its quotes are wrong, or a cell of `one_line` has
                several lines.
        """
        positions = [self.header.index(name) for name in names]
        rows = self._rows([self.header.index(name) for name in one_line])
        schema = pa.schema(dict.fromkeys(names, pa.large_string()))
        pieces, size = [], 0
        # Few rows at a time are lists: more would cost the garbage collector more time than all the rest.
        while piece := list(islice(rows, PIECE_ROWS)):
            columns = [pa.array([cells[position] for cells in piece], pa.large_string()) for position in positions]
            pieces.append(pa.record_batch(columns, schema))
            size += pieces[-1].nbytes
            if size >= BLOCK_BYTES:
                yield pa.Table.from_batches(pieces).combine_chunks()
                pieces, size = [], 0
        if pieces:
            yield pa.Table.from_batches(pieces).combine_chunks()

    def _rows(self, one_line: list[int]) -> Iterator[list[str]]:
        with open_text(self.path, self.csv.encoding, setting(self.prefix, "csv.encoding")) as file:
            reader = csv.reader(_table_lines(self.path, file), **_dialect(self.separator, self.csv))
            end, header_passed = 0, False
            try:
                for cells in reader:
                    line, end = end + 1, reader.line_num
                    if not header_passed:
                        header_passed = bool("".join(cells).strip())
                    elif len(cells) == len(self.header):
                        if end > line and any("\n" in cells[at] or "\r" in cells[at] for at in one_line):
                            raise self._refusal(line, "a quoted cell runs over several lines; allowed: one line a cell")
                        yield cells
                    elif "".join(cells).strip():
                        raise self._wrong_length(line, cells)
            except csv.Error as error:
                raise self._refusal(end + 1, _explain(error)) from None

    def _wrong_length(self, line: int, cells: list[str]) -> DataError:
        found = self.separator.join(cells)
        return DataError(
            f"{self.path}, line {line}: {len(cells)} column(s) where the header has {len(self.header)}, separated by "
            f"{_shown(self.separator)}; found {quoted(found, 200)}; put cells that contain the "
            "separator in double quotes"
        )

    def _refusal(self, line: int, found: str) -> DataError:
        return DataError(
            f"{self.path}, line {line}: {found}; close each quote, write a quote inside a quoted cell as two, or set "
            f"{setting(self.prefix, 'csv.quote')}=null if quotes are parts of the cells"
        )


def open_table(path: Path, data: DataConfig, prefix: str, needed: Collection[str] = ()) -> TextTable:
    """Find how a table is written, from its first lines.

    Args:
        path: The file.
        data: `csv` is how tables are read.
        prefix: What stands before the settings of `data`, for messages.
        needed: Columns that it must have to be of use; they help to find the separator.

    Raises:
        ConfigError: There is no such encoding.
        DataError: The file cannot be read or is empty, its separator is not found or ambiguous, or a column is twice
            in its header.
    """
    with open_text(path, data.csv.encoding, setting(prefix, "csv.encoding")) as file:
        lines = list(islice(text_lines(path, file), SAMPLE_LINES))
    if stated := _STATED_SEPARATOR.fullmatch(lines[0]) if lines else None:
        del lines[0]
    given = data.csv.separator or (stated and stated[1])
    candidates = (given,) if given else SEPARATORS
    samples = {separator: sample for separator in candidates if (sample := _sample(lines, separator, data.csv))}
    if not samples:
        found = "is empty" if not "".join(lines).strip() else "begins with a wrong quote"
        raise DataError(f"{path} {found}; its first line must name the columns")
    separator = _choose_separator(path, samples, prefix, needed)
    header = tuple(_stripped(samples[separator][0]))
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}, line 1: column {twice!r} appears twice in the header; rename one of them")
    return TextTable(path, header, separator, data.csv, prefix)


def read_table(path: Path, data: DataConfig, *, prefix: str = "data.") -> pa.Table:
    """`read_tables` as one."""
    return pa.concat_tables(read_tables(path, data, prefix=prefix))


def read_tables(path: Path, data: DataConfig, *, prefix: str = "data.") -> Iterator[pa.Table]:
    """All columns of a CSV or TSV file as text, stripped, null where empty, in tables of limited size.

    Args:
        path: The file, which may be packed; `data.csv` says how it is read, and what is null there is found.
        data: Cells of the columns that `columns` names must be on one line.
        prefix: What stands before the settings of `data`, for messages.

    Yields:
        Tables with a column of large_string for each name in the header; a column without a name becomes "column 3" and
        so on. The first has no rows.

    Raises:
        ConfigError: There is no such encoding.
        DataError: As `open_table` and `TextTable.blocks`.
    """
    table = open_table(path, data, prefix)
    names = [name or f"column {number}" for number, name in enumerate(table.header, start=1)]
    table = replace(table, header=tuple(names))
    one_line = set(data.columns.model_dump().values()).intersection(names)
    schema = pa.schema(dict.fromkeys(names, pa.large_string()))
    yield schema.empty_table()
    for found in table.blocks(names, one_line):
        yield pa.table([strip_cells(column) for column in found.columns], schema)


def _choose_separator(path: Path, samples: dict[str, list[list[str]]], prefix: str, needed: Collection[str]) -> str:
    """The candidate that splits off all needed columns, or else the only one that all rows agree to."""
    sought = {name.casefold() for name in needed}
    splitting = {key: rows for key, rows in samples.items() if len(rows[0]) > 1}
    finding = [
        key for key, rows in splitting.items() if sought and sought <= {name.casefold() for name in _stripped(rows[0])}
    ]
    even = [key for key, rows in splitting.items() if {len(row) for row in rows} == {len(rows[0])}]
    for found in (finding, even, [*splitting]):
        if len(found) == 1:
            return found[0]
        if found:
            break
    if not splitting:
        [header, *_] = next(iter(samples.values()))
        raise DataError(
            f"{path}, line 1: no separator in {quoted(','.join(header), 200)}; the first line must name the columns, "
            f"separated by {' '.join(map(_shown, SEPARATORS))}; for another separator set "
            f"{setting(prefix, 'csv.separator')}"
        )
    raise DataError(
        f"{path}: the separator may be {' or '.join(map(_shown, found))}; set it, for instance "
        f"{assignment(prefix, 'csv.separator', _shown(found[0]))}"
    )


def _sample(lines: list[str], separator: str, settings: CsvConfig) -> list[list[str]]:
    """Header and rows of the first lines; rows only up to a wrong quote, which is refused when the row is read."""
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows.extend(csv.reader(iter(lines), **_dialect(separator, settings)))
    return [cells for cells in rows if "".join(cells).strip()]


def _table_lines(path: Path, file: TextIO) -> Iterator[str]:
    """Lines of the file; a first line sep=; is blank."""
    for number, line in enumerate(text_lines(path, file)):
        yield "\n" if number == 0 and _STATED_SEPARATOR.fullmatch(line) else line


def _shown(separator: str) -> str:
    return "\\t" if separator == "\t" else separator


def _stripped(names: list[str]) -> list[str]:
    return strip_names(pa.array(names, pa.large_string())).to_pylist()


def _explain(error: csv.Error) -> str:
    text = str(error)
    if "end of data" in text:
        return "a quote is never closed"
    if "expected after" in text:
        return "more text follows a closing quote"
    if "field limit" in text:
        return f"a cell has more than {csv.field_size_limit():,} characters, or a quote is never closed"
    return text


def _dialect(separator: str, settings: CsvConfig) -> dict[str, Any]:
    quoting = {"quoting": csv.QUOTE_NONE} if settings.quote is None else {"quotechar": settings.quote}
    return {"delimiter": separator, "strict": True, "skipinitialspace": True} | quoting
