import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from columns import bin_of
from graphs import (
    HISTORY,
    NUM_ENTITIES,
    NUM_RELATIONS,
    Past,
    all_queries,
    graph_of,
    history_config,
    queries_of,
    random_facts,
    snapshots_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_by_hand import pair_rules_by_hand, rules_by_hand, together_by_hand

from gam_kg.history import confidence
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.all_baselines import build_baselines
from gam_kg.metrics.baselines import StrictRecurrency
from gam_kg.training.evaluate import roll

TINY, EVERY = 1e-9, 10**6
seeds, times = st.integers(0, 10_000), st.integers(0, 9)


def baselines_before(graph, time, decay=0.03, **changes):
    """Baselines that have observed all snapshots before a time."""
    history = HistoryIndex(graph, history_config(**changes))
    baselines = build_baselines(history, decay)
    roll(baselines.values(), history, snapshots_of(graph, [at for at in graph.times if at < time]))
    return baselines


def per_query(queries, score):
    """Scores of every query and candidate, one by one."""
    pairs = zip(queries.subject.tolist(), queries.relation.tolist(), strict=True)
    rows = [[score(subject, relation, candidate) for candidate in range(NUM_ENTITIES)] for subject, relation in pairs]
    return torch.tensor(rows, dtype=torch.float64)


def popularity(past):
    snapshots = {
        (relation, other): {
            time for (_, r, o), seen in past.seen.items() if (r, o) == (relation, other) for time in seen
        }
        for _, relation, other in past.seen
    }
    return lambda subject, relation, candidate: len(snapshots.get((relation, candidate), ()))


def share(past):
    """Share of the relation's counts that a candidate has, whoever the subject."""
    count = popularity(past)
    total = {r: sum(count(0, r, candidate) for candidate in range(NUM_ENTITIES)) for r in range(2 * NUM_RELATIONS)}
    return lambda subject, relation, candidate: count(subject, relation, candidate) / max(1, total[relation])


def strict(past, time, decay):
    return lambda s, r, o: sum(2 ** (-decay * (time - seen)) for seen in past.seen.get((s, r, o), ()))


def logarithm(score):
    return (math.log2(score) + 1100) / 2200 if score else 0.0


@given(seeds, times, st.integers(0, 3))
@settings(max_examples=15)
def test_counting_baselines_equal_counting_by_hand(seed, end, later):
    facts = random_facts(seed)
    past, queries, found = Past(facts, end), all_queries(end + later), baselines_before(graph_of(facts), end)
    by_hand = strict(past, queries.time, decay=0.03)
    relaxed = share(past)
    expected = {
        "popularity": popularity(past),
        "recurrency_strict": by_hand,
        "recurrency_combined": lambda s, r, o: logarithm(by_hand(s, r, o)) + TINY * relaxed(s, r, o),
    }
    for name, score in expected.items():
        scores = found[name].scores(queries).dense()
        assert scores.dtype == torch.float64
        torch.testing.assert_close(scores, per_query(queries, score), rtol=1e-12, atol=1e-15)


@given(seeds, st.integers(0, 7))
@settings(max_examples=10)
def test_typed_pair_counts_equal_counting_by_hand(seed, until):
    facts = random_facts(seed)
    baseline, (exposures, hits) = (
        baselines_before(graph_of(facts), until)["typed_pair_counts"],
        pair_rules_by_hand(facts.tolist(), until, EVERY),
    )
    past, queries = Past(facts, until), all_queries(until)
    counted = share(past)

    def score(subject, relation, candidate):
        kinds = [
            (relation, seen, bin_of(until - last))
            for seen, other, last, _ in past.facts_of(subject, EVERY)
            if other == candidate
        ]
        rate = sum(hits[kind] / (exposures[kind] + 1) for kind in kinds)
        return rate + TINY * counted(subject, relation, candidate)

    scores = baseline.scores(queries).dense()
    torch.testing.assert_close(scores, per_query(queries, score), rtol=1e-12, atol=1e-15)


@given(seeds, st.integers(0, 7), st.integers(0, 2), st.booleans(), st.sampled_from([2, 10]))
@settings(max_examples=10)
def test_rule_counts_equal_counting_by_hand(seed, until, later, with_rules, most):
    facts, num_bodies = random_facts(seed), HISTORY["rule_bodies"] if with_rules else 0
    exposures, hits = pair_rules_by_hand(facts.tolist(), until, EVERY)
    rule_exposures, rule_hits = rules_by_hand(facts.tolist(), until, num_bodies)
    past, queries = Past(facts, until), all_queries(until + later).seen_from(until)
    faded = Counter()
    for (_, relation, other), seen in past.seen.items():
        faded[relation, other] += sum(2 ** (-0.02 * (until - time)) for time in seen)
    # A step of popularity is a 32nd of an octave, counted from a power of 2.
    for key, weight in faded.items():
        octave = 2.0 ** math.floor(math.log2(weight))
        faded[key] = octave * (1 + math.floor((weight / octave - 1) * 32) / 32)

    def score(subject, relation, candidate):
        of_pair = [
            hits[kind] / (exposures[kind] + 30)
            for seen, other, last, _ in past.facts_of(subject, EVERY)
            if other == candidate
            for kind in [(relation, seen, bin_of(until - last))]
        ]
        shared = [
            rule_hits[(*body, relation, candidate)] / (rule_exposures[(*body, relation)] + 30)
            for *body, _, _ in past.facts_of(subject, num_bodies)
        ]
        total = sum(faded[relation, other] for other in range(NUM_ENTITIES))
        rest = 0.1 * faded[relation, candidate] / (total + 10)
        return together_by_hand(of_pair, shared, most) + rest

    baseline = baselines_before(graph_of(facts), until, rule_bodies=num_bodies)["rule_counts"]
    assert confidence._MOST == 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confidence, "_MOST", most)
        scores = baseline.scores(queries).dense()
    torch.testing.assert_close(scores, per_query(queries, score), rtol=1e-12, atol=1e-15)


