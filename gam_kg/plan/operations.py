"""Floating-point operations of an epoch: counted in a few real steps on a part of the graph, and scaled.

Matrix products are counted, as `torch.utils.flop_counter` does.
"""

from dataclasses import replace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from gam_kg.config import Config
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.plan.counts import GraphCounts
from gam_kg.plan.workload import Workload
from gam_kg.training.trainer import Trainer

_MAX_DIM = 512  # wider models are measured at this width, so that a plan takes little memory
# Entities without facts beside the others, and the share of the negatives that is drawn. Two numbers of candidates
# separate the operations of scores from those of queries.
_RUNS = (0, 0.25), (1500, 1.0)
# What torch's counter leaves out: products that are added in place.
IN_PLACE = {torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * left[0] * left[1] * right[1]}


def unit_operations(config: Config, counts: GraphCounts) -> np.ndarray:
    """Operations of a score, of a query and of an active entity's update, each with its backward, (3,)."""
    dim = min(config.model.dim, _MAX_DIM)
    sizes, counted = zip(*(_train(config, counts, dim, *run) for run in _RUNS), strict=True)
    units, *_ = np.linalg.lstsq(np.concatenate(sizes), np.concatenate(counted))
    # A score grows with the width, linear maps with its square.
    return units * (config.model.dim / dim) ** np.array([1, 2, 2])


def epoch_operations(workload: Workload, units: np.ndarray) -> dict[str, float]:
    """Operations of a rank in an epoch and its validation, by purpose; `units` are `unit_operations`."""
    counts, ranks = workload.counts, workload.world_size
    score, query, update = units / [1, ranks, ranks]
    scores, queries, updates = _sizes(workload).sum(0)
    forward = workload.ranked.sum() * (score * workload.rows + query)
    forward += update * counts.active[: counts.valid.stop].sum()
    return {
        "scoring": score * scores,
        "decoder and history": query * queries,
        "GAM and LSTM": update * updates,
        "validation": forward / 3,  # the backward has two products for each
    }


def _sizes(workload: Workload) -> np.ndarray:
    """Scores, queries and updates of each training snapshot, (num_snapshots, 3)."""
    steps, queries, last = workload.steps, workload.steps * workload.scored, np.arange(len(workload.steps))
    before = np.concatenate([np.zeros(1), np.cumsum(workload.active)])
    left = np.maximum(0, last - workload.config.train.window)
    # Each step updates the window; a snapshot that leaves it is updated once more, without gradients.
    updates = steps * (before[last] - before[left]) + (before[left] - before[np.maximum(0, left - 1)]) / 3
    return np.stack([queries * workload.candidates, queries, updates], 1)


def _train(config: Config, counts: GraphCounts, dim: int, idle: int, drawn: float) -> tuple[np.ndarray, np.ndarray]:
    """Train on the sample of facts: `_sizes` of its snapshots, and the operations of each, (num_snapshots,)."""
    values = config.model_dump()
    values["model"] |= {"dim": dim, "heads": 1}  # the number of heads changes no number of operations
    # How many queries ahead there are is known on average only.
    values["train"] |= {"num_negatives": max(1, int(drawn * config.train.num_negatives)), "ahead_share": 0.0}
    values["train"] |= {"read_ahead": 0, "batch_workers": 0}
    config, graph = Config.model_validate(values), _graph(counts.sample, idle)
    counted = []
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        for progress in Trainer(config, graph).run():
            if progress.phase != "train":
                break
            counted.append(counter.get_total_flops())
    sizes = np.array([(len(one) / 2, len(one.active), len(one.queries)) for one in graph.read(graph.times)])
    columns = dict(zip(("num_facts", "active", "queries"), sizes.reshape(-1, 3).T, strict=True))
    counts = replace(counts, num_entities=graph.num_entities, train=slice(None), **columns)
    return _sizes(Workload(config, counts, 1)), np.diff(counted, prepend=0).astype(float)


def _graph(facts: np.ndarray, idle: int) -> TemporalGraph:
    """Facts with only their own entities and relations, and some entities without facts."""
    entities, ends = np.unique(facts[:, [0, 2]], return_inverse=True)
    relations, relation = np.unique(facts[:, 1], return_inverse=True)
    subject, answer = ends.reshape(-1, 2).T
    end = int(facts[:, 3].max(initial=-1)) + 1
    return TemporalGraph.from_facts(
        np.stack([subject, relation, answer, facts[:, 3]], 1),
        num_entities=len(entities) + idle,
        num_relations=len(relations),
        valid_start=end,
        test_start=end,
    )
