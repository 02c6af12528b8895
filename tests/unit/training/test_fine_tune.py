"""Fine-tuning goes on with training on the newest snapshots, and compares weights on facts that it has not seen."""

import numpy as np
import pytest
import torch
from graphs import NAMES, NUM_SNAPSHOTS, graph_of, random_facts, tiny_config

from gam_kg.errors import ConfigError, EvaluationError
from gam_kg.graph.name_words import NameWords
from gam_kg.training.evaluate import ModelScorer, rank_split, roll
from gam_kg.training.fine_tune import AFTER, BEFORE, fine_tune
from gam_kg.training.trainer import Trainer

MODEL = {"dropout": 0.2, "entity_dropout": 0.4, "relation_dropout": 0.4}
TRAIN = {"epochs": 2, "answers_per_step": 8, "learning_rate": 0.01, "final_learning_rate": 0.2}
LAST = 4
"""Snapshots that are fine-tuned on, of which the last one is ranked."""


def trained(facts, **train):
    """A trainer of two epochs, and the graph."""
    graph = graph_of(facts)
    trainer = Trainer(tiny_config(MODEL, **{**TRAIN, **train}), graph, NameWords.of(NAMES))
    for _ in trainer.run():
        pass
    return trainer


def tune(trainer, number=LAST, **options):
    state = {name: value.clone() for name, value in trainer.optimizer_state.items()}
    return fine_tune(trainer.config, trainer.graph, trainer.model, state, number, **options)


@pytest.fixture(scope="module")
def trainer():
    return trained(random_facts(0, 120))


@pytest.mark.parametrize("window", [0, 1, 2, 7])
def test_fine_tuning_is_training_from_the_state_before_the_newest_snapshots(window):
    trainer = trained(random_facts(0, 120), window=window, max_horizon=1)  # so that no part looks beyond its end
    expected = Trainer(trainer.config, trainer.graph, NameWords.of(NAMES))
    expected.model.load_state_dict(trainer.model.state_dict())
    expected.optimizer_state = {name: value.clone() for name, value in trainer.optimizer_state.items()}
    expected.position.step = trainer.position.step
    expected.times, expected.position.index = trainer.graph.times, NUM_SNAPSHOTS - LAST
    expected.position.epoch = 10  # the schedule has reached its end, a fifth of where it started
    scorer = ModelScorer(expected.sharded, expected.history)
    roll([scorer], None, trainer.graph.read(trainer.graph.times[: max(0, NUM_SNAPSHOTS - LAST - window)]))
    expected.memory = scorer.memory
    for _ in expected.rest_of_epoch():
        pass
    found = tune(trainer)
    assert found.num_trained == LAST - 1
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    assert found.optimizer_state.keys() == expected.optimizer_state.keys()
    for name, value in expected.optimizer_state.items():
        assert torch.equal(found.optimizer_state[name], value), name


def test_fine_tuning_is_deterministic_and_leaves_the_model_as_it_is(trainer):
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    found, again = tune(trainer), tune(trainer, history=trainer.history)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert torch.equal(found.model.state_dict()[name], again.model.state_dict()[name]), name
    assert not torch.equal(found.model.relation, trainer.model.relation)
    assert not found.model.training
    assert np.array_equal(found.ranks.time_aware[AFTER], again.ranks.time_aware[AFTER])


def test_a_run_of_tf32_is_tuned_on_a_cpu_in_float32(trainer, monkeypatch):
    expected = tune(trainer).model.state_dict()
    monkeypatch.setattr(trainer, "config", trainer.config.changed({"train.precision": "tf32"}))
    found = tune(trainer).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert trainer.config.train.precision == "tf32"


def test_new_weights_are_those_of_each_number_of_snapshots(trainer):
    one, other = tune(trainer, 3), tune(trainer, 4)
    assert not torch.equal(one.model.relation, other.model.relation)


def ranks_of(trainer, model, first):
    """Single-step ranks of the snapshots from one on, by a model that has seen those before."""
    trainer.model.load_state_dict(model)
    trainer.history.reset()
    scorer, graph = ModelScorer(trainer.sharded, trainer.history), trainer.graph
    roll([scorer], trainer.history, graph.read(graph.times[:first]))
    snapshots = graph.read(graph.times[first:])
    return rank_split({"model": scorer}, trainer.history, snapshots, partition=graph.partition)


def test_ranks_before_are_those_of_the_trained_weights(trainer):
    found = tune(trainer)
    expected = ranks_of(trained(random_facts(0, 120)), trainer.model.state_dict(), NUM_SNAPSHOTS - 1)
    assert np.array_equal(found.ranks.answer, expected.answer)
    assert np.array_equal(found.ranks.time_aware[BEFORE], expected.time_aware["model"])


