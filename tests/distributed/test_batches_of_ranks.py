"""Ranks whose batches a thread makes ahead: the same numbers and traffic, and no rank hangs where one fails."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from graphs import graph_of, random_facts, tiny_config

from gam_kg.errors import GamKGError
from gam_kg.training.trainer import Trainer

TESTS = Path(__file__).parents[1]
SECONDS = 90
"""Longer than anything here takes, and a fraction of how long a collective waits."""
CASES = {
    "one_vs_all": {"answers_per_step": 20},
    "sampled": {"candidates": "sampled", "num_negatives": 3, "history_links": 5},
}


def trained(communicator, case, ahead):
    """What a rank has after two epochs."""
    graph = graph_of(random_facts(0, 120)).shard(communicator.rank, communicator.world_size)
    model = {"dropout": 0.3, "entity_dropout": 0.4}
    config = tiny_config(model, epochs=2, patience=2, read_ahead=ahead, max_horizon=3, **CASES[case])
    trainer = Trainer(config, graph, communicator=communicator)
    losses = [event.loss for event in trainer.run()]
    traffic = [
        {purpose: (sums["bytes"], sums["collectives"]) for purpose, sums in epoch["traffic"].items()}
        for epoch in trainer.position.metrics
    ]
    return {
        "losses": losses,
        "valid_mrr": [epoch["valid_mrr"] for epoch in trainer.position.metrics],
        "traffic": traffic,
        "weights": dict(trainer.model.state_dict()),
        "ahead": trainer._ahead,
    }


@pytest.mark.parametrize("case", CASES)
def test_training_is_the_same_to_the_last_bit(rank_pool, case):
    expected = rank_pool.run(2, trained, case, 0)
    assert all(rank["traffic"][0]["history"][1] > 10 for rank in expected)
    for ahead in (1, 4):
        found = rank_pool.run(2, trained, case, ahead)
        for mine, theirs in zip(found, expected, strict=True):
            assert (mine["ahead"], theirs["ahead"]) == (ahead, 0)
            for name in ("losses", "valid_mrr", "traffic"):
                assert mine[name] == theirs[name], name
            for name, value in theirs["weights"].items():
                assert torch.equal(mine["weights"][name], value), name


def cut_off(communicator, ahead):
    """What a rank says that is stopped in the middle of an epoch and then goes on."""
    graph = graph_of(random_facts(0, 120)).shard(communicator.rank, communicator.world_size)
    trainer = Trainer(tiny_config(epochs=1, read_ahead=ahead), graph, communicator=communicator)
    run = trainer.run()
    next(run)
    communicator.barrier()
    run.close()
    try:
        return len(list(trainer.run()))
    except GamKGError as error:
        return str(error)


def test_a_trainer_that_was_stopped_among_batches_made_ahead_does_not_go_on(rank_pool):
    assert all(isinstance(number, int) for number in rank_pool.run(2, cut_off, 0))
    assert all("goes on from a checkpoint" in text for text in rank_pool.run(2, cut_off, 2))


FAILING = """
import sys
from graphs import graph_of, random_facts, tiny_config
from gam_kg.distributed.process_group import process_group
from gam_kg.errors import ArtifactError, exit_status
from gam_kg.graph import temporal_graph
from gam_kg.training.trainer import Trainer

read = temporal_graph.TemporalGraph.read

def damaged(graph, times):
    for snapshot in read(graph, times):
        if snapshot.time == 3 and graph.partition.rank == 1:
            raise ArtifactError("bucket 7 is damaged")
        yield snapshot

with exit_status(lambda message: print("error:", message, flush=True)):
    with process_group(use_gpu=False) as (communicator, device):
        graph = graph_of(random_facts(0)).shard(communicator.rank, communicator.world_size)
        trainer = Trainer(tiny_config(epochs=2, read_ahead=4), graph, communicator=communicator)
        temporal_graph.TemporalGraph.read = damaged
        for number, _ in enumerate(trainer.run()):
            if sys.argv[1] == "interrupted" and communicator.rank == 1 and number == 1:
                raise KeyboardInterrupt
"""


@pytest.mark.parametrize("how", ["damaged", "interrupted"])
def test_no_rank_hangs_where_one_fails(how):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    common |= {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", FAILING, how],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=SECONDS) for rank in ranks]
    assert all(rank.returncode for rank in ranks)
    if how == "damaged":
        assert said[1][0] == "error: bucket 7 is damaged\n"
