from collections import Counter

import pytest
import torch
from graphs import graph_of, random_facts
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.config import TrainConfig
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training.step_batch import queries_ahead

GRAPH = graph_of(random_facts(0, 200))
NOW = 2


def ahead(times, max_horizon, share, seed=0):
    queries = GRAPH.snapshot(NOW).queries
    config = TrainConfig(max_horizon=max_horizon, ahead_share=share)
    return queries_ahead(queries, [GRAPH.snapshot(time).queries for time in times], config, CounterRNG(seed, 0))


def rows_of(queries):
    columns = queries.subject[queries.answer_query], queries.relation[queries.answer_query], queries.answer
    return set(zip(*(column.tolist() for column in columns), strict=True))


@given(st.sets(st.integers(NOW + 1, 7)), st.integers(1, 8), st.floats(0, 1), st.integers(0, 1000))
def test_they_are_some_queries_of_one_later_snapshot_with_all_their_answers(times, max_horizon, share, seed):
    times = sorted(times)
    found, again = (ahead(times, max_horizon, share, seed) for _ in range(2))
    allowed = [time for time in times if time - NOW < max_horizon]
    assert len(found) == (bool(allowed) and share > 0)
    for one, other in zip(found, again, strict=True):
        assert one.time in allowed
        assert one.now == NOW
        assert 2 <= one.horizon == one.time - NOW + 1 <= max_horizon
        whole = GRAPH.snapshot(one.time).queries
        pairs = set(zip(one.subject.tolist(), one.relation.tolist(), strict=True))
        assert len(pairs) == len(one)
        assert rows_of(one) == {row for row in rows_of(whole) if row[:2] in pairs}
        part = min(1.0, share * len(GRAPH.snapshot(NOW).queries.answer) / len(whole.answer))
        assert len(one) == max(1, round(part * len(whole)))
        assert torch.equal(one.subject, other.subject)
        assert torch.equal(one.relation, other.relation)


def test_a_snapshot_without_facts_is_not_drawn():
    nothing = GRAPH.snapshot(99).queries
    queries, config = GRAPH.snapshot(NOW).queries, TrainConfig()
    assert queries_ahead(queries, [nothing], TrainConfig(max_horizon=200), CounterRNG(0, 0)) == []
    (found,) = queries_ahead(queries, [GRAPH.snapshot(4).queries, nothing], config, CounterRNG(0, 0))
    assert found.time == 4


def test_a_horizon_is_drawn_in_proportion_to_one_over_it():
    draws, times = 1000, [3, 4, 6]
    drawn = Counter(one.horizon for seed in range(draws) for one in ahead(times, 5, 0.01, seed))
    weight = {time - NOW + 1: 1 / (time - NOW + 1) for time in times}
    assert set(drawn) == set(weight)
    for horizon, number in drawn.items():
        share = weight[horizon] / sum(weight.values())
        assert number / draws == pytest.approx(share, abs=4 * (share * (1 - share) / draws) ** 0.5)
