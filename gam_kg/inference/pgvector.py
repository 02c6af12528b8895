"""Vectors for PostgreSQL with pgvector: a file of its binary COPY, and the SQL that makes and fills a table.

Source: PostgreSQL documentation, COPY, "Binary Format"; pgvector, `vector_send` and `halfvec_send`.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from gam_kg.errors import DataError
from gam_kg.text import quoted

_HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_END = struct.pack(">h", -1)
_NULL = struct.pack(">i", -1)
_MOST_INDEXED = {"vector": 2000, "halfvec": 4000}


def write_copy(path: Path, batches: Iterable[tuple[pa.Table, np.ndarray]]) -> None:
    """Write rows as `COPY ... WITH (FORMAT binary)` reads them.

    Args:
        path: The file.
        batches: Tables of id, name and one more column (text or bool, with nulls), each with its vectors (num_rows,
            dim), float32 for the type vector or float16 for halfvec.

    Raises:
        DataError: A name has a zero character, which PostgreSQL cannot store.
    """
    with path.open("wb") as file:
        file.write(_HEADER)
        for table, vectors in batches:
            dim = vectors.shape[1]
            in_order = np.ascontiguousarray(vectors, vectors.dtype.newbyteorder(">"))
            start = struct.pack(">ihh", 4 + in_order.itemsize * dim, dim, 0)
            ids, names, others = (column.to_pylist() for column in table.columns)
            rows = []
            for row, (entity, name, other) in enumerate(zip(ids, names, others, strict=True)):
                number = struct.pack(">hiq", 4, 8, entity)
                rows += [number, _text(name), _field(other), start, in_order[row].tobytes()]
            file.write(b"".join(rows))
        file.write(_END)


def write_sql(path: Path, kind: str, dim: int, *, half: bool, about: dict[str, str]) -> None:
    """Write the SQL for psql, to be run in the folder of `vectors.copy`.

    Args:
        path: The file.
        kind: "entity" or "relation".
        dim: Length of the vectors.
        half: Whether they are of float16.
        about: What is known of them; becomes the comment of the table.
    """
    table, vector = f"gam_kg_{kind}", "halfvec" if half else "vector"
    more = "last_seen text" if kind == "entity" else "inverse boolean NOT NULL"
    text = ", ".join(f"{key}={value}" for key, value in about.items()).replace("'", "''")
    if dim <= _MOST_INDEXED[vector]:
        index = f"CREATE INDEX ON {table} USING hnsw (vector {vector}_ip_ops);"
    elif not half and dim <= _MOST_INDEXED["halfvec"]:
        index = (
            f"-- {dim} numbers are too many for an index of float32: search is exact, or export with --dtype float16"
        )
    else:
        index = f"-- {dim} numbers are too many for an index: search is exact"
    lines = [
        f"-- Run in this folder: psql -v ON_ERROR_STOP=1 -f {path.name}",
        "BEGIN;",
        "CREATE EXTENSION IF NOT EXISTS vector;",
        f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text NOT NULL, {more}, vector {vector}({dim}) NOT NULL);",
        f"COMMENT ON TABLE {table} IS '{text}';",
        f"\\copy {table} FROM 'vectors.copy' WITH (FORMAT binary)",
        index,
        "COMMIT;",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _field(value: str | bool | None) -> bytes:
    if value is None:
        return _NULL
    return struct.pack(">i?", 1, value) if isinstance(value, bool) else _text(value)


def _text(value: str) -> bytes:
    encoded = value.encode()
    if b"\0" in encoded:
        raise DataError(
            f"PostgreSQL cannot store the name {quoted(value)}: it has a zero character; rename it in the facts"
        )
    return struct.pack(">i", len(encoded)) + encoded
