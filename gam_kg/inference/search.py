"""Look-ups in a finished run, exact: the entities nearest to one, and the answers to one query, as tables."""

import numpy as np
import pyarrow as pa
import torch

from gam_kg.data.time_axis import TimeAxis
from gam_kg.errors import ConfigError
from gam_kg.inference.predict import Asked, answer_queries, prediction_table
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.train.step import entity_vectors


def nearest_entities(run: TrainedRun, name: str, at: str | int | None = None, top_k: int = 10) -> pa.Table:
    """The entities whose vectors have the highest cosine with one, itself left out.

    Args:
        run: The run to search.
        name: The entity.
        at: As of this timestamp, its facts included; None: after the last fact.
        top_k: How many; fewer where there are fewer entities.

    Returns:
        Columns entity_id, entity, cosine, last_seen (null: never), best first.

    Raises:
        DataError: The name is unknown; the message has the closest names.
        ConfigError: `at` is no timestamp of the graph, or before the first fact.
    """
    entity = int(run.entities.encode([name])[0])
    memory = run.memory_before(moment(run.axis, at, run.graph.end - 1) + 1)
    with torch.no_grad():
        vectors = entity_vectors(run.model, memory)
    cosine = vectors @ vectors[entity]
    cosine[entity] = -torch.inf
    best = torch.topk(cosine, min(top_k, len(vectors) - 1))
    found = best.indices.cpu().numpy()
    columns = {
        "entity_id": pa.array(found),
        "entity": run.entities.decode(found),
        "cosine": pa.array(best.values.cpu().numpy()),
        "last_seen": run.labels(memory.last_seen.cpu().numpy()[found]),
    }
    return pa.table(columns)


def query_answers(
    run: TrainedRun, subject: str, relation: str, at: str | int | None = None, top_k: int = 10
) -> pa.Table:
    """The best answers to (subject, relation, ?) at a moment, from the facts before it.

    Args:
        run: The run to search.
        subject: The known entity.
        relation: The relation asked about.
        at: The moment; None: the snapshot after the last fact.
        top_k: How many; fewer where there are fewer entities.

    Returns:
        `schemas.PREDICTIONS`, best first.

    Raises:
        DataError: A name is unknown; the message has the closest names.
        ConfigError: `at` is no timestamp of the graph, or before the first fact.
    """
    ids = run.entities.encode([subject]), run.relations.encode([relation])
    asked = Asked(*ids, np.array([moment(run.axis, at, run.graph.end)]))
    return prediction_table(run, asked, answer_queries(run, asked, top_k))


def moment(axis: TimeAxis, at: str | int | None, default: int) -> int:
    """The snapshot of a timestamp.

    Raises:
        ConfigError: It is no timestamp of the graph, or before the first fact.
    """
    if at is None:
        return default
    snapshot = axis.parse(at)
    if snapshot < 0:
        raise ConfigError(f"{at}: before the first fact ({axis.label(0)}), when nothing is known")
    return snapshot
