"""Training looks ahead to as much as is planned."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import graph_of, random_facts, random_graph, tiny_config, write_graph
from torch import Tensor

from gam_kg.distributed.communicator import Communicator
from gam_kg.graph.snapshot import Queries
from gam_kg.ops.records import num_bytes
from gam_kg.plan.counts import count_graph
from gam_kg.plan.memory import memory_items
from gam_kg.plan.workload import Workload
from gam_kg.training import optimizer_step
from gam_kg.training.run import BATCHES_AHEAD
from gam_kg.training.step_batch import StepBatch
from gam_kg.training.trainer import Trainer

BUCKETS = 7
GRAPH = graph_of(random_facts(0, 150), buckets=BUCKETS)


def _ahead_bytes_of_rank(communicator: Communicator, max_horizon: int) -> list[int]:
    """Of each step."""
    graph = GRAPH.shard(communicator.rank, communicator.world_size)
    trainer = Trainer(tiny_config(max_horizon=max_horizon, epochs=1), graph, communicator=communicator)
    found = []
    for _ in trainer.run():
        parts = [
            (one.anchor, one.relation, one.other, *_of_queries(one.queries), *_of_queries(one.own_queries))
            for one in trainer._batches._following
        ]
        distinct = {id(tensor): tensor for part in parts for tensor in part}
        found.append(sum(tensor.nbytes for tensor in distinct.values()))
    return found


def _of_queries(queries: Queries) -> list[Tensor]:
    return [value for value in vars(queries).values() if isinstance(value, Tensor)]


@pytest.mark.parametrize("max_horizon", [1, 2, 4, 100])
def test_snapshots_ahead_are_planned(rank_pool: Any, tmp_path: Path, max_horizon: int) -> None:
    write_graph(tmp_path, GRAPH, BUCKETS)
    config, counts = tiny_config(max_horizon=max_horizon), count_graph(tmp_path)
    one, two = (
        next(
            item.num_bytes
            for item in memory_items(Workload(config, counts, ranks), 0.0)
            if item.name == "snapshots ahead"
        )
        for ranks in (1, 2)
    )
    assert one == max(_ahead_bytes_of_rank(Communicator(), max_horizon))
    # The mean of ranks, which have about the same.
    assert two == np.mean(rank_pool.run(2, _ahead_bytes_of_rank, max_horizon), 0).max()
    assert (one == 0) == (max_horizon == 1)


@pytest.mark.parametrize("answers_per_step", [None, 20])
def test_a_step_scores_as_many_queries_and_answers_as_planned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers_per_step: int | None
) -> None:
    graph = random_graph(6000, num_entities=300)
    write_graph(tmp_path, graph, 16)
    config = tiny_config(epochs=1, answers_per_step=answers_per_step, max_horizon=3, ahead_share=0.4)
    trainer, found = Trainer(config, graph), []

    def noted(sharded: Any, memory: Any, batch: StepBatch, *more: Any) -> Tensor:
        found.append((int(batch.num_answers), sum(block.layout.num_queries for block in batch.blocks)))
        return backward_step(sharded, memory, batch, *more)

    backward_step = optimizer_step.backward_step
    monkeypatch.setattr(optimizer_step, "backward_step", noted)
    list(trainer.run())
    workload = Workload(config, count_graph(tmp_path), 1)
    assert len(found) == workload.steps.sum()
    for measured, planned in zip(
        np.sum(found, 0), (workload.steps @ workload.scored_answers, workload.steps @ workload.scored), strict=True
    ):
        assert measured == pytest.approx(planned, rel=0.01)
        assert planned > 1.2 * (workload.steps @ workload.queries)


@pytest.mark.parametrize("train", [{}, {"candidates": "sampled"}, {"candidates": "sampled", "history_links": 4}])
def test_batches_that_wait_for_their_steps_are_planned(tmp_path: Path, train: dict[str, Any]) -> None:
    graph = random_graph(6000, num_entities=300)
    write_graph(tmp_path, graph, 16)

    def planned(read_ahead: int | None) -> float:
        config = tiny_config(read_ahead=read_ahead, **train)
        items = memory_items(Workload(config, count_graph(tmp_path), 1), 0.0)
        return next(item.num_bytes for item in items if item.name == "batches ahead")

    trainer = Trainer(tiny_config(**train), graph)
    sizes = [num_bytes(step.batch) for step in trainer._batches.steps(trainer.times, 0, 0)]
    assert max(sizes) < planned(1) < 3 * max(sizes)
    assert planned(0) == 0
    assert planned(3) == 3 * planned(1)
    assert planned(None) == planned(BATCHES_AHEAD)


def test_processes_that_make_batches_are_planned(tmp_path: Path) -> None:
    graph = random_graph(6000, num_entities=300)
    write_graph(tmp_path, graph, 16)
    counts = count_graph(tmp_path)

    def planned(workers: int | None, *, world_size: int = 1, **train: Any) -> dict[str, float]:
        config = tiny_config(batch_workers=workers, **train)
        return {item.name: item.num_bytes for item in memory_items(Workload(config, counts, world_size), 0.0)}

    none, one, three = (planned(number) for number in (0, 1, 3))
    history = none["history index"]
    assert none["batch workers"] == 0
    assert one["batch workers"] > 2 * history
    assert three["batch workers"] - one["batch workers"] > 2 * history
    assert three["batches ahead"] == 3 * one["batches ahead"]
    assert planned(None) == none
    assert planned(None, use_gpu=True)["batch workers"] > three["batch workers"]
    assert planned(3, world_size=2)["batch workers"] == 0
