"""Parquet as gam-kg writes and reads it: compressed, each page with a checksum, which is verified on reading."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gam_kg.errors import ArtifactError

_READ: dict[str, Any] = {"page_checksum_verification": True, "coerce_int96_timestamp_unit": "us"}
_WRITE: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


def open_writer(path: Path, schema: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """A writer of a Parquet file; `options` are those of `pyarrow.parquet.ParquetWriter`."""
    return pq.ParquetWriter(path, schema, **_WRITE, **options)


def write_table(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a table; `options` are those of `pyarrow.parquet.write_table`."""
    pq.write_table(table, path, **_WRITE, **options)


def open_file(source: Any, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file (path or file object) whose pages are verified where they have checksums.

    INT96 timestamps become microseconds: nanoseconds in int64 reach from 1677 to 2262 only, and wrap around beyond.

    Args:
        source: Path or file object.
        options: Those of `pyarrow.parquet.ParquetFile`.

    Raises:
        OSError, pyarrow.ArrowInvalid: It is no Parquet file or is damaged; also while it is read.
    """
    return pq.ParquetFile(source, **(_READ | options))


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file of an artifact.

    Raises:
        ArtifactError: The file is missing or damaged, or lacks a column.
    """
    try:
        with open_file(path) as file:
            return file.read(columns=list(columns) if columns is not None else None)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); redo its stage with --force") from None
