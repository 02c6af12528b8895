"""Ranks advance a run together as one does alone, also from a state that other numbers of ranks have stored."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import graph_of, random_facts, tiny_config, write_graph
from runs import train_run
from updates import add_update

from gam_kg.artifacts import read_manifest
from gam_kg.config import UpdateConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.graph.update_chain import read_updates
from gam_kg.inference.state import publish_state, state_parts, write_state_part
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.inference.update import advance_run

BEFORE, NUM_DAYS = 8, 2


def day_of(number: int) -> np.ndarray:
    """Facts of a day; each day brings an entity, and the last a relation.

    Two entities without facts would score alike, and rounding would order them.
    """
    generator = np.random.default_rng(number)
    most = 11 + number
    rows = np.stack([generator.integers(0, most, 15), generator.integers(0, 3, 15), generator.integers(0, most, 15)], 1)
    rows[0, 0] = most - 1
    rows[0, 1] = 3 if number == NUM_DAYS - 1 else 0
    return np.unique(np.column_stack([rows, np.full(15, BEFORE + number)]), axis=0)


def add_day(run: Path, number: int) -> None:
    relations = 3, 4 if number == NUM_DAYS - 1 else 3
    sizes = zip((10 + number, 11 + number), relations, strict=True)
    add_update(run, day_of(number), *sizes, read_manifest(run / "checkpoint", "checkpoint"))


def advance(communicator: Communicator, run_path: Path, first: int, parts: Path | None) -> tuple:
    """Scores of the days from one on, and the memory of the rank's entities by id."""
    run = TrainedRun.load(run_path, communicator=communicator)
    run.model.double()
    states = [state.after for state in run.states]
    found = advance_run(run, first, first, 10**6)
    if parts is not None:
        write_state_part(parts, found.memory, run.history, found.baselines)
    ids = run.graph.partition.ids.tolist()
    return states, found.scores, dict(zip(ids, found.memory.hidden, strict=True))


def advanced(rank_pool, ranks: int, *arguments) -> tuple:
    parts = [advance(Communicator(), *arguments)] if ranks == 1 else rank_pool.run(ranks, advance, *arguments)
    memory = {entity: row for *_, rows in parts for entity, row in rows.items()}
    return *parts[0][:2], torch.stack([memory[entity] for entity in sorted(memory)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_graph(folder / "graph", graph_of(random_facts(1, 150), buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    return folder


@pytest.mark.parametrize("storing, going_on", [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_a_state_of_some_ranks_is_gone_on_from_by_others(rank_pool, run, tmp_path, storing, going_on):
    mine, expected = tmp_path / "mine", tmp_path / "expected"
    shutil.copytree(run, mine)
    add_day(mine, 0)
    with state_parts(mine) as parts:
        advanced(rank_pool, storing, mine, BEFORE, parts)
        graph, checkpoint = (read_manifest(mine / kind, kind) for kind in ("graph", "checkpoint"))
        made_from = graph, checkpoint, read_updates(mine, graph)
        publish_state(mine, BEFORE, made_from, parts, UpdateConfig())
    for number in range(1, NUM_DAYS):
        add_day(mine, number)
    shutil.copytree(mine, expected)
    shutil.rmtree(expected / "state")
    states, scores, memory = advanced(rank_pool, going_on, mine, BEFORE + 1, None)
    assert states == [BEFORE]
    none, expected_scores, expected_memory = advanced(rank_pool, 1, expected, BEFORE + 1, None)
    assert none == []
    assert len(scores) == NUM_DAYS - 1
    for found, row in zip(scores, expected_scores, strict=True):
        assert found == pytest.approx(row)
    torch.testing.assert_close(memory, expected_memory, rtol=0, atol=1e-10)
