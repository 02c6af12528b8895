"""Steps recorded as CUDA graphs train as steps do, on a GPU."""

import pytest
import torch
from graphs import graph_of, random_facts, tiny_config, tiny_model

from gam_kg.training import checkpoint
from gam_kg.training.step_graph import CUDARecorder
from gam_kg.training.trainer import Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

MODEL = {"dropout": 0.3, "entity_dropout": 0.3, "relation_dropout": 0.3}
TRAIN = {
    "one step a snapshot": {},
    "several steps a snapshot": {"answers_per_step": 5},
    "no window": {"window": 0},
    "sampled": {"candidates": "sampled", "num_negatives": 4, "history_links": 3},
    "bf16": {"precision": "bf16"},
}


@pytest.fixture
def recordings(monkeypatch):
    """How many graphs are recorded."""
    found, record = [], CUDARecorder.record

    def noted(recorder, work):
        replay = record(recorder, work)
        found.append(replay)
        return replay

    monkeypatch.setattr(CUDARecorder, "record", noted)
    return found


def new_trainer(**train):
    graph = graph_of(random_facts(0, 80), num_entities=14)
    config = tiny_config(MODEL, **{"epochs": 4, "patience": 9, "max_horizon": 3, **train})
    model = tiny_model(graph, **MODEL)  # in float64, for which bf16 has no effect
    return Trainer(config, graph, model=model.float() if "precision" in train else model, device="cuda")


def assert_same(found, expected):
    mine, theirs = states_of(found), states_of(expected)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-9, atol=1e-9, msg=name)


def states_of(trainer):
    losses = torch.tensor([metrics["loss"] for metrics in trainer.position.metrics])
    return {**trainer.model.state_dict(), **trainer.optimizer_state, **vars(trainer.memory), "losses": losses}


@pytest.mark.parametrize("name", TRAIN)
def test_a_training_with_recorded_steps_is_one_without(recordings, name, caplog):
    found, expected = new_trainer(**TRAIN[name]), new_trainer(cuda_graphs=False, **TRAIN[name])
    list(expected.run())
    assert not recordings
    list(found.run())
    assert recordings
    assert not caplog.records, "no recording failed"
    if name == "bf16":
        torch.testing.assert_close(states_of(found)["losses"], states_of(expected)["losses"], rtol=0.02, atol=0)
    else:
        assert_same(found, expected)


def test_a_resumed_training_with_recorded_steps_is_one_without(recordings, tmp_path):
    expected, first, second = new_trainer(cuda_graphs=False), new_trainer(), new_trainer()
    list(expected.run())
    events = first.run()
    while first.position.epoch < 1 or first.position.index < 2:
        next(events)
    checkpoint.save(first, tmp_path)
    checkpoint.load(second, tmp_path)
    list(second.run())
    assert recordings
    assert_same(second, expected)