def test_the_decay_decides_how_soon_the_past_is_forgotten():
    # (0, 0) was answered by 1 three times long ago and by 2 once of late; the answer is 2.
    facts = [(0, 0, 1, 0), (0, 0, 1, 1), (0, 0, 1, 2), (0, 0, 2, 5), (0, 0, 2, 6)]
    graph = graph_of(facts)
    queries = graph.snapshot(6).queries
    queries = queries.select(torch.nonzero(queries.subject == 0)[:, 0])

    def rank_of_2(decay):
        scores = baselines_before(graph, 6, decay)["recurrency_strict"].scores(queries).dense()[0]
        return int((scores > scores[2]).sum()) + 1

    ranks = {decay: rank_of_2(decay) for decay in StrictRecurrency.decays}
    assert (ranks[0.01], ranks[3.0]) == (2, 1)
    combined = baselines_before(graph, 6, decay=3.0)["recurrency_combined"]
    assert int(combined.scores(queries).dense()[0].argmax()) == 2


@pytest.mark.parametrize("decay", StrictRecurrency.decays)
def test_candidates_with_the_same_past_tie_wherever_they_stand(decay):
    graph = graph_of([(0, 0, 1 + other, time) for time in (0, 3) for other in range(29)], num_entities=30)
    baseline = baselines_before(graph, 4, decay)["recurrency_strict"]
    for time in range(4, 24):
        scores = baseline.scores(queries_of([(0, 0)], time)).dense()[0, 1:]
        assert len(scores.unique()) == 1
        exact = 2 ** (-decay * time) + 2 ** (-decay * (time - 3))
        torch.testing.assert_close(scores[0].item(), exact, rtol=1e-12, atol=1e-300)


def test_what_is_old_enough_has_faded_away():
    graph = graph_of([(0, 0, 1, 0)])
    scores = baselines_before(graph, 1, 3.0)["recurrency_strict"].scores(queries_of([(0, 0)], 10**12))
    assert not scores.dense().any()


@pytest.mark.parametrize(
    "name", ["popularity", "recurrency_strict", "recurrency_combined", "typed_pair_counts", "rule_counts"]
)
def test_without_a_past_all_candidates_are_alike(name):
    baseline = baselines_before(graph_of([(0, 0, 1, 3)]), 3)[name]
    assert not baseline.scores(all_queries(3)).dense().any()
    assert not baseline.scores(all_queries(9)).dense().any()


def test_popularity_orders_only_what_the_strict_part_ties_however_long_ago():
    facts = [(0, 0, 2, 0), (0, 0, 3, 1), *((1, 0, 4, time) for time in range(200))]
    graph = graph_of(facts, valid_start=200, test_start=201)
    queries = replace(all_queries(0), time=200)
    queries = queries.select(torch.nonzero((queries.subject == 0) & (queries.relation == 0))[:, 0])
    scores = baselines_before(graph, 200, decay=1.0)["recurrency_combined"].scores(queries).dense()[0]
    assert scores.argsort(descending=True)[:3].tolist() == [3, 2, 4]
