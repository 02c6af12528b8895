"""Exports have every row once, in each format's own types, and replace nothing but exports."""

import struct
from importlib.util import find_spec

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_vectors import clustered, write_version

from gam_kg.artifacts import open_artifact
from gam_kg.errors import ConfigError, DataError
from gam_kg.inference.pgvector import write_copy, write_sql
from gam_kg.inference.vector_export import Vectors, export_vectors
from gam_kg.inference.vector_source import VectorSource, find_version

DIM = 12
COUNT = 90


@pytest.fixture(scope="module")
def vectors():
    return clustered(COUNT, DIM)


@pytest.fixture
def export(tmp_path, vectors):
    """Export vectors of a run with three files of entities; the folder."""
    write_version(tmp_path / "run", vectors, files=3)

    def write(file_format, kind="entity", column="search_vector", number="float32", normalise=False, force=False):
        with VectorSource.open(tmp_path / "run", find_version(tmp_path / "run"), kind, column) as source:
            export_vectors(tmp_path / "out", file_format, Vectors(source, number, normalise), force=force)
        return tmp_path / "out"

    return write


def rows_of_copy(path, number):
    """The rows of a file for COPY, read by the rules of PostgreSQL and pgvector."""
    content, rows = path.read_bytes(), []
    assert content[:11] == b"PGCOPY\n\xff\r\n\0"
    assert struct.unpack_from(">ii", content, 11) == (0, 0)
    place = 19
    while (count := struct.unpack_from(">h", content, place)[0]) != -1:
        place, row = place + 2, []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", content, place)
            row.append(None if length == -1 else content[place + 4 : place + 4 + length])
            place += 4 + max(0, length)
        entity, name, more, vector = row
        assert struct.unpack_from(">hh", vector) == (DIM, 0)
        values = np.frombuffer(vector, np.dtype(number).newbyteorder(">"), offset=4)
        rows.append((struct.unpack(">q", entity)[0], name.decode(), more, values))
    assert place + 2 == len(content)
    return rows


@pytest.mark.parametrize("number", ["float32", "float16"])
def test_parquet(export, vectors, number):
    file = export("parquet", number=number) / "vectors.parquet"
    table = pq.read_table(file).sort_by("id")
    assert table.column_names == ["id", "name", "last_seen", "vector"]
    assert table.schema.field("vector").type.value_type == (pa.float32() if number == "float32" else pa.float16())
    assert table["id"].to_pylist() == list(range(COUNT))
    assert table["name"].to_pylist() == [f"entity {row}" for row in range(COUNT)]
    assert table["last_seen"].to_pylist()[:3] == [None, "2024", "2024"]
    assert np.array_equal(np.array(table["vector"].to_pylist()), vectors.astype(number))
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    expected = {"as_of": "2024", "model": "4f0c", "dim": "12", "metric": "cosine", "normalised": "true"}
    assert {f"gam_kg.{key}": value for key, value in expected.items()}.items() <= about.items()
    ((found,),) = duckdb.sql(f"SELECT vector::FLOAT[{DIM}] FROM '{file}' WHERE id = 7").fetchall()
    assert np.array_equal(np.array(found, np.float32), vectors[7].astype(number))


def test_embeddings_are_exported_with_their_own_metric(export, vectors):
    table = pq.read_table(export("parquet", column="embedding") / "vectors.parquet").sort_by("id")
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), -vectors)
    assert table.schema.metadata[b"gam_kg.metric"] == b"inner_product"


@pytest.mark.parametrize("normalise", [False, True])
def test_both_rows_of_a_relation_have_ids_of_their_own(export, vectors, normalise):
    folder = export("npy", kind="relation", column="embedding", normalise=normalise)
    names = pq.read_table(folder / "names.parquet").to_pandas()
    assert names.columns.tolist() == ["id", "name", "inverse"]
    assert names.to_numpy().tolist() == [
        *([0, "knows", False], [2, "likes", False], [1, "knows", True], [3, "likes", True])
    ]
    length = np.linalg.norm(np.load(folder / "vectors.npy"), axis=1)
    assert length == pytest.approx(1 if normalise else 3, abs=1e-5)
    with pytest.raises(ConfigError, match="relations have no search_vector; use embedding"):
        export("npy", kind="relation", force=True)


def test_vectors_of_length_zero_stay_zero(tmp_path, vectors):
    write_version(tmp_path, np.vstack([vectors[:5], np.zeros((1, DIM), np.float32)]))
    with VectorSource.open(tmp_path, "as_of=2024") as source:
        export_vectors(tmp_path / "out", "npy", Vectors(source, "float32", normalise=True))
    assert not np.load(tmp_path / "out" / "vectors.npy")[5].any()


