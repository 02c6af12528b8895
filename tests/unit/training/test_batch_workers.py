"""Batches made by processes are those that training makes by itself."""

import os
import signal
import time
from contextlib import closing
from itertools import islice
from threading import Event

import pytest
import torch
from graphs import graph_of, random_facts, tiny_config

from gam_kg.errors import ArtifactError, GamKGError, OutOfMemoryError
from gam_kg.training.batches import Batches
from gam_kg.training.run import batch_processes
from gam_kg.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there are few CPUs

CASES = {
    "a step a snapshot": {"answers_per_step": 1000},
    "several steps a snapshot, and queries ahead": {"answers_per_step": 5, "max_horizon": 3},
    "sampled": {"answers_per_step": 10, "candidates": "sampled", "num_negatives": 4},
}


def trainer_of(number, **train):
    """A trainer with a number of processes that make batches."""
    return Trainer(tiny_config(epochs=2, patience=2, **train), graph_of(random_facts(0)), batch_workers=number)


def numbers(trainer):
    return {**trainer.model.state_dict(), **trainer.optimizer_state, **vars(trainer.memory)}


def assert_same(found, expected):
    for name in ("loss", "valid_mrr"):
        assert [one[name] for one in found.position.metrics] == [one[name] for one in expected.position.metrics]
    found, expected = numbers(found), numbers(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("case", CASES)
def test_losses_weights_and_validation_are_the_same_to_the_last_bit(case):
    expected = trainer_of(0, **CASES[case])
    list(expected.run())
    for number in (1, 3):
        found = trainer_of(number, **CASES[case])
        list(found.run())
        assert_same(found, expected)


def test_training_that_stops_in_the_middle_of_an_epoch_goes_on_with_the_same_numbers():
    case = CASES["several steps a snapshot, and queries ahead"]
    expected, found = trainer_of(0, **case), trainer_of(2, **case)
    list(expected.run())
    run, before = found.run(), children()
    list(islice(run, 3))
    processes = children() - before
    assert len(processes) == 2
    run.close()
    assert not children() & processes
    list(found.run())
    assert_same(found, expected)


def test_an_error_of_a_process_is_the_error_of_training(monkeypatch):
    make = Batches._insert

    def failing(batches, snapshot):
        if snapshot.time == 3:
            raise ArtifactError("graph/anchored/bucket=003: damaged")
        return make(batches, snapshot)

    monkeypatch.setattr(Batches, "_insert", failing)
    with pytest.raises(ArtifactError, match=r"^graph/anchored/bucket=003: damaged$"):
        list(trainer_of(2, answers_per_step=1000).run())


def test_a_process_that_is_killed_ends_training_and_names_the_setting(monkeypatch):
    make = Batches._insert

    def killed(batches, snapshot):
        if snapshot.time == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return make(batches, snapshot)

    monkeypatch.setattr(Batches, "_insert", killed)
    with pytest.raises(GamKGError, match=r"a process that makes batches has ended .*train\.batch_workers"):
        list(trainer_of(1, answers_per_step=1000).run())


def children():
    """Processes that this one has started and that still run."""
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as file:
        return {int(pid) for pid in file.read().split()}


def test_a_defect_in_a_process_is_not_taken_for_one_that_was_killed(monkeypatch):
    def failing(*_):
        raise RuntimeError("sizes 3 and 4 do not match")

    monkeypatch.setattr(Batches, "_insert", failing)
    with pytest.raises(RuntimeError, match="sizes 3 and 4 do not match"):
        list(trainer_of(1, answers_per_step=1000).run())


def test_memory_that_runs_out_in_a_process_names_the_setting(monkeypatch):
    def failing(*_):
        raise MemoryError

    monkeypatch.setattr(Batches, "_insert", failing)
    with pytest.raises(OutOfMemoryError, match=r"^making batches: .*train\.batch_workers=0"):
        list(trainer_of(1, answers_per_step=1000).run())


def test_no_process_outlives_an_error_or_waits_for_a_history(monkeypatch):
    before, started = children(), Event()

    def endless(batches, _, is_needed):
        started.set()
        while is_needed():
            time.sleep(0.01)
        return batches._history

    monkeypatch.setattr(Batches, "history_after", endless)
    trainer = trainer_of(2, answers_per_step=1000)
    with closing(trainer.run()) as run:
        next(run)
        assert started.wait(60)
    assert not children() - before


def test_no_process_outlives_one_of_them_that_fails(monkeypatch):
    before = children()

    def failing(_, snapshot):
        raise ArtifactError("damaged")

    monkeypatch.setattr(Batches, "_insert", failing)
    with pytest.raises(ArtifactError, match="damaged"):
        list(trainer_of(2, answers_per_step=1000).run())
    assert not children() - before


@pytest.mark.parametrize(
    ("cpus", "train", "trainings", "expected"),
    [
        (16, {"use_gpu": True}, 1, 12),
        (8, {"use_gpu": True}, 1, 6),
        (2, {"use_gpu": True}, 1, 1),
        (16, {"use_gpu": True}, 4, 3),
        (4, {"use_gpu": True}, 4, 1),
        (16, {"use_gpu": True, "batch_workers": 2}, 4, 2),
        (16, {}, 1, 0),
    ],
)
def test_a_gpu_has_the_spare_cpus_make_batches(monkeypatch, cpus, train, trainings, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    assert batch_processes(tiny_config(**train), trainings) == expected
