"""A faiss index over the vectors of a version of the embeddings, `RUN/index/as_of=.../`, and its measured recall.

Similarities are inner products; as the vectors have length 1, these are cosines. An entity's place in the index is its
id. faiss is an extra: `pip install 'gam-kg[index]'`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gam_kg.artifacts import Content, Manifest, open_artifact, read_manifest, write_artifact
from gam_kg.config import IndexConfig
from gam_kg.errors import ArtifactError, ConfigError, EvaluationError
from gam_kg.inference.vector_source import VectorSource, find_version
from gam_kg.ingest.names import clean_names
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.output import discard
from gam_kg.versions import versions

INDEX = "index"
RECALL_AT = 10

_FILE = "index.faiss"
_FLAT_UP_TO = 50_000
_FEWEST_TO_COMPRESS = 1000
_ROWS_PER_LIST = 50
_BLOCK = 65_536
_TIE = 1e-5
_EFFORTS = {"ivf_pq": "probes", "hnsw": "ef_search"}
"""Kind → the setting that says how much of the index a search looks at."""


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
    faiss = _faiss()
    with VectorSource.open(run, name, column=config.vector) as source:
        manifest = Manifest.of(INDEX, source.inputs, {INDEX: config.model_dump(mode="json")})

        def write(folder: Path) -> Content:
            vectors = source.load()
            settings = _settings(config, *vectors.shape)
            say(f"building {settings['kind']} over {len(vectors):,} vectors of {source.dim}")
            index = _build(vectors, settings)
            say(f"measuring recall@{RECALL_AT} on {config.sample:,} entities")
            settings |= _measured(index, vectors, settings, config)
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
        name, faiss = find_version(run, at), _faiss()
        make = "gam-kg index RUN" + (f" --at {at}" if at is not None else "")
        path = run / INDEX / name
        if not path.exists():
            there = ", ".join(sorted(one.name for one in versions(run / INDEX))) or "none"
            raise ArtifactError(f"{path}: no index of this version of the embeddings; there are: {there}; run: {make}")
        manifest = open_artifact(path, INDEX)
        with VectorSource.open(run, name, column=manifest.content["vector"]) as source:
            if source.inputs != manifest.inputs:
                raise ArtifactError(f"{path}: the embeddings were replaced after it was built; run: {make}")
        index = faiss.read_index(str(path / _FILE))
        _set_effort(index, manifest.content, manifest.content.get("effort"))
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

    def like(self, name: str, top_k: int = RECALL_AT) -> pa.Table:
        """The entities nearest to one, as `gam_kg.inference.search.nearest_entities` returns them, by the index.

        Raises:
            DataError: The name is unknown; the message has the closest names.
        """
        folds = read_manifest(self.run / "graph", "graph").config.get("data", {}).get("normalize_names", ())
        with self._source() as source:
            (entity,) = self._names.encode(clean_names(pa.array([name]), folds))
            (ids,), (similarity,) = self.search(source.read(np.array([entity])), top_k + 1)
        others = (ids != entity) & (ids >= 0)
        found = pa.array(ids[others][:top_k])
        return pa.table(
            {
                "entity_id": found,
                "entity": self._names.names.take(found),
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
    def _names(self) -> Vocabulary:
        return Vocabulary(self._entities["name"].combine_chunks(), "entity")


def exact(vectors: np.ndarray, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids, int64, and inner products, float32, of the best vectors, best first, both (num_queries, top_k)."""
    wanted, found = torch.from_numpy(queries), []
    for start in range(0, len(vectors), _BLOCK):
        block = torch.from_numpy(vectors[start : start + _BLOCK])
        best = torch.topk(wanted @ block.T, min(top_k, len(block)))
        found.append((best.values, best.indices + start))
    values, ids = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    best = torch.topk(values, min(top_k, values.shape[1]))
    return ids.gather(1, best.indices).numpy(), best.values.numpy()


