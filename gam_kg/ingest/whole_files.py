"""Input files, Parquet or text, as whole tables with all of their columns: those of queries and of entity features."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow.fs import LocalFileSystem

from gam_kg.data_config import DataConfig
from gam_kg.errors import DataError, GamKGError
from gam_kg.importers.csv_table import read_table
from gam_kg.ingest.input_columns import folder_columns
from gam_kg.ingest.input_files import FoundFile
from gam_kg.ingest.parquet_footer import read_footer
from gam_kg.ingest.parquet_rows import damage_of
from gam_kg.ingest.sources import Sources
from gam_kg.parquet import open_file


def read_whole_files(sources: Sources, data: DataConfig, check: Callable[[list[str]], object]) -> list[pa.Table]:
    """One table a file, all with the same columns in the same order, those of `key=value` folders included.

    Args:
        sources: The files.
        data: How text tables are read.
        check: Refuses the names of the columns of the first file if they are not right.

    Raises:
        DataError: A file cannot be read, has other columns than the first, or a column that its folder has too.
    """
    sources.log_left_out()
    tables = [_with_folders(_read(sources, file, data), file, sources.folder_types) for file in sources.files]
    first = tables[0].schema
    check(first.names)
    for name, table in zip(sources.names, tables, strict=True):
        if sorted(map(str, table.schema)) != sorted(map(str, first)):
            raise DataError(
                f"{name} has the columns {_described(table.schema)}; {sources.names[0]} has {_described(first)}; all "
                f"files of {sources.key} must have the same"
            )
    return [table.select(first.names) if len(tables) > 1 else table for table in tables]


def _read(sources: Sources, file: FoundFile, data: DataConfig) -> pa.Table:
    if file.format == "text":
        return _read_text(sources, file, data)
    with sources.open(file) as stream, damage_of(f"{file.name} is not a Parquet file, or is damaged"):
        promised = sum(group.num_rows for group in read_footer(stream))
        table = open_file(stream).read()
        if len(table) != promised:
            raise DataError(f"{file.name}: {promised} rows are promised, and {len(table)} are there")
        return table


def _read_text(sources: Sources, file: FoundFile, data: DataConfig) -> pa.Table:
    if isinstance(sources.filesystem, LocalFileSystem):
        return read_table(Path(file.path), data)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, PurePosixPath(file.path).name)
        with sources.open(file) as stream, damage_of(f"{file.name} cannot be read"), copy.open("wb") as written:
            shutil.copyfileobj(stream, written)
        try:
            return read_table(copy, data)
        except GamKGError as error:
            raise type(error)(str(error).replace(str(copy), file.name)) from None


def _with_folders(table: pa.Table, file: FoundFile, types: dict[str, pa.DataType]) -> pa.Table:
    for key, value in folder_columns(file, file.folders, types).items():
        if key in table.column_names:
            raise DataError(f"{file.name}: column {key!r} stands in the file and in the name of its folder; rename one")
        table = table.append_column(key, pa.repeat(value, len(table)))
    return table


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name!r} ({field.type})" for field in schema)
