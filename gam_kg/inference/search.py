"""Look-ups in a finished run, exact: the entities nearest to one, and the answers to one query, as tables."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gam_kg.inference.answers import answer_queries, encode_query, find_name
from gam_kg.inference.candidates import candidates_of
from gam_kg.inference.predict import prediction_table
from gam_kg.inference.queries import QueryRows
from gam_kg.inference.similarity import SearchSpace, vector_groups
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.metrics.product_scores import ProductScores
from gam_kg.ops.precision import float32_products

_MOST_STORED = 2**28
"""Numbers of search vectors that stay in memory for the next look-up, at most: a GiB."""


def nearest_entities(
    run: TrainedRun, name: str | int, at: str | int | None = None, top_k: int = 10, *, among: str | None = None
) -> pa.Table:
    """The entities whose search vectors have the highest cosine with that of an entity, itself left out.

    Args:
        run: The run to search.
        name: The entity; see `find_name`.
        at: The last timestamp whose facts are in the vectors, and in the `SearchSpace`; None: that of the last fact.
        top_k: How many; fewer where there are fewer entities.
        among: Which entities may be found; see `candidates_of`; None: all.

    Returns:
        Columns entity_id, entity, cosine, last_seen (null: never), best first, of equal ones the smaller id first.

    Raises:
        EvaluationError: A vector is not finite.
        DataError: The name is unknown; the message has the closest names.
        ConfigError: `at` is no timestamp of the graph, or before the first fact.
    """
    entity, end = find_name(run, run.entities, name), run.axis.snapshot_at(at, run.graph.end - 1) + 1
    rows = torch.arange(len(run.entities)) if among is None else torch.from_numpy(candidates_of(run, among, end))
    rows = rows[rows != entity]
    vector, last_seen, groups = _search_vectors(run, entity, end)
    nothing, found = torch.zeros(0, dtype=torch.int64, device=run.device), []
    for first, group in groups:
        here = rows[(rows >= first) & (rows < first + len(group))].to(run.device)
        scores = ProductScores(vector[None], group, nothing, nothing, group.new_zeros(0))
        scores = scores if len(here) == len(group) else scores.among(here - first)
        if len(here):
            place, cosine = scores.best(min(top_k, len(here)))
            found.append((here[place[0]], cosine[0]))
    ids, cosines = (torch.cat(parts).cpu().numpy() for parts in zip((nothing, vector[:0]), *found, strict=True))
    best = np.lexsort((ids, -cosines))[:top_k]
    return pa.table(
        {
            "entity_id": ids[best],
            "entity": run.given_names["entity"].take(pa.array(ids[best])),
            "cosine": cosines[best],
            "last_seen": run.labels(last_seen.cpu().numpy()[ids[best]]),
        }
    )


def query_answers(
    run: TrainedRun,
    subject: str | None,
    relation: str,
    at: str | int | None = None,
    top_k: int = 10,
    *,
    object: str | None = None,
    among: str | None = None,
) -> pa.Table:
    """The best answers to (subject, relation, ?) or (?, relation, object) at a timestamp; see `prediction_table`.

    Only facts before the timestamp are read. Its default is that of the snapshot after the last fact.

    Raises:
        DataError: See `encode_query` and `candidates_of`.
        ConfigError: `at` is no timestamp of the graph, or before the first fact.
    """
    queries = encode_query(run, subject, relation, object, at)
    candidates = None if among is None else candidates_of(run, among, int(queries.snapshot[0]))
    return prediction_table(run, QueryRows.of(run, queries), answer_queries(run, queries, top_k, among=candidates))


def _search_vectors(run: TrainedRun, entity: int, end: int) -> tuple[Tensor, Tensor, Iterable[tuple[int, Tensor]]]:
    """The search vector of an entity after the facts before a snapshot, when each was last seen, and all vectors.

    These come in groups with the number of the first one, so that there is no copy of all where they are many.
    """
    if end not in run.search_vectors:
        memory = run.memory_before(end)
        space = SearchSpace.after(run, memory)
        groups = ((int(rows[0]), space(vectors)) for rows, vectors in vector_groups(run, memory))
        if len(run.entities) * run.model.config.dim > _MOST_STORED:
            with torch.no_grad(), float32_products():
                (vector,) = space(run.sharded.vectors_of(memory, torch.tensor([entity], device=run.device)))
            return vector, memory.last_seen, groups
        run.search_vectors.clear()
        run.search_vectors[end] = torch.cat([vectors for _, vectors in groups]), memory.last_seen.clone()
    vectors, last_seen = run.search_vectors[end]
    return vectors[entity], last_seen, [(0, vectors)]