def test_npy_and_its_names_are_row_by_row(export, vectors):
    folder = export("npy", number="float16")
    rows, ids = np.load(folder / "vectors.npy"), pq.read_table(folder / "names.parquet")["id"].to_numpy()
    assert rows.dtype == np.float16
    assert sorted(ids) == list(range(COUNT))
    assert np.array_equal(rows, vectors[ids].astype(np.float16))


@pytest.mark.parametrize("number", ["float32", "float16"])
def test_pgvector(export, vectors, number):
    folder = export("pgvector", number=number)
    rows = sorted(rows_of_copy(folder / "vectors.copy", number), key=lambda row: row[0])
    assert [row[:3] for row in rows[:2]] == [(0, "entity 0", None), (1, "entity 1", b"2024")]
    assert [row[0] for row in rows] == list(range(COUNT))
    assert np.array_equal(np.stack([row[3] for row in rows]), vectors.astype(number))
    sql = (folder / "load.sql").read_text()
    of_type = "halfvec" if number == "float16" else "vector"
    assert f"vector {of_type}({DIM})" in sql
    assert f"USING hnsw (vector {of_type}_ip_ops)" in sql


def test_relations_of_pgvector_say_which_are_inverse(export):
    rows = rows_of_copy(export("pgvector", kind="relation", column="embedding") / "vectors.copy", "float32")
    assert [(entity, name, more) for entity, name, more, _ in rows[1:3]] == [(2, "likes", b"\0"), (1, "knows", b"\1")]


@pytest.mark.parametrize(
    ("dim", "half", "line"),
    [
        (2000, False, "USING hnsw (vector vector_ip_ops)"),
        (2001, False, "or export with --dtype float16"),
        (4000, True, "USING hnsw (vector halfvec_ip_ops)"),
        (4001, True, "too many for an index: search is exact"),
    ],
)
def test_sql_has_an_index_only_where_pgvector_has_one(tmp_path, dim, half, line):
    write_sql(tmp_path / "load.sql", "entity", dim, half=half, about={"a": "it's"})
    text = (tmp_path / "load.sql").read_text()
    assert line in text
    assert "'a=it''s'" in text


def test_a_name_that_postgresql_cannot_store_is_named(tmp_path):
    table = pa.table({"id": [1], "name": ["a\0b"], "last_seen": ["2024"]})
    with pytest.raises(DataError, match=r"cannot store the name 'a\\x00b'"):
        write_copy(tmp_path / "copy", [(table, np.zeros((1, 2), np.float32))])


def test_milvus_gets_the_types_of_its_import(export, vectors):
    table = pq.read_table(export("milvus") / "vectors.parquet").sort_by("id")
    assert table.schema.field("vector").type == pa.list_(pa.float32())
    assert [table.schema.field(name).type for name in ("id", "name", "last_seen")] == [pa.int64(), *[pa.string()] * 2]
    assert table["last_seen"].to_pylist()[:2] == ["", "2024"]
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)
    half = pq.read_table(export("milvus", number="float16", force=True) / "vectors.parquet").sort_by("id")
    assert half.schema.field("vector").type == pa.list_(pa.uint8())
    found = np.array(half["vector"].to_pylist(), np.uint8).view(np.float16)
    assert np.array_equal(found, vectors.astype(np.float16))


@pytest.mark.skipif(find_spec("lance") is None, reason="pylance is not installed")
@pytest.mark.parametrize("number", ["float32", "float16"])
def test_lance(export, vectors, number):
    import lance

    table = lance.dataset(export("lance", number=number) / "vectors.lance").to_table().sort_by("id")
    assert np.array_equal(np.array(table["vector"].to_pylist()), vectors.astype(number))
    assert table.schema.metadata[b"gam_kg.metric"] == b"cosine"


def test_without_lance_the_message_says_how_to_get_it_and_nothing_is_left(export, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lance", None)
    with pytest.raises(ConfigError, match=r"pip install 'gam-kg\[lance\]'"):
        export("lance")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_export_says_what_it_was_made_from(export, tmp_path):
    made = open_artifact(export("npy", number="float16"), "export")
    version = tmp_path / "run" / "embeddings" / "as_of=2024"
    assert made.inputs == {"embeddings": open_artifact(version, "embeddings").id}
    assert made.config["export"] == {
        **{"format": "npy", "dtype": "float16", "normalise": False},
        **{"kind": "entity", "vector": "search_vector"},
    }
    assert made.content["num_vectors"] == COUNT


def test_only_an_export_is_replaced(export, tmp_path):
    export("npy")
    with pytest.raises(ConfigError, match="out is there already; name another folder, or replace an export with --f"):
        export("parquet")
    assert {path.name for path in export("parquet", force=True).iterdir()} == {"manifest.json", "vectors.parquet"}
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there and is no export; --force replaces nothing else"):
        export("parquet", force=True)
    assert (tmp_path / "out" / "letter.txt").read_text() == "mine"
