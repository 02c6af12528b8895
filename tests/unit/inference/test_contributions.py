"""What scores consist of: it is exact for every candidate, and what carries it are the facts that the history has."""

import math

import numpy as np
import pytest
import torch
from graphs import (
    NUM_ENTITIES,
    NUM_RELATIONS,
    NUM_SNAPSHOTS,
    Past,
    all_queries,
    graph_of,
    history_before,
    history_config,
    random_facts,
    tiny_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring import sharded
from strategies import horizons

from gam_kg.inference.contributions import ATTENDED, PARTS, contributions
from gam_kg.nn.recurrence import Memory
from gam_kg.training.evaluate import ModelScorer

EVERY_QUERY = NUM_ENTITIES * 2 * NUM_RELATIONS
HISTORIES = {
    "all": {},
    "no past facts": {"recent": 0, "same_relation": 0},
    "past facts by subject only": {"same_relation": 0},
    "no pair statistics": {"pair_statistics": False},
    "no paths": {"two_hop_first": 0},
    "no rules": {"rule_bodies": 0},
    "no confidence": {"rule_confidence": False},
    "no popularity": {"popular": 0},
    "many": {"recent": 100, "same_relation": 100, "two_hop_first": 50, "two_hop_second": 50, "rule_heads": 50},
}
OFF = {
    "no past facts": {"facts", "pattern"},
    "no pair statistics": {"pattern"},
    "no paths": {"paths"},
    "no rules": {"rules"},
    "no confidence": {"confidence"},
    "no popularity": {"popularity"},
}
seeds = st.integers(0, 1000)


def scorer_of(facts, now, *, seed=0, history=None, **model):
    graph = graph_of(facts)
    found = tiny_model(graph, seed, history=history or {}, **model)
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(NUM_ENTITIES, found.config.dim, generator=rng, dtype=torch.float64)
    memory = Memory(hidden, hidden.clone(), torch.zeros(NUM_ENTITIES, dtype=torch.int64))
    return ModelScorer(sharded(found), history_before(graph, found.config.history, now), memory)


def every_pair(num_queries=EVERY_QUERY):
    pairs = torch.arange(num_queries * NUM_ENTITIES)
    return pairs // NUM_ENTITIES, pairs % NUM_ENTITIES


@pytest.mark.parametrize("name", HISTORIES)
@given(seed=seeds, now=st.integers(0, NUM_SNAPSHOTS), horizon=horizons)
@settings(max_examples=8)
def test_parts_sum_to_the_score_of_every_candidate(name, seed, now, horizon):
    scorer = scorer_of(random_facts(seed), now, seed=seed, history=HISTORIES[name])
    queries = all_queries(now, horizon)
    found = contributions(scorer, queries, *every_pair())
    table = scorer.table(queries)
    torch.testing.assert_close(found.parts.sum(1).view_as(table), table, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.mean.sum(1), table.mean(1).repeat_interleave(NUM_ENTITIES), rtol=1e-10, atol=1e-10)
    off = {part for part, column in zip(PARTS, found.parts.T, strict=True) if not column.any()}
    assert OFF.get(name, set()) <= off
    assert now < 6 or off == OFF.get(name, set()), "a part that is on adds something"


@pytest.mark.parametrize("model", [{"gate": False}, {"decoder": "conv_transe"}, {"memory": False}], ids=str)
def test_parts_sum_to_the_score_of_other_models(model):
    queries = all_queries(6, 2)
    scorer = scorer_of(random_facts(3), 6, **model)
    found = contributions(scorer, queries, *every_pair())
    torch.testing.assert_close(found.parts.sum(1), scorer.table(queries).flatten(), rtol=1e-10, atol=1e-10)


@given(seeds, st.integers(1, NUM_SNAPSHOTS))
@settings(max_examples=15)
def test_what_carries_a_part_has_all_of_it(seed, now):
    scorer = scorer_of(random_facts(seed), now, seed=seed)
    found = contributions(scorer, all_queries(now), *every_pair())
    assert {one.part for one in found.carriers} == set(PARTS) - {"vector"}
    for one in found.carriers:
        whole = found.parts[:, list(PARTS).index(one.part)]
        total = torch.zeros_like(whole).index_add_(0, one.pair, one.share)
        torch.testing.assert_close(total, whole, rtol=1e-10, atol=1e-12)
        assert (one.weight is not None) == (one.part in ATTENDED)
        if one.weight is not None:  # the rest is the weight of nothing, 1 / (1 + S)
            weights = torch.zeros_like(whole).index_add_(0, one.pair, one.weight)
            torch.testing.assert_close(weights, 1 - torch.exp(-whole), rtol=1e-10, atol=1e-12)


def rows_of(columns):
    return list(zip(*(column.tolist() for column in vars(columns).values()), strict=True))


@given(seeds, st.integers(1, NUM_SNAPSHOTS), st.sampled_from([0, 3, 50]))
@settings(max_examples=10)
def test_carriers_are_the_facts_and_paths_of_the_past(seed, now, same_relation):
    facts = random_facts(seed)
    config = history_config(same_relation=same_relation)
    scorer = scorer_of(facts, now, seed=seed, history={"same_relation": same_relation})
    queries, past = all_queries(now), Past(facts, now)
    found = {one.part: one for one in contributions(scorer, queries, *every_pair()).carriers}
    got = {part: set() for part in ("facts", "paths")}
    for part, some in got.items():
        steps = zip(*map(rows_of, found[part].facts), strict=True)
        some.update(zip(found[part].pair.tolist(), steps, strict=True))
    expected = {part: set() for part in got}
    for query, (s, r) in enumerate(zip(queries.subject.tolist(), queries.relation.tolist(), strict=True)):
        recent = [one for one in past.facts_of(s, config.recent) if not same_relation or one[0] != r]
        same = [(r, *one) for one in past.answers_of(s, r, same_relation)]
        for relation, other, last, count in [*recent, *same]:
            expected["facts"].add((query * NUM_ENTITIES + other, ((s, relation, other, last, count),)))
        for r1, between, last, count in past.facts_of(s, config.two_hop_first):
            for r2, end, *seen in past.ends_of(between, config):
                if end != s:
                    path = (s, r1, between, last, count), (between, r2, end, *seen)
                    expected["paths"].add((query * NUM_ENTITIES + end, path))
    assert got == expected


def test_carriers_of_rules_and_popularity_are_seen_facts():
    facts, now = random_facts(5, 150), 7
    scorer, past = scorer_of(facts, now), Past(facts, now)
    queries, (query, candidate) = all_queries(now), every_pair()
    found = {one.part: one for one in contributions(scorer, queries, query, candidate).carriers}
    rules = found["rules"]
    assert len(rules.pair)
    for pair, (s, r, o, last, count) in zip(rules.pair.tolist(), rows_of(rules.facts[0]), strict=True):
        times = past.seen[s, r, o]
        assert s == queries.subject[query[pair]]
        assert (last, count) == (max(times), len(times))
    popular = found["popularity"]
    for pair, (s, r, o, last, count) in zip(popular.pair.tolist(), rows_of(popular.facts[0]), strict=True):
        assert (s, r, o) == (-1, int(queries.relation[query[pair]]), int(candidate[pair]))
        assert (o, last, count) in past.popular(r, 100)


def test_few_pairs_and_few_walks_are_those_of_all():
    scorer, queries = scorer_of(random_facts(5, 150), 7), all_queries(7)
    every = contributions(scorer, queries, *every_pair())
    some = torch.from_numpy(np.sort(np.random.default_rng(0).choice(EVERY_QUERY * NUM_ENTITIES, 60, replace=False)))
    found = contributions(scorer, queries, some // NUM_ENTITIES, some % NUM_ENTITIES, top=2)
    torch.testing.assert_close(found.parts, every.parts[some], rtol=0, atol=1e-15)
    torch.testing.assert_close(found.mean, every.mean[some], rtol=0, atol=1e-15)
    for number, pair in enumerate(some.tolist()):
        few, expected = (
            torch.cat([one.share[one.pair == of].abs() for one in carriers]).sort(descending=True).values
            for carriers, of in ((found.carriers, number), (every.carriers, pair))
        )
        torch.testing.assert_close(few, expected[:2], rtol=0, atol=1e-15)


@given(seeds)
@settings(max_examples=8)
def test_a_pointer_falls_without_a_fact_by_what_its_weight_says(seed):
    """Where no other part reads past facts, and no limit lets another fact in."""
    off = {"pair_statistics": False, "two_hop_first": 0, "rule_bodies": 0, "rule_confidence": False, "popular": 0}
    alone = {"history": {"recent": 500, "same_relation": 500, **off}, "gate": False, "seed": seed}
    facts, now = random_facts(seed), 6
    scorer, queries = scorer_of(facts, now, **alone), all_queries(now)
    found = contributions(scorer, queries, *every_pair())
    (carriers,) = found.carriers
    (columns,) = carriers.facts
    query, candidate = every_pair()
    # A fact of an entity with itself is two past facts of it, one in each direction.
    pair = int(torch.mode(carriers.pair[columns.subject != columns.object]).values)
    falls = {}
    for weight, share, of, (s, r, o, *_) in zip(
        *(column.tolist() for column in (carriers.weight, carriers.share, carriers.pair)), rows_of(columns), strict=True
    ):
        if of == pair:
            stored = [s, r, o] if r < NUM_RELATIONS else [o, r - NUM_RELATIONS, s]
            without = graph_of(facts[(facts[:, :3] != stored).any(1)])
            history = history_before(without, scorer.model.config.history, now)
            fewer = ModelScorer(scorer.sharded, history, scorer.memory)
            falls[weight] = float((scorer.table(queries) - fewer.table(queries))[query[pair], candidate[pair]])
            assert falls[weight] == pytest.approx(-math.log1p(-weight), rel=1e-9)
            assert falls[weight] < share + 1e-9
    assert len(falls) > 1
    assert sorted(falls, key=falls.__getitem__) == sorted(falls)
