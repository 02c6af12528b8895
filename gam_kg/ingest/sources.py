"""The input files: a Parquet file, folder, glob or URI, found, hashed and checked before any row is read."""

import hashlib
import json
import logging
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs

from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import ConfigError, DataError
from gam_kg.ingest.input_columns import (
    check_folders,
    check_once,
    check_optional,
    folder_columns,
    folder_types,
    warn_of_mixed_names,
)
from gam_kg.ingest.input_files import THREADS, FoundFile, describe_left_out, find_files, version_of
from gam_kg.ingest.parquet_footer import read_footer
from gam_kg.ingest.parquet_rows import damage_of, read_group, text_type
from gam_kg.ingest.time_types import TimeType, require_one_time
from gam_kg.ingest.validation import check_schema
from gam_kg.parquet import open_file

_HASH_BYTES = 8 * 2**20
_IMPORT = "CSV, TSV and folders of text files become Parquet with `gam-kg import`"

logger = logging.getLogger("gam_kg")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RowGroup:
    """A part of a file that one task reads.

    Attributes:
        source: Position of the file among the sources.
        index: Row group within the file.
        first_row: Row number, from 0 within the file, of its first row.
        num_rows: Its rows.
    """

    source: int
    index: int
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class Sources:
    """The input files, in path order.

    Attributes:
        key: The configuration key, or flag, that names them.
        filesystem: What they are read from.
        files: The files.
        left_out: Reason → names of the files there that are not read.
        folder_types: Key → type of the column that `key=value` folders stand for.
    """

    key: str
    filesystem: pyarrow.fs.FileSystem
    files: tuple[FoundFile, ...]
    left_out: dict[str, list[str]]
    folder_types: dict[str, pa.DataType]

    @classmethod
    def find(cls, facts: str | None, key: str = "data.facts", *, text_tables: bool = False) -> "Sources":
        """List the files that a configuration key names.

        Args:
            facts: Its value.
            key: The key, for messages.
            text_tables: Whether files that end as CSV and TSV do are among them; otherwise they are left out.

        Raises:
            ConfigError: The key is not set.
            DataError: There are no such files, or something there cannot be read.
        """
        if facts is None:
            raise ConfigError(f"{key} is not set; give a Parquet file, folder, glob or URI, {key}=PATH")
        filesystem, files, left_out = find_files(facts, key, text_tables=text_tables)
        return cls(key, filesystem, files, left_out, folder_types(files))

    @property
    def paths(self) -> tuple[str, ...]:
        """Where each file is, for the filesystem."""
        return tuple(file.path for file in self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """Each file for messages and the quarantine: as the user would write it."""
        return tuple(file.name for file in self.files)

    @property
    def num_left_out(self) -> dict[str, int]:
        """Reason → number of files there that are not read."""
        return {reason: len(names) for reason, names in sorted(self.left_out.items())}

    def hashes(self) -> dict[str, str]:
        """Hash of each file's content and of its `key=value` folders, by its position: other names do not count."""
        prefix = self.key.rpartition(".")[2].removeprefix("--")
        return {f"{prefix}/{index:05d}": found for index, found in enumerate(self._each(self._hash))}

    def check(self, columns: ColumnsConfig, open_end: str = "first_snapshot") -> tuple[TimeType, tuple[RowGroup, ...]]:
        """Check every file's footer, and its columns against the configured ones.

        Args:
            columns: Names of the columns.
            open_end: `data.open_end`.

        Returns:
            (what the timestamps are, all row groups in order).

        Raises:
            DataError: A file is no Parquet or damaged, a column is missing or of a wrong type, or files disagree.
        """
        check_folders(self.files, columns)
        footers = dict(zip(self.names, self._each(lambda file: self._footer(file, columns)), strict=True))
        schemas = {name: schema for name, (schema, _) in footers.items()}
        kinds = {name: check_schema(schema, columns, name) for name, schema in schemas.items()}
        check_optional(schemas, columns, open_end=open_end)
        warn_of_mixed_names(schemas, columns)
        groups = tuple(_row_groups([num_rows for _, num_rows in footers.values()]))
        self._log(columns, sum(group.num_rows for group in groups))
        return require_one_time(kinds), groups

    def read(self, group: RowGroup, columns: ColumnsConfig) -> Iterator[tuple[pa.Table, int]]:
        """Read a row group in pieces: (table, row number of its first row). Text may be no UTF-8.

        Raises:
            DataError: The file is damaged, has other rows than it promises or a value that is too long, or was changed.
        """
        file, first_row = self.files[group.source], group.first_row
        names = columns.model_dump().values()
        in_folders = folder_columns(file, names, self.folder_types)
        names = [name for name in names if name not in in_folders]
        with self.open(file) as stream:
            for table in read_group(stream, group.index, names, file.name, first_row):
                for column, value in in_folders.items():
                    table = table.append_column(column, pa.repeat(value, len(table)))
                yield table, first_row
                first_row += len(table)

    def _each(self, step: Callable[[FoundFile], Result]) -> list[Result]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(step, self.files))

    def _footer(self, file: FoundFile, columns: ColumnsConfig) -> tuple[pa.Schema, list[int]]:
        """The columns that can be read, those of folders among them, and the rows of each row group."""
        with self.open(file) as stream, damage_of(f"{file.name} is not a Parquet file, or is damaged", _IMPORT):
            groups = read_footer(stream)
            schema = open_file(stream).schema_arrow
            check_once(schema.names, columns, file.name)
            schema = pa.schema([field.with_type(text_type(field.type)) for field in schema])
            for column, value in folder_columns(file, columns.model_dump().values(), self.folder_types).items():
                if column in schema.names:
                    raise DataError(
                        f"{file.name}: column {column!r} stands in the file and in the name of its folder; remove or "
                        "rename one of them"
                    )
                schema = schema.append(pa.field(column, value.type))
            return schema, [group.num_rows for group in groups]

    @contextmanager
    def open(self, file: FoundFile) -> Generator[pa.NativeFile]:
        """Open a file that is still the one that was found.

        Raises:
            DataError: It cannot be opened, or was changed.
        """
        with damage_of(f"{file.name} cannot be opened", "check that it is there and may be read"):
            if version_of(self.filesystem.get_file_info(file.path)) != file.version:
                raise DataError(f"{file.name} was changed while it was read; run the command again")
            stream = self.filesystem.open_input_file(file.path)
        with stream:
            yield stream

    def _hash(self, file: FoundFile) -> str:
        digest = hashlib.sha256(json.dumps(file.folders).encode() if file.folders else b"")
        with self.open(file) as stream, damage_of(f"{file.name} cannot be read"):
            while block := stream.read(_HASH_BYTES):
                digest.update(block)
        return digest.hexdigest()[:32]

    def log_left_out(self) -> None:
        """Say which files there are not read, and why."""
        if self.left_out:
            usual = all(reason.startswith("hidden") for reason in self.left_out)
            logger.log(
                logging.INFO if usual else logging.WARNING,
                "%s: left out: %s",
                self.key,
                describe_left_out(self.left_out),
            )

    def _log(self, columns: ColumnsConfig, num_rows: int) -> None:
        logger.info("%s: %s rows in %s file(s)", self.key, f"{num_rows:,}", f"{len(self.files):,}")
        self.log_left_out()
        unread = sorted({key for file in self.files for key in file.folders} - set(columns.model_dump().values()))
        if unread:
            logger.info("%s: folders %s=... stand for no configured column", self.key, "=..., ".join(unread))


def _row_groups(num_rows: list[list[int]]) -> Iterator[RowGroup]:
    """The row groups, from the rows of each of every file."""
    for source, groups in enumerate(num_rows):
        first_row = 0
        for index, rows in enumerate(groups):
            yield RowGroup(source, index, first_row, rows)
            first_row += rows
