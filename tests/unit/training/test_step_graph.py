"""Recorded steps, on a CPU with a recorder of operators in place of CUDA graphs."""

from collections import Counter
from contextlib import nullcontext
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from graphs import graph_of, random_facts, tiny_config, tiny_model
from recording import OperatorRecorder, Operators, tensors_of

from gam_kg.ops.packing import on_device
from gam_kg.training import checkpoint, optimizer_step, step_graph
from gam_kg.training.optimizer import RowAdamW
from gam_kg.training.optimizer_step import OptimizerStep
from gam_kg.training.padded_batch import PaddableBatch
from gam_kg.training.step_batch import to_device
from gam_kg.training.step_graph import StepGraphs
from gam_kg.training.step_sizes import StepSizes
from gam_kg.training.stopwatch import Stopwatch
from gam_kg.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
MODEL = {"dropout": 0.3, "entity_dropout": 0.3, "relation_dropout": 0.3}
SAMPLED = {"candidates": "sampled", "num_negatives": 4, "history_links": 3}
TRAIN = {
    "one step a snapshot": {},
    "several steps a snapshot": {"answers_per_step": 5},
    "no window": {"window": 0},
    "sampled": SAMPLED,
    "several sampled steps a snapshot": {**SAMPLED, "answers_per_step": 5},
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


CANDIDATES = pytest.mark.parametrize("train", [{}, SAMPLED], ids=["one_vs_all", "sampled"])


@CANDIDATES
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


@CANDIDATES
def test_batches_of_the_same_sizes_call_the_same_operators_and_wait_for_nothing(train):
    """All that a recording fixes is alike, so that replaying it is right for the other batch."""
    trainer = new_trainer(**train)
    trainer.model.train()
    batches = [PaddableBatch.of(batch) for batch in batches_of(trainer) if batch.leaving is not None]
    batches = [batch for batch in batches if batch is not None]
    above = {name: 5 + max(batch.sizes[name] for batch in batches) for name in batches[0].sizes}
    found = []
    for batch in batches[:3]:
        moved = on_device(batch.padded(above), CPU)
        with Operators() as operators:
            trainer._step(moved, Stopwatch())
        found.append(operators)
    del found[0]  # it has made what is made once
    first, second = ([call.described() for call in operators.calls] for operators in found)
    assert len(first) == len(second) > 1000
    for number, (mine, theirs) in enumerate(zip(first, second, strict=True)):
        assert mine == theirs, number
    for operators in found:
        assert not operators.synchronising, f"{len(operators.calls)} operators: {operators.counts.most_common()}"


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist() and float(x[0]),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: x.index_put((x > 1,), torch.ones(())),
        lambda x: x.masked_select(x > 1),
        lambda x: x.unique(),
        lambda x: torch.bincount(x.long()),
        lambda x: torch.repeat_interleave(x.long()),
        lambda x: bool((x > 0).all()),
        lambda x: torch.equal(x, x),
        lambda x: x * torch.tensor(2.0),
    ],
)
def test_operators_that_wait_are_noticed(call):
    with Operators() as operators:
        call(torch.arange(4.0))
    assert operators.synchronising, operators.counts


class Skipped(OperatorRecorder):
    """Replays nothing, so that what is done outside of recordings can be counted."""

    def record(self, work):
        super().record(work)
        return lambda: None


@CANDIDATES
def test_little_is_done_outside_of_recordings_and_the_device_is_waited_for_once_in_many_steps(monkeypatch, train):
    counted, on_cpu = Operators(), []

    def noted(batch):
        first = len(counted.calls)
        found = PaddableBatch.of(batch)
        on_cpu.extend(counted.calls[first:])
        return found

    monkeypatch.setattr(step_graph, "PaddableBatch", SimpleNamespace(of=noted))
    trainer = new_trainer(Skipped(), max_horizon=1, **train)
    steps = list(trainer._batches.steps(trainer.times, 0, 0))
    trainer._losses_at_once = 2 * len(steps)
    for _ in range(2):
        trainer.memory.clear()
        for step in steps:
            trainer._train_step(step)
    trainer.read_losses()
    with counted:
        for step in [*steps, *steps]:
            trainer._train_step(step)
    a_step = len(counted.calls) / len(steps) / 2
    assert a_step <= 150, f"{a_step} operators a step outside of recordings: {counted.counts.most_common()}"
    # What waits while a batch is padded waits for the CPU, where the batch is.
    waiting = counted.synchronising - Counter(call.name for call in on_cpu)
    assert not waiting, f"{waiting} in {2 * len(steps)} steps"
    assert counted.counts["stack"] == 1, "losses are read together"


def test_a_training_goes_on_without_recordings_where_one_fails(caplog):
    class Failing(OperatorRecorder):
        def record(self, work):
            raise RuntimeError("operation not permitted when stream is capturing")

    found, expected = new_trainer(recorder := Failing()), new_trainer()
    for trainer in (found, expected):
        list(trainer.run())
    assert recorder.rehearsals > 0
    assert_same_training(found, expected)
    (warning,) = [record.message for record in caplog.records]
    assert "operation not permitted" in warning


def test_a_resumed_training_replays_to_the_same_end(tmp_path):
    expected, first, second = (
        new_trainer(),
        new_trainer(OperatorRecorder()),
        new_trainer(recorder := OperatorRecorder()),
    )
    list(expected.run())
    events = first.run()
    while first.position.epoch < 1 or first.position.index < 2:
        next(events)
    checkpoint.save(first, tmp_path)
    list(islice(second.run(), 12))  # has recordings over other memory
    assert recorder.recorded
    checkpoint.load(second, tmp_path)
    list(second.run())
    assert_same_training(second, expected)
    assert_close(*(torch.stack([*map(torch.sum, one.best_weights.values())]) for one in (second, expected)))


def test_sizes_have_room_and_are_few():
    sizes = StepSizes(3)
    first = sizes.above({"queries": 100, "edges": 0})
    assert first == {"queries": 128, "edges": 32}
    assert sizes.above({"queries": 127, "edges": 31}) is first
    second = sizes.above({"queries": 128, "edges": 5})
    assert second == {"queries": 192, "edges": 32}
    assert sizes.above({"queries": 3, "edges": 3}) is first
    third = sizes.above({"queries": 3, "edges": 32})
    assert third == {"queries": 192, "edges": 64}, "no less than any before"
    other = sizes.above({"queries": 5})
    assert other == {"queries": 32}, "of other dimensions"
    fourth = sizes.above({"queries": 1000, "edges": 1})
    assert sizes.above({"queries": 3, "edges": 3}) is second, "the smallest is given up"
    assert fourth == {"queries": 1280, "edges": 64}
