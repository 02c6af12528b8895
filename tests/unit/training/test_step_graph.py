import torch
from graphs import graph_of, random_facts, tiny_config, tiny_model
from recording import OperatorRecorder

from gam_kg.training.step_graph import StepGraphs
from gam_kg.training.trainer import Trainer

CPU = torch.device("cpu")
MODEL = {"dropout": 0.3, "entity_dropout": 0.3, "relation_dropout": 0.3}


def new_trainer(model=MODEL, recorder=None, seed=0, **train):
    """A training in float64; with a recorder, its steps are recorded as on a GPU."""
    graph = graph_of(random_facts(0, 80))
    config = tiny_config(model, **{"epochs": 5, "patience": 9, **train})
    trainer = Trainer(config, graph, model=tiny_model(graph, seed, **model))
    trainer._graphs = StepGraphs(trainer._step, CPU, recorder)
    return trainer


def losses_of(trainer):
    losses, original = [], trainer._graphs

    def noted(batch):
        original(batch)
        losses.append(trainer._step.loss.clone())

    trainer._graphs = noted
    list(trainer.run())
    return torch.stack(losses)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def assert_same_training(found, expected):
    """Two trainings had the same losses, and ended with the same weights, memory and optimizer state."""
    for name in ("model", "memory", "optimizer"):
        states = [
            {"model": one.model.state_dict(), "memory": vars(one.memory), "optimizer": one.optimizer_state}[name]
            for one in (found, expected)
        ]
        assert states[0].keys() == states[1].keys()
        for key, value in states[1].items():
            assert_close(states[0][key], value)


def test_x():
    r = OperatorRecorder()
    train = {"candidates": "sampled", "num_negatives": 4, "history_links": 3, "max_horizon": 1}
    expected = new_trainer(**train)
    found = new_trainer(recorder=r, **train)
    for t in (expected, found):
        t.model.train()
        t._step.learning_rate.fill_(0.003)
    batches = [step.batch for step in expected._batches.steps(expected.times, 0, 0)]
    l = []
    for t in (expected, found):
        for _ in range(4):
            t.memory.clear()
            for b in batches:
                t._graphs(b)
                l.append(t._step.loss.clone())
    l = torch.stack(l).view(2, -1)
    print(r.rehearsals, len(r.recorded), r.replays)
    for one in r.recorded[-1:]:
        print(len(one.calls), one.counts, one.synchronising)
    print(l)
    assert_close(l[0], l[1])
    assert_same_training(found, expected)
    assert 0
