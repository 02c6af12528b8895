"""Recorded steps, on a CPU with a recorder of operators in place of CUDA graphs."""

import logging
from contextlib import nullcontext

import pytest
import torch
from graphs import graph_of, random_facts, tiny_config, tiny_model
from recording import OperatorRecorder, Operators, tensors_of

from gam_kg.training import checkpoint, optimizer_step, step_graph
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
    "one_vs_all": {},
    "sampled": SAMPLED,
    "several steps a snapshot": {"answers_per_step": 5},
    "no window": {"window": 0},
    "several blocks": {"max_logits": 50},
}


def new_trainer(recorder=None, **train):
    """A training in float64; with a recorder, its steps are recorded as on a GPU."""
    graph = graph_of(random_facts(0, 80))
    config = tiny_config(MODEL, **{"epochs": 4, "patience": 9, "max_horizon": 3, **train})
    trainer = Trainer(config, graph, model=tiny_model(graph, **MODEL))
    trainer._graphs = StepGraphs(trainer._step, CPU, trainer._watch, recorder)
    trainer.losses = []
    monitored(trainer)
    return trainer


def monitored(trainer):
    """Notes the loss of each step."""
    steps = trainer._graphs

    class Noted:
        forget = steps.forget

        def __call__(self, batch):
            steps(batch)
            trainer.losses.append(trainer._step.loss.clone())

    trainer._graphs = Noted()


def batches_of(trainer):
    return [step.batch for step in trainer._batches.steps(trainer.times, 0, 0)]


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def assert_same_training(found, expected):
    """Two trainings had the same losses, and ended with the same weights, memory and optimizer state."""
    assert_close(torch.stack(found.losses), torch.stack(expected.losses))
    for mine, theirs in zip(map(states_of, (found,)), map(states_of, (expected,)), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert_close(mine[name], value)


def states_of(trainer):
    return {**trainer.model.state_dict(), **trainer.optimizer_state, **vars(trainer.memory)}


@pytest.fixture(params=TRAIN)
def train(request):
    return TRAIN[request.param]


def test_replayed_steps_train_as_steps_do(monkeypatch, train):
    monkeypatch.setattr(step_graph, "MOST_RECORDINGS", 99)
    found, expected = new_trainer(recorder := OperatorRecorder(), **train), new_trainer(**train)
    for trainer in (found, expected):
        trainer.model.train()
        for epoch in range(4):
            for number, batch in enumerate(batches_of(expected)):
                trainer._step.learning_rate.fill_(0.01 / (1 + epoch + number))
                trainer._graphs(batch)
            if epoch < 3:
                trainer.memory.clear()
    assert recorder.replays > 0
    assert_same_training(found, expected)


def unchecked_optimizer(parameters, *, lr, **settings):
    """Torch would look at the learning rate, which has no number there."""
    optimizer = RowAdamW(parameters, **settings)
    optimizer.param_groups[0]["lr"] = lr
    return optimizer


@pytest.mark.parametrize("name", ["one_vs_all", "sampled"])
def test_a_step_runs_on_a_device_that_has_no_numbers(monkeypatch, name):
    """So the program never waits for a number of the device, and no size depends on one."""
    trainer = new_trainer(**TRAIN[name])
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
