"""Batches that a thread makes ahead: the same numbers, the same errors, bounded, and gone when training stops."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import torch
from graphs import graph_of, random_facts, tiny_config, write_graph

from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import ArtifactError, GamKGError
from gam_kg.graph import fact_source
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.training import checkpoint, optimizer_step
from gam_kg.training.fine_tune import fine_tune
from gam_kg.training.run import BATCHES_AHEAD, batches_ahead, threads, train_graph
from gam_kg.training.trainer import Trainer

TESTS = Path(__file__).parents[2]
SECONDS = 60
"""Longer than anything here takes, so that nothing hangs."""
DRAWN = {"dropout": 0.3, "entity_dropout": 0.4, "relation_dropout": 0.4}
CASES = {
    "one step a snapshot": {},
    "several steps a snapshot": {"answers_per_step": 5},
    "sampled": {"candidates": "sampled", "num_negatives": 3, "history_links": 5},
}


def no_thread_is_left():
    return not any(thread.name == "read-ahead" for thread in threading.enumerate())


def trained(ahead, facts=None, **train):
    graph = graph_of(random_facts(0, 120) if facts is None else facts)
    trainer = Trainer(tiny_config(DRAWN, **{"epochs": 2, "patience": 2, "read_ahead": ahead, **train}), graph)
    losses = [event.loss for event in trainer.run()]
    assert no_thread_is_left()
    return trainer, losses


def assert_same_state(one, other):
    for found, expected in (
        (one.model.state_dict(), other.model.state_dict()),
        (one.optimizer_state, other.optimizer_state),
        (vars(one.memory), vars(other.memory)),
    ):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("case", CASES)
def test_training_is_the_same_to_the_last_bit(case):
    expected, expected_losses = trained(0, **CASES[case])
    assert expected.position.step > 5
    for ahead in (1, 4):
        found, losses = trained(ahead, **CASES[case])
        assert losses == expected_losses
        assert_same_state(found, expected)
        for mine, theirs in zip(found.position.metrics, expected.position.metrics, strict=True):
            assert (mine["loss"], mine["valid_mrr"]) == (theirs["loss"], theirs["valid_mrr"])
        assert found.history.end == expected.history.end


def test_training_goes_on_from_the_middle_of_an_epoch(tmp_path):
    expected, _ = trained(0, answers_per_step=5)
    first, second = (
        Trainer(tiny_config(DRAWN, epochs=2, patience=2, answers_per_step=5, read_ahead=3), expected.graph)
        for _ in range(2)
    )
    with closing(first.run()) as events:
        for _ in islice(events, 3):
            pass
    assert first.position.index == 3
    checkpoint.save(first, tmp_path)
    checkpoint.load(second, tmp_path)
    list(second.run())
    assert_same_state(second, expected)


def test_fine_tuning_is_the_same_with_batches_made_ahead():
    tuned = []
    for ahead in (0, 3):
        trainer, _ = trained(ahead)
        tuned.append(fine_tune(trainer.config, trainer.graph, trainer.model, trainer.optimizer_state, 4))
    for name, value in tuned[0].model.state_dict().items():
        assert torch.equal(value, tuned[1].model.state_dict()[name]), name
    assert tuned[0].mrr("after") == tuned[1].mrr("after")


@pytest.mark.parametrize("ahead", [0, 4])
def test_a_file_that_is_damaged_in_the_middle_of_an_epoch_is_named(monkeypatch, tmp_path, ahead):
    monkeypatch.setattr(fact_source, "SLAB_ROWS", 20)  # so that it is read bit by bit
    write_graph(tmp_path, graph_of(random_facts(0, 400)), 1, row_group_size=20)
    graph, _ = TemporalGraph.load(tmp_path)
    trainer = Trainer(tiny_config(epochs=1, max_horizon=1, read_ahead=ahead), graph)
    (file,) = tmp_path.glob("anchored/*/*.parquet")
    opened, open_file = [], fact_source.open_file

    def damaged_later(path):
        opened.append(path)
        if len(opened) == 15:
            path.write_bytes(b"damaged")
        return open_file(path)

    monkeypatch.setattr(fact_source, "open_file", damaged_later)
    events = trainer.run()
    assert [next(events).done for _ in range(2)] == [1, 2]
    with pytest.raises(ArtifactError, match=f"{file}: cannot be read"):
        list(events)
    assert 2 <= trainer.position.index < len(trainer.times)
    assert no_thread_is_left()


@pytest.mark.parametrize("error", [KeyboardInterrupt, GamKGError])
def test_training_that_stops_leaves_no_thread(tmp_path, error):
    write_graph(tmp_path, graph_of(random_facts(0)), 1)
    config, events = tiny_config(epochs=1, read_ahead=2, checkpoint_steps=1), []

    def stop(event):
        events.append(event)
        if len(events) == 2:
            raise error

    with pytest.raises(error):
        train_graph(
            config,
            tmp_path,
            communicator=Communicator(),
            device=torch.device("cpu"),
            latest=None,
            on_event=stop,
            save=lambda *_: None,
        )
    assert no_thread_is_left()


INTERRUPTED = """
import os, signal, sys
from graphs import graph_of, random_facts, tiny_config
from gam_kg.training.trainer import Trainer
trainer = Trainer(tiny_config(epochs=1000, patience=1000, read_ahead=4), graph_of(random_facts(0)))
for number, _ in enumerate(trainer.run()):
    print(number, flush=True)
"""


def test_an_interrupted_process_ends():
    path = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        env=os.environ | path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ["0\n", "1\n", "2\n"]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode
    assert "KeyboardInterrupt" in said


@pytest.mark.parametrize("at_once", [3, 1000])
def test_losses_that_are_read_together_are_the_same(tmp_path, at_once):
    expected, _ = trained(0, answers_per_step=5)
    first, second = (Trainer(expected.config, expected.graph) for _ in range(2))
    first._losses_at_once = second._losses_at_once = at_once
    for _ in islice(first.run(), 3):
        pass
    checkpoint.save(first, tmp_path)
    checkpoint.load(second, tmp_path)
    list(second.run())
    assert [one["loss"] for one in second.position.metrics] == [one["loss"] for one in expected.position.metrics]


def test_losses_that_are_read_together_and_not_finite_name_their_snapshots(monkeypatch):
    losses = iter([1.0, 2.0, torch.nan, 3.0, 4.0])
    monkeypatch.setattr(optimizer_step, "backward_step", lambda *arguments: torch.tensor(next(losses)))
    trainer = Trainer(tiny_config(epochs=1), graph_of(random_facts(0)))
    trainer._losses_at_once = 4
    with pytest.raises(GamKGError, match=r"epoch 1, snapshots 0 to 3.*train\.learning_rate"):
        list(trainer.run())


@pytest.mark.parametrize(
    ("cpus", "train", "here", "expected"),
    [
        (2, {}, None, BATCHES_AHEAD),
        (1, {}, None, 0),
        (2, {"threads": 2}, None, 0),
        (4, {"threads": 2}, "2", 0),
        (4, {"threads": 1}, "2", BATCHES_AHEAD),
        (2, {"num_workers": 2}, None, 0),
        (8, {"num_workers": (1, 4)}, None, BATCHES_AHEAD),
        (1, {"use_gpu": True}, None, BATCHES_AHEAD),
        (8, {"read_ahead": 0}, None, 0),
        (1, {"read_ahead": 7}, None, 7),
    ],
)
def test_a_thread_makes_batches_where_a_cpu_is_spare(monkeypatch, cpus, train, here, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if here:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    config = tiny_config(**train)
    assert threads(config) >= 1
    assert batches_ahead(config) == expected
