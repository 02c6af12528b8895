"""Deleting or altering facts at or after t changes no score read at t, not by one bit."""

import numpy as np
import pytest
import torch
from graphs import (
    HISTORY,
    NUM_ENTITIES,
    TEST_START,
    VALID_START,
    all_queries,
    graph_of,
    history_before,
    random_facts,
    snapshots_of,
    table_of,
    tiny_config,
    tiny_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring import sharded

from gam_kg.config import HistoryConfig
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.all_baselines import build_baselines
from gam_kg.nn.decoder import DECODERS
from gam_kg.training.evaluate import ModelScorer, rank_split, roll, validate
from gam_kg.training.trainer import Trainer

HORIZONS = (1, 2, 5)


def scorers_of(model, graph):
    history = HistoryIndex(graph, model.config.history)
    return history, {"model": ModelScorer(sharded(model), history), **build_baselines(history)}


def scores_at(model, facts, now):
    """Scores of every query at each horizon, by scorers that observed the snapshots before `now`."""
    graph = graph_of(facts)
    history, scorers = scorers_of(model, graph)
    roll(scorers.values(), history, snapshots_of(graph, [at for at in graph.times if at < now]))
    return {
        (name, horizon): table_of(scorer.scores(all_queries(now, horizon)))
        for name, scorer in scorers.items()
        for horizon in HORIZONS
    }


def alterations(facts, now, seed):
    past, future = facts[facts[:, 3] < now], facts[facts[:, 3] >= now]
    other = random_facts(seed)
    changed = future.copy()
    changed[:, 2] = (changed[:, 2] + 1) % 10
    return {
        "deleted": past,
        "one deleted": np.concatenate([past, future[1:]]),
        "altered": np.concatenate([past, changed]),
        "replaced": np.concatenate([past, other[other[:, 3] >= now]]),
    }


@pytest.mark.parametrize("decoder", DECODERS)
@given(seed=st.integers(0, 1000), now=st.integers(1, 8))
@settings(max_examples=6)
def test_no_score_depends_on_facts_after_the_last_visible_snapshot(decoder, seed, now):
    facts = random_facts(seed)
    model = tiny_model(graph_of(facts), seed, decoder=decoder)
    expected = scores_at(model, facts, now)
    for change, altered in alterations(facts, now, seed + 1).items():
        found = scores_at(model, altered, now)
        for (name, horizon), scores in expected.items():
            assert torch.equal(found[name, horizon], scores), f"{name} at {horizon} saw the future: {change}"
    # Only the model looks at how far ahead a query is.
    for (name, horizon), scores in expected.items():
        assert torch.equal(scores, expected[name, 1]) == (name != "model" or horizon == 1)


def test_scores_do_depend_on_the_past():
    facts = random_facts(0)
    model = tiny_model(graph_of(facts))
    expected = scores_at(model, facts, 6)
    found = scores_at(model, facts[facts[:, 3] < 5], 6)
    assert not any(torch.equal(found[name], scores) for name, scores in expected.items())


class Spy:
    """A scorer that notes what it scores and observes, and the end of the history by then."""

    def __init__(self, num_entities, history):
        self.calls, self.num_entities, self.history = [], num_entities, history

    def scores(self, queries):
        self.calls.append(("scores", queries.time, self.history.end))
        return torch.zeros(len(queries), self.num_entities)

    def observe(self, snapshot):
        self.calls.append(("observe", snapshot.time, self.history.end))


def spied_on(**settings):
    graph = graph_of(random_facts(0))
    history = history_before(graph, HistoryConfig(**HISTORY), 6)
    spy = Spy(graph.num_entities, history)
    rank_split({"spy": spy}, history, snapshots_of(graph, [6, 7]), partition=graph.partition, **settings)
    return spy.calls


def test_a_snapshot_is_observed_after_all_its_queries_were_scored():
    calls = spied_on(max_scores=5 * NUM_ENTITIES)
    order = list(dict.fromkeys(calls))
    assert order == [("scores", 6, 6), ("observe", 6, 6), ("scores", 7, 7), ("observe", 7, 7)]
    assert len(calls) > len(order)


def test_in_the_multi_step_setting_nothing_is_observed():
    assert spied_on(now=6) == [("scores", 6, 6), ("scores", 7, 6)]


def ranks_of_test(model, graph, test=None, **settings):
    history, scorers = scorers_of(model, graph)
    roll(scorers.values(), history, snapshots_of(graph, range(TEST_START)))
    test = snapshots_of(graph, graph.times_in("test")) if test is None else test
    return rank_split(scorers, history, test, partition=graph.partition, **settings)


def test_single_step_ranks_do_not_depend_on_later_snapshots():
    facts = random_facts(5)
    model = tiny_model(graph_of(facts))
    ranks = {}
    for end in (7, 8):
        graph = graph_of(facts[facts[:, 3] < end])
        ranks[end] = ranks_of_test(model, graph)
    first = ranks[8].time == 6
    assert first.any()
    assert not first.all()
    for name in ranks[8].time_aware:
        assert np.array_equal(ranks[7].time_aware[name], ranks[8].time_aware[name][first])
        assert np.array_equal(ranks[7].raw[name], ranks[8].raw[name][first])


def test_multi_step_ranks_see_nothing_from_the_start_of_the_split_on():
    facts = random_facts(5)
    graph = graph_of(facts)
    model = tiny_model(graph)
    snapshots = snapshots_of(graph, graph.times_in("test"))
    found = [ranks_of_test(model, seen, snapshots, now=TEST_START) for seen in (graph, graph.before(TEST_START))]
    single = ranks_of_test(model, graph)
    last = single.time == 7
    for name in found[0].time_aware:
        assert np.array_equal(found[0].time_aware[name], found[1].time_aware[name])
        assert np.array_equal(found[0].time_aware[name][~last], single.time_aware[name][~last])
        assert not np.array_equal(found[0].time_aware[name][last], single.time_aware[name][last])


def test_validation_does_not_see_test():
    facts = random_facts(5)
    graph = graph_of(facts)
    model = tiny_model(graph)
    found = []
    for seen in (graph, graph.before(TEST_START)):
        history = history_before(seen, model.config.history, VALID_START)
        found.append(validate(sharded(model), seen, history, max_scores=10**6))
    assert found[0]["count"] == 2 * (facts[:, 3] == VALID_START).sum()
    assert found[0] == found[1]


def test_training_does_not_see_test_and_its_steps_do_not_see_validation():
    facts = random_facts(5)
    config = tiny_config({"entity_dropout": 0.5, "dropout": 0.2}, epochs=2, max_horizon=4, ahead_share=0.5)

    def trained(facts):
        trainer = Trainer(config, graph_of(facts))
        list(trainer.run())
        return trainer

    whole, without_test = trained(facts), trained(facts[facts[:, 3] < TEST_START])
    altered = facts.copy()
    altered[altered[:, 3] >= VALID_START, 2] = 0
    for other in (without_test, trained(altered)):
        for name, weights in whole.model.state_dict().items():
            assert torch.equal(weights, other.model.state_dict()[name]), name
    mrr = [[epoch["valid_mrr"] for epoch in trainer.position.metrics] for trainer in (whole, without_test)]
    assert mrr[0] == mrr[1]
