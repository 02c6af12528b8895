"""Look-ups in a finished run, exact: the entities nearest to one, and the answers to one query, as tables."""

import pyarrow as pa
import torch

from gam_kg.inference.answers import answer_queries, encode_query, find_name
from gam_kg.inference.predict import prediction_table
from gam_kg.inference.queries import QueryRows
from gam_kg.inference.similarity import SearchSpace, vector_groups
from gam_kg.inference.trained_run import TrainedRun


def nearest_entities(run: TrainedRun, name: str, at: str | int | None = None, top_k: int = 10) -> pa.Table:
    """The entities whose search vectors have the highest cosine with that of an entity, itself left out.

    Args:
        run: The run to search.
        name: The entity.
        at: The last timestamp whose facts are in the vectors, and in the `SearchSpace`; None: that of the last fact.
        top_k: How many; fewer where there are fewer entities.

    Returns:
        Columns entity_id, entity, cosine, last_seen (null: never), best first.

    Raises:
        EvaluationError: A vector is not finite.
        DataError: The name is unknown; the message has the closest names.
        ConfigError: `at` is no timestamp of the graph, or before the first fact.
    """
    entity = find_name(run, run.entities, name)
    memory = run.memory_before(run.axis.snapshot_at(at, run.graph.end - 1) + 1)
    space = SearchSpace.after(run, memory)
    with torch.no_grad():
        (vector,) = space(run.sharded.entity_vectors(memory, index=torch.tensor([entity], device=run.device)))
    cosine = torch.cat([space(vectors) @ vector for _, vectors in vector_groups(run, memory)])
    cosine[entity] = -torch.inf
    best = torch.topk(cosine, min(top_k, len(cosine) - 1))
    found = best.indices.cpu().numpy()
    return pa.table(
        {
            "entity_id": found,
            "entity": run.given_names["entity"].take(pa.array(found)),
            "cosine": best.values.cpu().numpy(),
            "last_seen": run.labels(memory.last_seen.cpu().numpy()[found]),
        }
    )


def query_answers(
    run: TrainedRun, subject: str, relation: str, at: str | int | None = None, top_k: int = 10
) -> pa.Table:
    """The best answers to (subject, relation, ?) at a timestamp, from the facts before it; see `prediction_table`.

    The default of `at` is the snapshot after the last fact; raises what `nearest_entities` raises.
    """
    queries = encode_query(run, subject, relation, None, at)
    return prediction_table(run, QueryRows.of(run, queries), answer_queries(run, queries, top_k))
