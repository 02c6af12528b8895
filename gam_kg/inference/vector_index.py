"""A faiss index over the vectors of a version of the embeddings, `RUN/index/as_of=.../`, and its measured recall.

Similarities are inner products; as the vectors have length 1, these are cosines. An entity's place in the index is its
id. faiss is an extra: `pip install 'gam-kg[index]'`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import Content, Manifest, open_artifact, read_manifest, write_artifact
from gam_kg.config import IndexConfig
from gam_kg.errors import ArtifactError
from gam_kg.inference.answers import find_name
from gam_kg.inference.faiss_index import RECALL_AT, build, load_faiss, measured, set_effort, settings_in_use
from gam_kg.inference.vector_source import VectorSource, find_version
from gam_kg.ingest.names import as_integers, clean_names
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.output import discard
from gam_kg.versions import versions

INDEX = "index"

_FILE = "index.faiss"


def build_index(run: Path, name: str, config: IndexConfig, say: Callable[[str], None] = lambda _: None) -> Manifest:
    """Build the index of a version, measure its recall, and write it as `RUN/index/<name>/`.

    All vectors are in memory, in the index and beside it: twice 4 bytes a number at most.

    Args:
        run: The run's folder.
        name: The version of the embeddings.
        config: The settings.
        say: Receives what is being done.

    Returns:
        The manifest, whose content has `recall`, `kind` and the settings in use.

    Raises:
        ArtifactError: See `VectorSource.open`.
        ConfigError: faiss is not installed, or the settings do not fit the vectors.
        EvaluationError: The recall is below `min_recall`; nothing is written.
    """
    faiss = load_faiss()
    with VectorSource.open(run, name, column=config.vector) as source:
        manifest = Manifest.of(INDEX, source.inputs, {INDEX: config.model_dump(mode="json")})

        def write(folder: Path) -> Content:
            vectors = source.load()
            settings = settings_in_use(config, *vectors.shape)
            say(f"building {settings['kind']} over {len(vectors):,} vectors of {source.dim}")
            index = build(vectors, settings)
            say(f"measuring recall@{RECALL_AT}")
            settings = measured(index, vectors, settings, config)
            say(f"recall@{RECALL_AT} was measured on {settings['sample']:,} entities")
            faiss.write_index(index, str(folder / _FILE))
            about = {"vector": config.vector, "metric": "inner_product", "normalised": True, "dim": source.dim}
            return {"version": name, "num_vectors": len(vectors), **about, **settings}

        made = write_artifact(run / INDEX / name, manifest, write)
        there = {path.name for path in versions(run / "embeddings")}
        for old in versions(run / INDEX):
            if old.name not in there:  # nothing can be looked up in it any more
                discard(old)
        return made


def current_index(run: Path, name: str, config: IndexConfig) -> Manifest | None:
    """The manifest of a whole index of a version that was built with these settings; None where there is none."""
    with suppress(ArtifactError), VectorSource.open(run, name, column=config.vector) as source:
        found = open_artifact(run / INDEX / name, INDEX)
        if found.inputs == source.inputs and found.config == {INDEX: config.model_dump(mode="json")}:
            return found
    return None


@dataclass(frozen=True)
class VectorIndex:
    """An index that was read.

    Attributes:
        run: The run's folder.
        manifest: Its manifest.
    """

    run: Path
    manifest: Manifest
    _index: Any

    @classmethod
    def load(cls, run: Path, at: str | int | None = None) -> "VectorIndex":
        """Read the index of a version.

        Args:
            run: The run's folder.
            at: See `find_version`.

        Raises:
            ArtifactError: There is none, it is damaged, or the embeddings were replaced after it was built.
            ConfigError: faiss is not installed, or `at` is no timestamp of the graph.
        """
        name, faiss = find_version(run, at), load_faiss()
        make = "gam-kg index RUN" + (f" --at {at}" if at is not None else "")
        path = run / INDEX / name
        if not path.exists():
            there = ", ".join(sorted(one.name for one in versions(run / INDEX))) or "none"
            raise ArtifactError(f"{path}: no index of this version of the embeddings; there are: {there}; run: {make}")
        manifest = open_artifact(path, INDEX)
        with VectorSource.open(run, name, column=manifest.content["vector"], verified=True) as source:
            if source.inputs != manifest.inputs:
                raise ArtifactError(f"{path}: the embeddings were replaced after it was built; run: {make}")
        index = faiss.read_index(str(path / _FILE))
        set_effort(index, manifest.content)
        return cls(run, manifest, index)

    def search(self, vectors: np.ndarray, top_k: int = RECALL_AT) -> tuple[np.ndarray, np.ndarray]:
        """The entities whose vectors have the highest inner products with some vectors.

        Args:
            vectors: float32 (num_queries, dim).
            top_k: How many.

        Returns:
            Ids, int64, and inner products, float32, best first, both (num_queries, top_k); id -1 where fewer are found.
        """
        similarity, ids = self._index.search(np.ascontiguousarray(vectors, np.float32), top_k)
        return ids, similarity

    def spelt(self, names: pa.Array) -> pa.Array:
        """Names that a user gives, as the graph spells them; see `TrainedRun.spelt`."""
        return clean_names(names, self._graph.config.get("data", {}).get("normalize_names", ()))

    def like(self, name: str | int, top_k: int = RECALL_AT) -> pa.Table:
        """The entities nearest to one, as `gam_kg.inference.search.nearest_entities` returns them, by the index.

        Raises:
            DataError: The name is unknown; the message has the closest names.
        """
        entity = find_name(self, self._names, name)  # ty: ignore[invalid-argument-type]  -- it needs only `spelt`
        with self._source() as source:
            (ids,), (similarity,) = self.search(source.read(np.array([entity])), top_k + 1)
        others = (ids != entity) & (ids >= 0)
        found = pa.array(ids[others][:top_k])
        return pa.table(
            {
                "entity_id": found,
                "entity": self._given_names.take(found),
                "cosine": similarity[others][:top_k],
                "last_seen": self._entities["last_seen"].take(found),
            }
        )

    def _source(self) -> AbstractContextManager[VectorSource]:
        about = self.manifest.content
        return VectorSource.open(self.run, about["version"], column=about["vector"], verified=True)

    @cached_property
    def _entities(self) -> pa.Table:
        """Names of entities, and when they were last seen, by id."""
        with self._source() as source:
            return pa.concat_tables(source.batches(vectors=False)).sort_by("id")

    @cached_property
    def _graph(self) -> Manifest:
        return read_manifest(self.run / "graph", "graph")

    @cached_property
    def _given_names(self) -> pa.Array:
        """Names by id as the facts have them; see `TrainedRun.given_names`."""
        names = self._names.names
        return as_integers(names) if "entity" in self._graph.content.get("integer_names", ()) else names

    @cached_property
    def _names(self) -> Vocabulary:
        return Vocabulary(self._entities["name"].combine_chunks(), "entity")