def _settings(config: IndexConfig, num_vectors: int, dim: int) -> dict[str, Any]:
    """The settings in use where some are left to gam-kg."""
    kind = config.kind
    if kind == "auto":
        kind = "flat" if num_vectors <= _FLAT_UP_TO else "ivf_pq"
    if kind == "flat":
        return {"kind": kind}
    if kind == "hnsw":
        return {"kind": kind, "neighbours": config.neighbours, "ef_construction": config.ef_construction}
    if num_vectors < _FEWEST_TO_COMPRESS:
        raise ConfigError(
            f"index.kind=ivf_pq needs {_FEWEST_TO_COMPRESS:,} vectors, there are {num_vectors:,}; use index.kind=flat"
        )
    parts = config.subvectors or max(n for n in range(1, max(1, dim // 4) + 1) if dim % n == 0)
    if dim % parts:
        legal = ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)
        raise ConfigError(f"index.subvectors={parts} does not divide the length of the vectors, {dim}; use {legal}")
    lists = min(config.lists or round(2 * num_vectors**0.5), num_vectors // _ROWS_PER_LIST)
    return {"kind": kind, "lists": lists, "subvectors": parts, "rerank": config.rerank}


def _build(vectors: np.ndarray, settings: dict[str, Any]) -> Any:
    """An index of all vectors; what it learns, it learns from some of them."""
    faiss, dim = _faiss(), vectors.shape[1]
    if settings["kind"] == "ivf_pq":
        # Parts are coded in 4 bits, which the CPU compares 32 at a time; vectors in float16 put the best in order.
        text = f"IVF{settings['lists']},PQ{settings['subvectors']}x4fs" + (
            ",Refine(SQfp16)" if settings["rerank"] else ""
        )
    else:
        text = {"flat": "Flat", "hnsw": f"HNSW{settings.get('neighbours')}"}[settings["kind"]]
    index = faiss.index_factory(dim, text, faiss.METRIC_INNER_PRODUCT)
    if settings["kind"] == "hnsw":
        index.hnsw.efConstruction = settings["ef_construction"]
    if not index.is_trained:
        chosen = np.random.default_rng(0).permutation(len(vectors))[: _ROWS_PER_LIST * settings["lists"]]
        index.train(vectors[np.sort(chosen)])
    for start in range(0, len(vectors), _BLOCK):
        index.add(vectors[start : start + _BLOCK])
    return index


def _measured(index: Any, vectors: np.ndarray, settings: dict[str, Any], config: IndexConfig) -> dict[str, Any]:
    """`recall` on one half of the sample, with the least `effort` that is enough for the other half.

    Raises:
        EvaluationError: The recall is too low.
    """
    there = np.flatnonzero((vectors**2).sum(1) > 0.5)  # all others are equally far from everything
    sample = np.random.default_rng(1).permutation(there)[: config.sample]
    if len(sample) < 2:
        raise EvaluationError(f"of {len(vectors):,} vectors {len(sample)} are not zero, too few to measure recall on")
    least = exact(vectors, vectors[sample], RECALL_AT + 1)[1][:, -1]
    first, second = (slice(start, None, 2) for start in (0, 1))
    enough = config.min_recall + (1 - config.min_recall) / 4  # the other half may find less
    effort = None
    for effort in _efforts(settings, config):
        _set_effort(index, settings, effort)
        if _recall(index, vectors, sample[first], least[first]) >= enough:
            break
    recall = _recall(index, vectors, sample[second], least[second])
    if recall < config.min_recall:
        knobs = {
            "hnsw": "index.ef_search (now {effort}), index.neighbours and index.ef_construction",
            "ivf_pq": "index.probes (now {effort} of {lists}), index.rerank and index.subvectors",
        }[settings["kind"]].format(effort=effort, **settings)
        raise EvaluationError(
            f"the index finds {recall:.1%} of the {RECALL_AT} nearest entities, less than "
            f"index.min_recall={config.min_recall}; nothing was written. Raise {knobs}, or use index.kind=flat"
        )
    return {"recall": round(recall, 4), "recall_at": RECALL_AT, "sample": len(sample), "effort": effort}


def _recall(index: Any, vectors: np.ndarray, rows: np.ndarray, least: np.ndarray) -> float:
    """Share of the nearest others that the index finds; one as near as the last of them, `least`, counts as one."""
    _, ids = index.search(vectors[rows], RECALL_AT + 1)
    num_others, found = min(RECALL_AT, len(vectors) - 1), 0
    for row, near, last in zip(rows, ids, least, strict=True):
        others = near[(near >= 0) & (near != row)][:num_others]
        found += int((vectors[others] @ vectors[row] >= last - _TIE).sum())
    return found / (num_others * len(rows))


def _efforts(settings: dict[str, Any], config: IndexConfig) -> Iterator[int | None]:
    """What to try, the least first."""
    kind = settings["kind"]
    given = getattr(config, _EFFORTS[kind]) if kind in _EFFORTS else None
    if kind == "flat" or given is not None:
        yield given
        return
    effort, most = (16, 1024) if kind == "hnsw" else (1, settings["lists"])
    while effort < most:
        yield effort
        effort *= 2
    yield most


def _set_effort(index: Any, settings: dict[str, Any], effort: int | None) -> None:
    faiss = _faiss()
    if settings["kind"] == "hnsw":
        index.hnsw.efSearch = effort
    elif settings["kind"] == "ivf_pq":
        faiss.extract_index_ivf(index).nprobe = effort
        if settings["rerank"]:
            index.k_factor = settings["rerank"]


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError("an index needs faiss, which is not installed: pip install 'gam-kg[index]'") from None
    return faiss
