"""An index in faiss: the settings that are in use, its building, and its recall against exact search."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from gam_kg.config import IndexConfig
from gam_kg.errors import ConfigError, EvaluationError

RECALL_AT = 10

_FLAT_UP_TO = 50_000
_FEWEST_TO_COMPRESS = 1000
_ROWS_PER_LIST = 50
_BLOCK = 65_536
_TIE = 1e-5


def load_faiss() -> Any:
    """The module faiss.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise ConfigError("an index needs faiss, which is not installed: pip install 'gam-kg[index]'") from None
    return faiss


def exact(vectors: np.ndarray, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids, int64, and inner products, float32, of the best vectors, best first, both (num_queries, top_k)."""
    rows, found = torch.from_numpy(queries), []
    for start in range(0, len(vectors), _BLOCK):
        block = torch.from_numpy(vectors[start : start + _BLOCK])
        best = torch.topk(rows @ block.T, min(top_k, len(block)))
        found.append((best.values, best.indices + start))
    values, ids = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    best = torch.topk(values, min(top_k, values.shape[1]))
    return ids.gather(1, best.indices).numpy(), best.values.numpy()


def settings_in_use(config: IndexConfig, num_vectors: int, dim: int) -> dict[str, Any]:
    """The settings in use where some are left to gam-kg."""
    kind = config.kind
    if kind == "auto":
        kind = "flat" if num_vectors <= _FLAT_UP_TO else "ivf_pq"
    if kind == "flat":
        return {"kind": kind}
    if kind == "hnsw":
        return {"kind": kind} | config.model_dump(include={"neighbours", "ef_construction", "ef_search"})
    if num_vectors < _FEWEST_TO_COMPRESS:
        raise ConfigError(
            f"index.kind=ivf_pq needs {_FEWEST_TO_COMPRESS:,} vectors, there are {num_vectors:,}; use index.kind=flat"
        )
    parts = config.subvectors or max(n for n in range(1, max(1, dim // 2) + 1) if dim % n == 0)
    if dim % parts:
        legal = ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)
        raise ConfigError(f"index.subvectors={parts} does not divide the length of the vectors, {dim}; use {legal}")
    lists = min(config.lists or round(2 * num_vectors**0.5), num_vectors // _ROWS_PER_LIST)
    # Settings of a search that are not given are found out later; until then a search reads all lists.
    of_search = {"rerank": config.rerank, "probes": config.probes or lists}
    return {"kind": kind, "lists": lists, "subvectors": parts, **of_search}


def build(vectors: np.ndarray, settings: dict[str, Any]) -> Any:
    """An index of all vectors; what it learns, it learns from some of them."""
    faiss, dim = load_faiss(), vectors.shape[1]
    if settings["kind"] == "ivf_pq":
        # Parts are coded in 4 bits, which the CPU compares 32 at a time; vectors in float16 put the best in order.
        text = f"IVF{settings['lists']},PQ{settings['subvectors']}x4fs" + (
            "" if settings["rerank"] == 0 else ",Refine(SQfp16)"
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


def measured(index: Any, vectors: np.ndarray, settings: dict[str, Any], config: IndexConfig) -> dict[str, Any]:
    """The settings with those of a search that are enough for one half of the sample, and `recall` on the other half.

    Raises:
        EvaluationError: The recall is too low.
    """
    there = np.flatnonzero((vectors**2).sum(1) > 0.5)  # all others are equally far from everything
    sample = np.random.default_rng(1).permutation(there)[: config.sample]
    if len(sample) < 2:
        raise EvaluationError(f"of {len(vectors):,} vectors {len(sample)} are not zero, too few to measure recall on")
    least = exact(vectors, vectors[sample], RECALL_AT + 1)[1][:, -1]
    first, second = (slice(start, None, 2) for start in (0, 1))
    set_effort(index, settings)
    for name, values, margin in _ladders(settings, config):
        # More than enough: the next setting costs recall too, and the other half may find less.
        enough = config.min_recall + margin * (1 - config.min_recall)
        for value in values:
            settings = settings | {name: value}
            set_effort(index, settings)
            if _recall(index, vectors, sample[first], least[first]) >= enough:
                break
    recall = _recall(index, vectors, sample[second], least[second])
    if recall < config.min_recall:
        knobs = {
            "hnsw": "index.ef_search (now {ef_search}), index.neighbours and index.ef_construction",
            "ivf_pq": "index.probes (now {probes} of {lists}), index.rerank (now {rerank}) and index.subvectors",
        }[settings["kind"]].format(**settings)
        raise EvaluationError(
            f"the index finds {recall:.1%} of the {RECALL_AT} nearest entities, less than "
            f"index.min_recall={config.min_recall}; nothing was written. Raise {knobs}, or use index.kind=flat"
        )
    return settings | {"recall": round(recall, 4), "recall_at": RECALL_AT, "sample": len(sample[second])}


def _recall(index: Any, vectors: np.ndarray, rows: np.ndarray, least: np.ndarray) -> float:
    """Share of the nearest others that the index finds; one as near as the last of them, `least`, counts as one."""
    _, ids = index.search(vectors[rows], RECALL_AT + 1)
    num_others, found = min(RECALL_AT, len(vectors) - 1), 0
    for row, near, last in zip(rows, ids, least, strict=True):
        others = near[(near >= 0) & (near != row)][:num_others]
        found += int((vectors[others] @ vectors[row] >= last - _TIE).sum())
    return found / (num_others * len(rows))


def set_effort(index: Any, settings: dict[str, Any]) -> None:
    """Let searches look at as much of an index as the settings say."""
    if settings["kind"] == "hnsw" and settings["ef_search"] is not None:
        index.hnsw.efSearch = settings["ef_search"]
    elif settings["kind"] == "ivf_pq":
        load_faiss().extract_index_ivf(index).nprobe = settings["probes"]
        if settings["rerank"]:
            index.k_factor = settings["rerank"]


def _ladders(settings: dict[str, Any], config: IndexConfig) -> Iterator[tuple[str, list[int], float]]:
    """Settings of a search that are left to gam-kg, what to try for each, the least first, and a margin of recall."""
    if settings["kind"] == "hnsw" and config.ef_search is None:
        yield "ef_search", [2**power for power in range(4, 11)], 0.25
    if settings["kind"] == "ivf_pq" and config.rerank is None:
        yield "rerank", [4**power for power in range(1, 6)], 0.5
    if settings["kind"] == "ivf_pq" and config.probes is None:
        lists = settings["lists"]
        yield "probes", [*(2**power for power in range(20) if 2**power < lists), lists], 0.25
