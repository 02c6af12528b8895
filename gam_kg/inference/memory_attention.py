"""Which facts the memory of an entity attended to when it was last updated: context of a score, and no part of it."""

import numpy as np
import pyarrow as pa
import torch

from gam_kg.graph.message_graph import MessageGraph
from gam_kg.inference.reason_text import PastFact
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ops.precision import float32_products
from gam_kg.training.step_batch import to_device


@torch.no_grad()
@float32_products()
def memory_attention(run: TrainedRun, entity: int, before: int) -> list[tuple[PastFact, float]]:
    """The facts of the last snapshot in which an entity was active, with their attention weights, the largest first.

    The memory before that snapshot is computed from a stored state, or from the first fact.

    Args:
        run: The run, in a world of one.
        entity: Id of the entity.
        before: The first snapshot that is not in its memory.

    Returns:
        Facts and weights, means over the attention heads that sum to one; none where the entity was never active, or
        the run has no memory.
    """
    history = run.scorer_before(before).history
    found = history.by_subject.recent(torch.tensor([entity]), 1)
    if not len(found.last) or not run.model.config.memory:
        return []
    last, num_relations = int(found.last[0]), len(run.relations)
    graph = MessageGraph.of(run.graph.snapshot(last), run.graph.partition).only(torch.tensor([entity]))
    other, relation = graph.active[graph.src], graph.relations[graph.edge_type]
    count, _ = history.times_seen(other, relation, torch.full_like(other, entity))
    model, memory, graph = run.model, run.memory_before(last), to_device(graph, run.device)
    rows = model.selected_rows(model.sources().select(graph.active))
    weights, _ = model.update(rows, memory.rows(graph.active), graph.with_relation_rows(model.relation_rows()))
    weight = weights.mean(1).cpu().numpy()
    given = run.given_names
    name, names = given["entity"][entity].as_py(), given["entity"].take(pa.array(other.numpy())).to_pylist()
    relations = given["relation"].take(pa.array(relation.numpy() % num_relations)).to_pylist()
    facts = []
    for at in np.argsort(-weight, kind="stable").tolist():
        ends = (name, names[at]) if relation[at] >= num_relations else (names[at], name)
        fact = PastFact(ends[0], relations[at], ends[1], run.axis.label(last), int(count[at]))
        facts.append((fact, float(weight[at])))
    return facts