def test_ranks_after_are_those_of_weights_that_were_trained_on_the_snapshots_before():
    facts = random_facts(0, 120)
    trainer = trained(facts, max_horizon=3, ahead_share=0.9)
    found = tune(trainer, 8)  # six are trained on and two ranked
    assert set(found.ranks.time) == {6, 7}
    # Another last snapshot changes neither the weights nor what the one before it gets.
    other = np.array([(s, r, (o + 3) % 10, t) if t == 7 else (s, r, o, t) for s, r, o, t in facts])
    trainer.graph = graph_of(other)
    changed = tune(trainer, 8)
    mine, theirs = (one.ranks.time == 6 for one in (found, changed))
    for name in (BEFORE, AFTER):
        assert np.array_equal(found.ranks.time_aware[name][mine], changed.ranks.time_aware[name][theirs])
    assert not np.array_equal(found.ranks.time_aware[AFTER][mine], found.ranks.time_aware[BEFORE][mine])
    assert not torch.equal(found.model.relation, changed.model.relation)  # which has seen the last snapshot


@pytest.mark.parametrize("window", [1, 2])
def test_a_stored_memory_gives_what_the_first_fact_gives(window):
    trainer, requested = trained(random_facts(0, 120), window=window), []

    def memory_before(snapshot):
        requested.append(snapshot)
        scorer = ModelScorer(trainer.sharded, trainer.history)
        roll([scorer], None, trainer.graph.read(range(snapshot)))
        return scorer.memory

    found, expected = tune(trainer, memory_before=memory_before), tune(trainer)
    assert requested == [NUM_SNAPSHOTS - LAST - window, NUM_SNAPSHOTS - 1]
    assert torch.equal(found.model.relation, expected.model.relation)
    assert np.array_equal(found.ranks.time_aware[BEFORE], expected.ranks.time_aware[BEFORE])


def test_entities_and_relations_that_are_new_stay_with_the_shared_rows():
    facts = np.array([row for row in random_facts(0, 120) if row[1] != 2 or row[3] >= 6])
    facts = np.array([row for row in facts if 7 not in (row[0], row[2]) or row[3] >= 6])
    trainer = trained(facts)
    found = tune(trainer)
    before, after = trainer.model.state_dict(), found.model.state_dict()
    assert not trainer.model.trained[7]
    assert not found.model.trained[7]
    assert not torch.equal(after["shared"], before["shared"])
    assert not torch.equal(after["relation"][-2:], before["relation"][-2:])


def test_each_snapshot_trained_on_or_ranked_is_counted(trainer):
    ticks = []
    tune(trainer, 8, tick=lambda: ticks.append(1))
    assert len(ticks) == 6 + 2 + 2


def test_weights_that_are_not_finite_are_not_written(trainer, tmp_path):
    found = tune(trainer)
    with torch.no_grad():
        found.model.relation[0, 0] = float("nan")
    with pytest.raises(EvaluationError, match="relation"):
        found.write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [-1, 0, 1, NUM_SNAPSHOTS + 1])
def test_too_few_and_too_many_snapshots_are_refused(trainer, number):
    with pytest.raises(ConfigError, match=rf"--fine-tune {number}: .*from 2.*to {NUM_SNAPSHOTS}"):
        tune(trainer, number)


def drifting_facts(changed):
    """Each subject always meets the same object; from snapshot 20 on, if so, another one."""
    shifts = [2 if changed and time >= 20 else 0 for time in range(36)]
    pairs = [(subject, relation) for subject in range(4) for relation in (0, 1)]
    return np.array([(s, r, 4 + (s + r + shift) % 5, time) for time, shift in enumerate(shifts) for s, r in pairs])


@pytest.mark.parametrize("changed", [True, False])
def test_fine_tuning_helps_where_the_facts_have_changed(changed):
    graph = graph_of(drifting_facts(changed), valid_start=18, test_start=19)
    # Without a past, the weights alone know what subjects meet.
    past = dict.fromkeys(("recent", "same_relation", "popular", "two_hop_first", "rule_bodies"), 0)
    model = {"dim": 8, "memory": False, "history": {**past, "rule_confidence": False}}
    trainer = Trainer(tiny_config(model, epochs=4, patience=4, learning_rate=0.03), graph)
    for _ in trainer.run():
        pass
    found = tune(trainer, 16, learning_rate=0.03)
    table = found.table
    assert table["snapshot"].to_pylist() == [32, 33, 34, 35]
    assert table["num_answers"].to_pylist() == [16] * 4
    for name in (BEFORE, AFTER):
        assert found.mrr(name) == pytest.approx(np.mean(table[f"mrr_{name}"].to_numpy()))
    assert found.gain.mean == pytest.approx(found.mrr(AFTER) - found.mrr(BEFORE))
    first, verdict = found.text.split("\n")
    assert first.startswith("MRR of the newest 4 snapshots (64 answers): ")
    assert "with fine-tuning on the 12 snapshots before (" in first
    if changed:
        assert found.gain.low > 0.5
        assert f"+{100 * found.gain.mean:.1f} [+{100 * found.gain.low:.1f}, +{100 * found.gain.high:.1f}]" in first
        assert verdict.startswith("fine-tuning helps")
    else:
        assert "100.0 without, 100.0 with" in first
        assert verdict.startswith("no clear difference")


def test_a_learning_rate_that_is_too_high_makes_it_worse():
    trainer = trained(drifting_facts(changed=False))
    assert tune(trainer, 16, learning_rate=3.0).text.split("\n")[1].startswith("fine-tuning makes it worse")
