"""Vectors of a version of the embeddings as the files that other systems take: Parquet, NumPy, Lance, pgvector, Milvus.

Each format has the columns `id` (int64), `name`, `last_seen` of entities or `inverse` of relations, and `vector`; see
docs/vector_search.md for what each system makes of them. Rows are read and written a batch at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.artifacts import Content, Manifest, read_manifest, write_artifact
from gam_kg.errors import ArtifactError, ConfigError
from gam_kg.inference.pgvector import write_copy, write_sql
from gam_kg.inference.vector_source import VectorSource, matrix
from gam_kg.parquet import open_writer

Format = Literal["parquet", "npy", "lance", "pgvector", "milvus", "qdrant"]
Number = Literal["float32", "float16"]

EXPORT = "export"
NAMES = "names.parquet"


@dataclass(frozen=True)
class Vectors:
    """What is exported.

    Attributes:
        source: Where the vectors are.
        number: Type of the numbers of a vector.
        normalise: Whether vectors are divided by their lengths; those of length 0 stay.
        advance: Receives how many rows are done.
    """

    source: VectorSource
    number: Number
    normalise: bool
    advance: Callable[[int], None] = lambda _: None

    @property
    def schema(self) -> pa.Schema:
        """Schema of the rows, with what is known of the vectors as metadata."""
        element = pa.field("element", pa.float16() if self.number == "float16" else pa.float32(), nullable=False)
        last_seen, inverse = pa.field("last_seen", pa.large_string()), pa.field("inverse", pa.bool_(), nullable=False)
        return pa.schema(
            [
                pa.field("id", pa.int64(), nullable=False),
                pa.field("name", pa.large_string(), nullable=False),
                last_seen if self.source.kind == "entity" else inverse,
                pa.field("vector", pa.list_(element, self.source.dim), nullable=False),
            ],
            self.about,
        )

    @property
    def about(self) -> dict[str, str]:
        """What is known of the vectors."""
        return self.source.about | ({"gam_kg.normalised": "true"} if self.normalise else {})

    def batches(self) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """The rows without their vectors, and these (num_rows, dim) in the type that was chosen, some at a time."""
        done = 0
        for table in self.source.batches():
            vectors = matrix(table["vector"])
            if self.normalise:
                length = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = vectors / np.where(length > 0, length, 1)
            yield table.drop_columns("vector"), vectors.astype(self.number, copy=False)
            done += len(table)
            self.advance(done)

    def tables(self) -> Iterator[pa.Table]:
        """The rows by `schema`, some at a time."""
        schema = self.schema
        for table, vectors in self.batches():
            lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=schema.field("vector").type)
            yield table.append_column("vector", lists).cast(schema)


def export_vectors(out: Path, file_format: Format, vectors: Vectors, *, force: bool = False) -> Manifest:
    """Write vectors for another system, as an artifact: a folder that appears only when it is whole.

    Args:
        out: The folder.
        file_format: For which system.
        vectors: What to write.
        force: Replace an export that is there.

    Raises:
        ConfigError: Something is there already; or what writes the format is not installed.
        DataError: A name cannot be written.
        OutputError: The folder cannot be written.
    """
    require_free(out, force=force)
    settings: dict[str, str | bool] = {"format": file_format, "dtype": vectors.number, "normalise": vectors.normalise}
    source = vectors.source
    settings |= {"kind": source.kind, "vector": source.column}

    def write(folder: Path) -> Content:
        _WRITERS[file_format](vectors, folder)
        return {"version": source.version.name, "num_vectors": source.num_rows, "dim": source.dim, **vectors.about}

    return write_artifact(out, Manifest.of(EXPORT, source.inputs, {EXPORT: settings}), write)


def require_free(out: Path, *, force: bool) -> None:
    """Refuse a place where something is, unless it is an export that may be replaced.

    Raises:
        ConfigError: Something is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise ConfigError(f"OUT: {out} is there already; name another folder, or replace an export with --force")
    try:
        read_manifest(out, EXPORT)
    except ArtifactError:  # it may be somebody's data
        raise ConfigError(f"OUT: {out} is there and is no export; --force replaces nothing else") from None


def _write_parquet(vectors: Vectors, folder: Path) -> None:
    _write_rows(folder / "vectors.parquet", vectors.schema, vectors.tables())


def _write_npy(vectors: Vectors, folder: Path) -> None:
    """`vectors.npy`, and who each of its rows is of."""
    shape, start = (vectors.source.num_rows, vectors.source.dim), 0
    rows = np.lib.format.open_memmap(folder / "vectors.npy", "w+", vectors.number, shape)
    names = pa.schema(list(vectors.schema)[:-1], vectors.about)
    with open_writer(folder / NAMES, names) as writer:
        for table, batch in vectors.batches():
            rows[start : start + len(batch)] = batch
            start += len(batch)
            writer.write_table(table.cast(names))
    rows.flush()


def _write_lance(vectors: Vectors, folder: Path) -> None:
    try:
        import lance
    except ImportError:
        raise ConfigError("Lance files need pylance, which is not installed: pip install 'gam-kg[lance]'") from None
    batches = (batch for table in vectors.tables() for batch in table.to_batches())
    lance.write_dataset(pa.RecordBatchReader.from_batches(vectors.schema, batches), folder / "vectors.lance")


def _write_pgvector(vectors: Vectors, folder: Path) -> None:
    source = vectors.source
    write_copy(folder / "vectors.copy", vectors.batches())
    write_sql(folder / "load.sql", source.kind, source.dim, half=vectors.number == "float16", about=vectors.about)


def _write_milvus(vectors: Vectors, folder: Path) -> None:
    """Parquet by the rules of Milvus: vectors are lists of any length; one in float16 is a list of its bytes."""
    half = vectors.number == "float16"
    element = pa.uint8() if half else pa.float32()
    more = vectors.schema.names[2]
    fields = {"id": pa.int64(), "name": pa.string(), more: pa.bool_() if more == "inverse" else pa.string()}
    schema = pa.schema([*fields.items(), ("vector", pa.list_(element))], vectors.about)

    def rows() -> Iterator[pa.Table]:
        for table, batch in vectors.batches():
            values = batch.view(np.uint8) if half else batch
            ends = np.arange(len(batch) + 1, dtype=np.int32) * values.shape[1]
            lists = pa.ListArray.from_arrays(ends, pa.array(values.ravel()))
            if more == "last_seen":  # without it there, a row would not be imported
                table = table.set_column(2, more, pc.fill_null(table[more], ""))
            yield table.append_column("vector", lists).cast(schema)

    _write_rows(folder / "vectors.parquet", schema, rows())


def _write_rows(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    with open_writer(path, schema, use_dictionary=False) as writer:
        for table in tables:
            writer.write_table(table)


_WRITERS: dict[str, Callable[[Vectors, Path], None]] = {
    "parquet": _write_parquet,
    "npy": _write_npy,
    "lance": _write_lance,
    "pgvector": _write_pgvector,
    "milvus": _write_milvus,
    "qdrant": _write_npy,  # its client takes arrays
}
FORMATS = get_args(Format)
