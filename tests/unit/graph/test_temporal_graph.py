from collections import Counter

import numpy as np
import pytest
import torch
from graphs import NUM_ENTITIES, NUM_RELATIONS, TEST_START, VALID_START, graph_of, random_facts, write_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.errors import ArtifactError
from gam_kg.graph.snapshot import Queries
from gam_kg.graph.temporal_graph import TemporalGraph

seeds = st.integers(0, 10_000)
sizes = st.integers(0, 60)


def answers_of(queries):
    """(subject, relation, answer), one an answer."""
    subject, relation = queries.subject[queries.answer_query], queries.relation[queries.answer_query]
    return list(zip(subject.tolist(), relation.tolist(), queries.answer.tolist(), strict=True))


def answers_by_hand(facts, time):
    """The two queries of each fact at a time with their answers."""
    rows = [fact for fact in facts.tolist() if fact[3] == time]
    return [(s, r, o) for s, r, o, _ in rows] + [(o, r + NUM_RELATIONS, s) for s, r, o, _ in rows]


@given(seeds, sizes)
@settings(max_examples=40)
def test_each_fact_answers_two_queries_and_each_distinct_query_is_there_once(seed, size):
    facts = random_facts(seed, size)
    graph = graph_of(facts)
    assert graph.times == sorted(set(facts[:, 3].tolist()))
    for time in graph.times:
        queries = graph.snapshot(time).queries
        assert queries.time == time
        assert sorted(answers_of(queries)) == sorted(answers_by_hand(facts, time))
        pairs = list(zip(queries.subject.tolist(), queries.relation.tolist(), strict=True))
        assert len(pairs) == len(set(pairs)) == len(queries)
        assert queries.answer_query.tolist() == sorted(queries.answer_query.tolist())


def test_a_snapshot_has_every_entity_of_its_facts_as_anchor():
    facts = random_facts(1)
    snapshot = graph_of(facts).snapshot(3)
    there = facts[facts[:, 3] == 3]
    assert snapshot.active.tolist() == sorted({*there[:, 0].tolist(), *there[:, 2].tolist()})
    assert set(snapshot.other.tolist()) <= set(snapshot.active.tolist())
    assert len(snapshot) == 2 * len(there)


def test_a_time_without_facts_is_an_empty_snapshot():
    snapshot = graph_of([(0, 0, 1, 2)]).snapshot(1)
    assert (len(snapshot), len(snapshot.active), len(snapshot.queries)) == (0, 0, 0)


@given(seeds, st.lists(st.integers(0, 20), max_size=6))
@settings(max_examples=30)
def test_selected_queries_have_their_answers_in_the_order_of_selection(seed, selected):
    queries = graph_of(random_facts(seed)).snapshot(3).queries
    rows = [row % len(queries) for row in selected] if len(queries) else []
    chosen = queries.select(torch.tensor(rows, dtype=torch.int64))
    assert chosen.subject.tolist() == [queries.subject[row] for row in rows]
    assert chosen.relation.tolist() == [queries.relation[row] for row in rows]
    expected = [
        (i, answer)
        for i, row in enumerate(rows)
        for query, answer in zip(queries.answer_query.tolist(), queries.answer.tolist(), strict=True)
        if query == row
    ]
    assert list(zip(chosen.answer_query.tolist(), chosen.answer.tolist(), strict=True)) == expected


@given(seeds, st.lists(st.integers(0, 8), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=30)
def test_queries_of_several_snapshots_together_are_those_of_each(seed, times, back):
    graph = graph_of(random_facts(seed))
    parts = [graph.snapshot(time).queries.seen_from(times[0] - back) for time in times]
    together = Queries.together(parts)
    assert (together.time, together.now, together.horizon) == (times[0], times[0] - back, back + 1)
    assert answers_of(together) == [row for part in parts for row in answers_of(part)]
    first = 0
    for part in parts:
        again = together.select(torch.arange(first, first + len(part)))
        assert torch.equal(again.subject, part.subject)
        assert torch.equal(again.answer_query, part.answer_query)
        first += len(part)
    assert first == len(together)


@given(seeds, st.integers(-1, 10))
@settings(max_examples=30)
def test_before_keeps_exactly_the_facts_before(seed, time):
    facts = random_facts(seed)
    found, expected = graph_of(facts).before(time), graph_of(facts[facts[:, 3] < time])
    for column, other in zip(found.rows(), expected.rows(), strict=True):
        assert torch.equal(column, other)
    assert found.times == expected.times
    assert (found.num_entities, found.valid_start) == (NUM_ENTITIES, VALID_START)


def test_splits_are_half_open_intervals_and_cover_all_times():
    graph = graph_of(random_facts(2))
    assert graph.times_in("train") == [0, 1, 2, 3, 4]
    assert graph.times_in("valid") == [5]
    assert graph.times_in("test") == [6, 7]
    assert (graph.end, graph_of([]).end, graph_of([]).times_in("test")) == (8, 0, [])


def test_trained_entities_are_those_with_a_fact_in_train():
    graph = graph_of([(0, 0, 1, 0), (2, 0, 3, VALID_START - 1), (4, 0, 0, VALID_START), (5, 0, 6, TEST_START)])
    assert torch.nonzero(graph.trained)[:, 0].tolist() == [0, 1, 2, 3]


def test_trained_relations_are_those_with_a_fact_in_train():
    graph = graph_of([(0, 2, 1, VALID_START - 1), (0, 0, 1, VALID_START), (0, 2, 1, TEST_START), (0, 1, 1, TEST_START)])
    assert graph.trained_relations.tolist() == [False, False, True]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_out_a_stored_graph(tmp_path, world_size):
    graph = graph_of(random_facts(3))
    write_graph(tmp_path, graph, buckets=5)
    parts = [TemporalGraph.load(tmp_path, rank=rank, world_size=world_size)[0] for rank in range(world_size)]
    rows = Counter()
    for part in parts:
        mine = part.rows()
        rows.update(zip(*(column.tolist() for column in mine), strict=True))
        order = np.lexsort((mine.anchor.numpy(), mine.time.numpy()))
        assert order.tolist() == list(range(len(order)))
        for name in ("snapshots", "trained", "trained_relations"):
            assert torch.equal(getattr(part, name), getattr(graph, name))
        assert part.partition.owns(mine.anchor).all()
    assert rows == Counter(zip(*(column.tolist() for column in graph.rows()), strict=True))
    assert len(set.intersection(*(set(part.rows().anchor.tolist()) for part in parts))) == 0 or world_size == 1
    if world_size == 1:
        assert torch.equal(parts[0].rows().other, graph.rows().other)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_a_shard_in_memory_is_the_shard_that_is_stored(tmp_path, world_size):
    graph = graph_of(random_facts(3), buckets=5)
    write_graph(tmp_path, graph, buckets=5)
    for rank in range(world_size):
        stored, _ = TemporalGraph.load(tmp_path, rank=rank, world_size=world_size)
        found = graph.shard(rank, world_size)
        assert found.partition == stored.partition
        for column, other in zip(found.rows(), stored.rows(), strict=True):
            assert torch.equal(column, other)
        for name in ("snapshots", "trained", "trained_relations"):
            assert torch.equal(getattr(found, name), getattr(stored, name))
        assert found.times == graph.times


def test_a_stored_graph_that_lost_rows_is_refused(tmp_path):
    graph = graph_of(random_facts(3))
    write_graph(tmp_path, graph, buckets=2, num_facts=len(graph.rows().time) // 2 + 1)
    with pytest.raises(ArtifactError, match="the manifest counts"):
        TemporalGraph.load(tmp_path)
