"""Input files with all of their columns: those of queries, read a range of rows at a time, and of entity features."""

import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow.fs import LocalFileSystem

from gam_kg.data_config import DataConfig
from gam_kg.errors import DataError, GamKGError
from gam_kg.importers.csv_table import read_tables
from gam_kg.ingest.input_columns import folder_columns
from gam_kg.ingest.input_files import FoundFile
from gam_kg.ingest.parquet_footer import read_footer
from gam_kg.ingest.parquet_rows import damage_of
from gam_kg.ingest.sources import Sources
from gam_kg.output import replacing
from gam_kg.parquet import open_file, open_writer


@dataclass(frozen=True)
class WholeFiles:
    """Files as one table, of which ranges of rows are read; all have the same columns, those of folders included.

    Attributes:
        sources: The files.
        copies: For each text table, its copy in Parquet; None for the others.
        num_rows: Rows of each file.
        names: Columns, in the order of the first file.
    """

    sources: Sources
    copies: tuple[Path | None, ...]
    num_rows: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def open(
        cls, sources: Sources, data: DataConfig, check: Callable[[list[str]], object], folder: Path
    ) -> "WholeFiles":
        """Look at the files, and copy text tables, which cannot be read from the middle, to Parquet.

        Args:
            sources: The files.
            data: How text tables are read.
            check: Refuses the names of the columns of the first file if they are not right.
            folder: For the copies.

        Raises:
            DataError: A file cannot be read, has other columns than the first, or a column that its folder has too.
        """
        sources.log_left_out()
        copies = [
            _copied(sources, file, data, folder / f"copy-{number:05d}.parquet") if file.format == "text" else None
            for number, file in enumerate(sources.files)
        ]
        found = cls(sources, tuple(copies), (), ())
        footers = [found._footer(number) for number in range(len(copies))]
        first = footers[0][0]
        check(first.names)
        for name, (schema, _) in zip(sources.names, footers, strict=True):
            if sorted(map(str, schema)) != sorted(map(str, first)):
                raise DataError(
                    f"{name} has the columns {_described(schema)}; {sources.names[0]} has {_described(first)}; all "
                    f"files of {sources.key} must have the same"
                )
        return cls(sources, tuple(copies), tuple(rows for _, rows in footers), tuple(first.names))

    def __len__(self) -> int:
        return sum(self.num_rows)

    def place(self, row: int) -> str:
        """A row of the table for messages: its file, and its number there from 0."""
        for name, num_rows in zip(self.sources.names, self.num_rows, strict=True):
            if row < num_rows:
                return f"{name}, row {row}"
            row -= num_rows
        raise IndexError(row)

    def read(self, start: int, stop: int) -> pa.Table:
        """The rows in `[start, stop)`; besides them a row group is in memory.

        Raises:
            DataError: A file is damaged, or was changed.
        """
        first = accumulate(self.num_rows, initial=0)
        tables = [
            self._read(number, max(0, start - before), min(rows, stop - before))
            for number, (before, rows) in enumerate(zip(first, self.num_rows, strict=False))
            if start < before + rows and before < stop
        ]
        return pa.concat_tables(table.select(self.names) if len(self.num_rows) > 1 else table for table in tables)

    def tables(self) -> list[pa.Table]:
        """One table a file, whole; raises what `read` raises."""
        tables = [self._read(number, 0, rows) for number, rows in enumerate(self.num_rows)]
        return [table.select(self.names) if len(tables) > 1 else table for table in tables]

    def _read(self, number: int, start: int, stop: int) -> pa.Table:
        with self._opened(number) as stream:
            groups, file, first = read_footer(stream), open_file(stream), 0
            tables = [file.schema_arrow.empty_table()]
            for index, group in enumerate(groups):
                skipped = max(0, start - first)
                if skipped < group.num_rows and first < stop:
                    table = file.read_row_group(index)
                    if len(table) != group.num_rows:
                        name = self.sources.names[number]
                        raise DataError(f"{name}: {group.num_rows} rows are promised, and {len(table)} are there")
                    tables.append(table.slice(skipped, stop - first - skipped))
                first += group.num_rows
            return self._with_folders(pa.concat_tables(tables), number)

    def _footer(self, number: int) -> tuple[pa.Schema, int]:
        with self._opened(number) as stream:
            num_rows = sum(group.num_rows for group in read_footer(stream))
            return self._with_folders(open_file(stream).schema_arrow.empty_table(), number).schema, num_rows

    @contextmanager
    def _opened(self, number: int) -> Generator[pa.NativeFile]:
        file, copy = self.sources.files[number], self.copies[number]
        with damage_of(f"{file.name} is not a Parquet file, or is damaged"):
            if copy is not None:
                with pa.OSFile(str(copy)) as stream:
                    yield stream
            else:
                with self.sources.open(file) as stream:
                    yield stream

    def _with_folders(self, table: pa.Table, number: int) -> pa.Table:
        file = self.sources.files[number]
        for key, value in folder_columns(file, file.folders, self.sources.folder_types).items():
            if key in table.column_names:
                raise DataError(
                    f"{file.name}: column {key!r} stands in the file and in the name of its folder; rename one"
                )
            table = table.append_column(key, pa.repeat(value, len(table)))
        return table


def read_whole_files(sources: Sources, data: DataConfig, check: Callable[[list[str]], object]) -> list[pa.Table]:
    """One table a file; arguments and errors: see `WholeFiles.open`."""
    with tempfile.TemporaryDirectory() as folder:
        return WholeFiles.open(sources, data, check, Path(folder)).tables()


def _copied(sources: Sources, file: FoundFile, data: DataConfig, copy: Path) -> Path:
    copy.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(sources.filesystem, LocalFileSystem):
        _write_copy(read_tables(Path(file.path), data), copy)
        return copy
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, PurePosixPath(file.path).name)
        with sources.open(file) as stream, damage_of(f"{file.name} cannot be read"), text.open("wb") as written:
            shutil.copyfileobj(stream, written)
        try:
            _write_copy(read_tables(text, data), copy)
        except GamKGError as error:
            raise type(error)(str(error).replace(str(text), file.name)) from None
    return copy


def _write_copy(tables: Iterator[pa.Table], copy: Path) -> None:
    first = next(tables)
    with replacing(copy) as staging, open_writer(staging, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name!r} ({field.type})" for field in schema)
