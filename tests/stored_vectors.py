"""A run folder with embeddings of a test's own vectors, as `gam-kg embed` writes them, and without a checkpoint."""

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import Manifest, read_manifest, write_artifact
from gam_kg.config import PublishConfig
from gam_kg.parquet import open_writer
from gam_kg.schemas import embedding_schema
from gam_kg.versions import publish

_ABOUT = {
    "gam_kg.as_of": "2024",
    "gam_kg.model": "4f0c",
    "gam_kg.embedding.metric": "inner_product",
    "gam_kg.embedding.normalised": "true",
    "gam_kg.search_vector.metric": "cosine",
    "gam_kg.search_vector.normalised": "true",
}


def unit_rows(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(num_vectors, dim, num_clusters=None, seed=0):
    """Vectors of length 1 around centres, float32: a vector and its centre have a cosine of 0.7."""
    generator = np.random.default_rng(seed)
    num_clusters = num_clusters or max(1, round(num_vectors**0.5))
    centres = unit_rows(generator.standard_normal((num_clusters, dim), np.float32))
    vectors = np.empty((num_vectors, dim), np.float32)
    for start in range(0, num_vectors, 100_000):
        size = min(100_000, num_vectors - start)
        noise = unit_rows(generator.standard_normal((size, dim), np.float32))
        vectors[start : start + size] = unit_rows(centres[generator.integers(0, num_clusters, size)] + noise)
    return vectors


def write_version(run, vectors, *, name="as_of=2024", base=None, ids=None, files=1):
    """Write `run/embeddings/<name>/` and point `latest` at it, and a graph without facts; the folder of the version.

    Args:
        run: The run's folder.
        vectors: The search vectors, float32 (num_entities, dim); embeddings are the negative ones.
        name: The version.
        base: The version that has the rows which are not in `ids`.
        ids: Entities whose rows are written; None: all.
        files: Files to divide the rows among.
    """
    ids = np.arange(len(vectors)) if ids is None else np.asarray(ids)
    about = _ABOUT | {"gam_kg.dim": str(vectors.shape[1])} | ({"gam_kg.base": base} if base else {})
    if not (run / "graph").exists():
        axis = {"kind": "integer", "unit": 1, "origin": 2020}
        write_artifact(run / "graph", Manifest.of("graph", {}, {}), lambda _: {"time": axis})
        (run / "config.yaml").write_text("name: run\n", encoding="utf-8")
    graph = read_manifest(run / "graph", "graph").id
    manifest = Manifest.of("embeddings", {"graph": graph, "checkpoint": "2", "of": str(vectors.sum())}, {})

    def write(folder):
        schema = embedding_schema("entity", vectors.shape[1]).with_metadata(about)
        for part in range(files):
            end = f"-{part:05d}-of-{files:05d}" if files > 1 else ""
            with open_writer(folder / f"entities{end}.parquet", schema) as writer:
                for rows in np.split(ids[part::files], np.arange(65_536, len(ids[part::files]), 65_536)):
                    writer.write_table(pa.table(_entities(schema, vectors, rows), schema=schema))
        schema = embedding_schema("relation", vectors.shape[1]).with_metadata(about)
        rows = [[0, 1, 0, 1], ["knows", "likes"] * 2, [False, False, True, True], _lists(schema, 3 * vectors[:4])]
        with open_writer(folder / "relations.parquet", schema) as writer:
            writer.write_table(pa.table(rows, schema=schema))
        sizes = {"num_entities": len(vectors), "num_relations": 2, "dim": vectors.shape[1]}
        return {**sizes, "after": "2024", "after_snapshot": 4} | ({"base": base} if base else {})

    return publish(run / "embeddings", name, manifest, write, PublishConfig(), at_end=True)


def _entities(schema, vectors, ids):
    last = pa.array(["2024" if entity % 3 else None for entity in ids.tolist()], pa.large_string())
    return [
        pa.array(ids, pa.int64()),
        pa.array([f"entity {entity}" for entity in ids.tolist()], pa.large_string()),
        last,
        pa.array([4 if entity % 3 else None for entity in ids.tolist()], pa.int64()),
        _lists(schema, -vectors[ids]),
        _lists(schema, vectors[ids]),
    ]


def _lists(schema, vectors):
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=schema.field("embedding").type)
