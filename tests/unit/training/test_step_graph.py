"""Recorded steps, on a CPU with a recorder of operators in place of CUDA graphs."""

from contextlib import nullcontext

import pytest
import torch
from graphs import graph_of, random_facts, tiny_config, tiny_model
from recording import OperatorRecorder, Operators, tensors_of

from gam_kg.training import optimizer_step
from gam_kg.training.optimizer import RowAdamW
from gam_kg.training.optimizer_step import OptimizerStep
from gam_kg.training.step_batch import to_device
from gam_kg.training.step_graph import StepGraphs
from gam_kg.training.stopwatch import Stopwatch
from gam_kg.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
MODEL = {"dropout": 0.3, "entity_dropout": 0.3, "relation_dropout": 0.3}
SAMPLED = {"candidates": "sampled", "num_negatives": 4, "history_links": 3}
TRAIN = {
    "one step a snapshot": {},
    "several steps a snapshot": {"answers_per_step": 5},
    "no window": {"window": 0},
}


def new_trainer(recorder=None, epochs=3, **train):
    """A training in float64; with a recorder, its steps are recorded as on a GPU."""
    graph = graph_of(random_facts(0, 80), num_entities=14)
    config = tiny_config(MODEL, **{"epochs": epochs, "patience": 9, "max_horizon": 3, **train})
    trainer = Trainer(config, graph, model=tiny_model(graph, **MODEL))
    trainer._graphs = StepGraphs(trainer._step, CPU, trainer._watch, recorder)
    return trainer


def batches_of(trainer):
    return [step.batch for step in trainer._batches.steps(trainer.times, 0, 0)]


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def assert_same_training(found, expected):
    """Two trainings had the same losses, and ended with the same weights, memory and optimizer state."""
    assert_close(torch.tensor(losses_of(found)), torch.tensor(losses_of(expected)))
    mine, theirs = states_of(found), states_of(expected)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert_close(mine[name], value)


def losses_of(trainer):
    return [metrics["loss"] for metrics in trainer.position.metrics]


def states_of(trainer):
    return {**trainer.model.state_dict(), **trainer.optimizer_state, **vars(trainer.memory)}


@pytest.mark.parametrize("name", TRAIN)
def test_replayed_steps_train_as_steps_do(name):
    found, expected = new_trainer(recorder := OperatorRecorder(), **TRAIN[name]), new_trainer(**TRAIN[name])
    losses = [[event.loss for event in trainer.run()] for trainer in (found, expected)]
    assert recorder.rehearsals >= len(recorder.recorded) > 0
    assert recorder.replays > len(recorder.recorded), "more batches than recordings"
    assert_close(*map(torch.tensor, losses))
    assert_same_training(found, expected)


def unchecked_optimizer(parameters, *, lr, **settings):
    """Torch would look at the learning rate, which has no number there."""
    optimizer = RowAdamW(parameters, **settings)
    optimizer.param_groups[0]["lr"] = lr
    return optimizer


@pytest.mark.parametrize("train", [{}, SAMPLED])
def test_a_step_runs_on_a_device_that_has_no_numbers(monkeypatch, train):
    """So the program never waits for a number of the device, and no size depends on one."""
    trainer = new_trainer(**train)
    batch = to_device(batches_of(trainer)[3], META)
    assert batch.leaving is not None
    trainer.model.to(META).train()
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **settings: nullcontext())  # it does not know the device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer: None)  # torch's own
    monkeypatch.setattr(optimizer_step, "RowAdamW", unchecked_optimizer)
    step = OptimizerStep(trainer.sharded, trainer.config.train)
    with Operators() as operators:
        step(batch, Stopwatch())
    elsewhere = [call.name for call in operators.calls if any(x.device != META for x in tensors_of(call.args))]
    assert not elsewhere
