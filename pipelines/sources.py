"""The input files: a Parquet file, folder, glob or URI, found, hashed and checked before any row is read."""

import fnmatch
import glob
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from gam_kg.config import ColumnsConfig
from gam_kg.errors import ConfigError, DataError
from gam_kg.ingest.timestamps import TimeKind
from gam_kg.ingest.validation import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, check_schema, require_one_kind

_SUFFIXES = (".parquet", ".pq")
_BATCH_ROWS = 262_144
_HASH_BYTES = 8 * 2**20
_THREADS = 8


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
        key: The configuration key that names them.
        filesystem: What they are read from.
        paths: For the filesystem.
        names: For messages and the quarantine: as the user would write them.
    """

    key: str
    filesystem: pyarrow.fs.FileSystem
    paths: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def find(cls, facts: str | None, key: str = "data.facts") -> "Sources":
        """List the files that a configuration key names.

        Args:
            facts: Its value.
            key: The key, for messages.

        Raises:
            ConfigError: The key is not set.
            DataError: There are no such files, or the URI cannot be opened.
        """
        if facts is None:
            raise ConfigError(f"{key} is not set; give a Parquet file, folder, glob or URI, {key}=PATH")
        remote = "://" in facts
        filesystem, paths = _list_uri(facts, key) if remote else (pyarrow.fs.LocalFileSystem(), _list_local(facts))
        if not paths:
            raise DataError(
                f"{key}={facts}: no Parquet file there; give a file, a folder with {' or '.join(_SUFFIXES)} "
                "files in it, a glob or a URI"
            )
        if remote:
            scheme = facts.partition("://")[0]
            return cls(key, filesystem, tuple(paths), tuple(f"{scheme}://{path}" for path in paths))
        # Tasks read in other working directories than the user's.
        return cls(key, filesystem, tuple(os.path.abspath(path) for path in paths), tuple(paths))

    def hashes(self) -> dict[str, str]:
        """Content hash of each file, by its position: names and places do not count."""
        prefix = self.key.rpartition(".")[2]
        with ThreadPoolExecutor(_THREADS) as pool:
            return {f"{prefix}/{index:05d}": found for index, found in enumerate(pool.map(self._hash, self.paths))}

    def check(self, columns: ColumnsConfig) -> tuple[TimeKind | None, tuple[RowGroup, ...]]:
        """Check every file's schema against the configured columns.

        Returns:
            (what the timestamps are, all row groups in order).

        Raises:
            DataError: A file is no Parquet, a column is missing or of a wrong type, or files disagree.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            footers = list(pool.map(self._footer, range(len(self.paths))))
        schemas = [footer.schema.to_arrow_schema() for footer in footers]
        kinds = {name: check_schema(schema, columns, name) for name, schema in zip(self.names, schemas, strict=True)}
        with_split = [columns.split in schema.names for schema in schemas]
        if len(set(with_split)) > 1:
            raise DataError(
                f"{self.names[with_split.index(True)]} has a split column {columns.split!r}, "
                f"{self.names[with_split.index(False)]} has none; give it to all files or to none"
            )
        return require_one_kind(kinds), tuple(_row_groups(footers))

    def read(self, group: RowGroup, columns: ColumnsConfig) -> Iterator[tuple[pa.Table, int]]:
        """Read a row group in pieces: (table, row number of its first row).

        Raises:
            DataError: The file is damaged.
        """
        first_row = group.first_row
        try:
            with self.filesystem.open_input_file(self.paths[group.source]) as file:
                parquet = pq.ParquetFile(file)
                named = dict.fromkeys(getattr(columns, name) for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS))
                present = [name for name in named if name in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group.index], columns=present):
                    yield pa.Table.from_batches([batch]), first_row
                    first_row += len(batch)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{self.names[group.source]}: cannot read the rows from {first_row} on, the file is damaged ({error}); "
                "write it anew"
            ) from None

    def _footer(self, source: int) -> pq.FileMetaData:
        try:
            with self.filesystem.open_input_file(self.paths[source]) as file:
                return pq.ParquetFile(file).metadata
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{self.names[source]} is not a Parquet file, or is damaged ({error}); "
                "CSV, TSV and folders of text files become Parquet with `gam-kg import`"
            ) from None

    def _hash(self, path: str) -> str:
        digest = hashlib.sha256()
        try:
            with self.filesystem.open_input_stream(path) as stream:
                while block := stream.read(_HASH_BYTES):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error}") from None
        return digest.hexdigest()[:32]


def _row_groups(footers: list[pq.FileMetaData]) -> Iterator[RowGroup]:
    for source, footer in enumerate(footers):
        first_row = 0
        for index in range(footer.num_row_groups):
            num_rows = footer.row_group(index).num_rows
            yield RowGroup(source, index, first_row, num_rows)
            first_row += num_rows


def _list_local(facts: str) -> list[str]:
    path = Path(facts)
    if path.is_file():
        found = [facts]
    elif path.is_dir():
        found = [str(file) for file in path.rglob("*") if file.is_file() and _is_data(str(file.relative_to(path)))]
    else:
        found = [file for file in glob.glob(facts, recursive=True) if os.path.isfile(file)]
    return sorted(found)


def _list_uri(uri: str, key: str) -> tuple[pyarrow.fs.FileSystem, list[str]]:
    pattern = min((uri.find(char) for char in "*[" if char in uri), default=None)
    try:
        # Only the part before the first wildcard is a path; the files below it are matched against the rest.
        place = uri if pattern is None else uri[: uri.rfind("/", 0, pattern)]
        filesystem, base = pyarrow.fs.FileSystem.from_uri(place)
        info = filesystem.get_file_info(base)
        if info.type == pyarrow.fs.FileType.File:
            return filesystem, [base]
        if info.type == pyarrow.fs.FileType.NotFound:
            return filesystem, []
        listed = filesystem.get_file_info(pyarrow.fs.FileSelector(base, recursive=True))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{key}={uri}: cannot open this URI ({error})") from None
    files = {file.path: file.path.removeprefix(base).lstrip("/") for file in listed if file.is_file}
    if pattern is None:
        return filesystem, sorted(path for path, inner in files.items() if _is_data(inner))
    rest = uri[len(place) :].lstrip("/")
    return filesystem, sorted(path for path, inner in files.items() if fnmatch.fnmatchcase(inner, rest))


def _is_data(path: str) -> bool:
    hidden = any(part.startswith(("_", ".")) for part in path.split("/"))
    return path.endswith(_SUFFIXES) and not hidden
