from collections import Counter

import pytest
import torch
from graphs import HISTORY, NUM_ENTITIES, NUM_RELATIONS, Past, all_queries, graph_of, random_facts
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.config import HistoryConfig
from gam_kg.data.history import HistoryIndex, log_bucket
from gam_kg.metrics.baselines import StrictRecurrency, build_baselines

TINY = 1e-9
seeds, times = st.integers(0, 10_000), st.integers(0, 9)


def baselines_of(graph):
    return build_baselines(HistoryIndex(graph, HistoryConfig(**HISTORY)), graph.partition, graph.num_relations)


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


@given(seeds, times, st.integers(0, 3))
@settings(max_examples=15)
def test_counting_baselines_equal_counting_by_hand(seed, as_of, later):
    facts = random_facts(seed)
    past, queries, found = Past(facts, as_of), all_queries(as_of + later), baselines_of(graph_of(facts))
    by_hand = strict(past, queries.time, decay=0.03)
    relaxed = share(past)
    expected = {
        "popularity": popularity(past),
        "recurrency_strict": by_hand,
        "recurrency_combined": lambda s, r, o: by_hand(s, r, o) + TINY * relaxed(s, r, o),
    }
    for name, score in expected.items():
        scores = found[name].scores(queries, as_of)
        assert scores.dtype == torch.float64
        torch.testing.assert_close(scores, per_query(queries, score), rtol=1e-12, atol=1e-15)


def bucket(value):
    return int(log_bucket(torch.tensor(value)))


@given(seeds, st.integers(0, 7))
@settings(max_examples=10)
def test_typed_pair_counts_equal_counting_by_hand(seed, until):
    facts = random_facts(seed)
    graph = graph_of(facts)
    baseline = baselines_of(graph)["typed_pair_counts"]
    exposures, hits = Counter(), Counter()
    for time in [time for time in graph.times if time < until]:
        snapshot = graph.snapshot(time)
        baseline.remember(snapshot)
        past, now = Past(facts, time), Past(facts[facts[:, 3] == time], time + 1)
        for subject, relation in {(s, r) for s, r, _ in now.seen}:
            for seen, other, last, _ in past.facts_of(subject, limit=10**6):
                kind = (relation, seen, bucket(time - last))
                exposures[kind] += 1
                hits[kind] += (subject, relation, other) in now.seen

    past, queries = Past(facts, until), all_queries(until)
    counted = share(past)

    def score(subject, relation, candidate):
        kinds = [
            (relation, seen, bucket(until - last))
            for seen, other, last, _ in past.facts_of(subject, limit=10**6)
            if other == candidate
        ]
        rate = sum(hits[kind] / (exposures[kind] + 1) for kind in kinds)
        return rate + TINY * counted(subject, relation, candidate)

    scores = baseline.scores(queries, until)
    if exposures:
        torch.testing.assert_close(scores, per_query(queries, score), rtol=1e-12, atol=1e-15)
    else:  # before anything is remembered popularity alone speaks
        torch.testing.assert_close(scores, per_query(queries, popularity(past)))


def test_tuning_takes_the_decay_with_the_best_mrr():
    # (0, 0) was answered by 1 three times long ago and by 2 once of late; 2 is asked for.
    facts = [(0, 0, 1, 0), (0, 0, 1, 1), (0, 0, 1, 2), (0, 0, 2, 5), (0, 0, 2, 6)]
    graph = graph_of(facts)
    baseline = baselines_of(graph)["recurrency_strict"]
    assert isinstance(baseline, StrictRecurrency)
    asked = graph.snapshot(6).queries
    asked = asked.select(torch.nonzero(asked.subject == 0)[:, 0])

    def rank_of_2(decay):
        baseline.decay = decay
        scores = baseline.scores(asked, 6)[0]
        return int((scores > scores[2]).sum()) + 1

    ranks = {decay: rank_of_2(decay) for decay in baseline.decays}
    assert (ranks[0.01], ranks[3.0]) == (2, 1)
    baseline.tune([asked])
    assert ranks[baseline.decay] == 1
    combined = baselines_of(graph)
    combined["recurrency_strict"].tune([asked])
    chosen = combined["recurrency_combined"].scores(asked, 6)[0]
    assert int(chosen.argmax()) == 2


@pytest.mark.parametrize("name", ["popularity", "recurrency_strict", "recurrency_combined", "typed_pair_counts"])
def test_without_a_past_all_candidates_are_alike(name):
    baseline = baselines_of(graph_of([(0, 0, 1, 3)]))[name]
    assert not baseline.scores(all_queries(3), 3).any()
    assert not baseline.scores(all_queries(9), 0).any()
