import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import HISTORY, NUM_RELATIONS, Past, all_queries, graph_of, history_before, moments_of, queries_of
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.config import HistoryConfig
from gam_kg.data.history import HistoryIndex
from gam_kg.data.partition import Partition
from gam_kg.data.past import NEVER, NUM_BUCKETS, log_bucket
from gam_kg.errors import DataError

# Few entities, so that facts, pairs and whole paths recur.
facts = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, NUM_RELATIONS - 1), st.integers(0, 4), st.integers(0, 7)), max_size=60
)
limits = st.sampled_from([0, 1, 2, 3, 50])


def test_log_buckets_follow_the_formula():
    values = [*range(70_000), 10**6, 10**9, 10**12]

    def formula(x):
        return min(x if x < 6 else int(5 + 2 * math.log2(x / 5) + 0.5), NUM_BUCKETS - 1)

    assert log_bucket(torch.tensor(values)).tolist() == [formula(x) for x in values]


def bucket(value):
    return int(log_bucket(torch.tensor(value)))


def config_of(**changes):
    return HistoryConfig(**{**HISTORY, **changes})


def past_facts(past, subject, relation, config):
    """(relation, other, last, count, same) of the facts that a query attends over."""
    recent = past.facts_of(subject, config.recent)
    different = [(*row, False) for row in recent if row[0] != relation or config.same_relation == 0]
    same = past.answers_of(subject, relation, config.same_relation)
    return different + [(relation, other, last, count, True) for other, last, count in same]


@given(facts, st.integers(0, 8), st.integers(0, 3), limits, limits)
@settings(max_examples=60)
def test_pairs_are_those_a_walk_through_the_facts_finds(rows, as_of, later, recent, same_relation):
    config = config_of(recent=recent, same_relation=same_relation)
    queries, past = all_queries(as_of + later), Past(rows, as_of)
    found = history_before(graph_of(rows), config, as_of).look_up(queries).pairs
    if recent == same_relation == 0:
        assert found is None
        return
    assert found is not None

    links, features = Counter(), {}
    for query, (subject, relation) in enumerate(zip(queries.subject.tolist(), queries.relation.tolist(), strict=True)):
        by_other = defaultdict(list)
        for seen, other, last, count, same in past_facts(past, subject, relation, config):
            recency, count = bucket(queries.time - last), bucket(count)
            links[query, other, seen, recency, count, same] += 1
            by_other[other].append((recency, count, same))
        for other, entries in by_other.items():
            own = [entry[:2] for entry in entries if entry[2]]
            features[query, other] = (
                *(own[0] if own else (NEVER, 0)),
                min(recency for recency, _, _ in entries),
                bucket(len(entries)),
            )
    entry, pair = found.link_entry, found.link_pair
    assert torch.equal(found.pair_query[pair], found.link_query)
    assert torch.equal(found.pair_other[pair], found.entry_other[entry])
    columns = (
        found.link_query,
        found.entry_other[entry],
        found.entry_relation[entry],
        found.entry_recency[entry],
        found.entry_count[entry],
        found.entry_same[entry],
    )
    assert Counter(zip(*(column.tolist() for column in columns), strict=True)) == links
    pairs = list(zip(found.pair_query.tolist(), found.pair_other.tolist(), strict=True))
    assert len(pairs) == len(features)
    assert dict(zip(pairs, map(tuple, found.pair_features.tolist()), strict=True)) == features


@given(facts, st.integers(0, 8), st.integers(0, 3), limits, limits)
@settings(max_examples=60)
def test_paths_are_those_a_walk_through_the_facts_finds(rows, as_of, later, first, second):
    queries, past = all_queries(as_of + later), Past(rows, as_of)
    index = history_before(graph_of(rows), config_of(two_hop_first=first, two_hop_second=second), as_of)
    found = index.look_up(queries).paths
    if first == 0 or second == 0:
        assert found is None
        return
    assert found is not None

    expected = Counter()
    for query, subject in enumerate(queries.subject.tolist()):
        for r1, neighbour, last1, _ in past.facts_of(subject, first):
            for r2, other, last2, count2 in past.facts_of(neighbour, second):
                if other != subject:
                    recencies = bucket(queries.time - last1), bucket(queries.time - last2)
                    expected[query, r1, recencies[0], r2, other, recencies[1], bucket(count2)] += 1
    one, two = found.path_first[found.link_path], found.path_second[found.link_path]
    columns = (
        found.link_query,
        found.first_relation[one],
        found.first_recency[one],
        found.second_relation[two],
        found.second_other[two],
        found.second_recency[two],
        found.second_count[two],
    )
    assert Counter(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert torch.equal(found.pair_query[found.link_pair], found.link_query)
    assert torch.equal(found.pair_other[found.link_pair], found.second_other[two])
    pairs = list(zip(found.pair_query.tolist(), found.pair_other.tolist(), strict=True))
    assert len(pairs) == len(set(pairs)) == len({(row[0], row[4]) for row in expected})


@given(facts, st.integers(0, 8), st.integers(0, 3), limits)
@settings(max_examples=60)
def test_popularity_is_what_a_walk_through_the_facts_finds(rows, as_of, later, popular):
    queries, past = all_queries(as_of + later), Past(rows, as_of)
    found = history_before(graph_of(rows), config_of(popular=popular), as_of).look_up(queries).popularity
    if popular == 0:
        assert found is None
        return
    assert found is not None
    expected = Counter(
        (relation, other, bucket(queries.time - last), bucket(count))
        for relation in set(queries.relation.tolist())
        for other, last, count in past.popular(relation, popular)
    )
    assert torch.equal(found.relations[found.query_row], queries.relation)
    columns = (found.relations[found.row], found.other, found.recency, found.count)
    assert Counter(zip(*(column.tolist() for column in columns), strict=True)) == expected


class All:
    """Wants every candidate."""

    def coins(self, rows):
        return torch.zeros(len(rows))

    def may_meet(self, rows, coins):
        return coins == 0

    def meets(self, subject, rows, coins):
        return coins == 0

    def is_shared(self, rows):
        return torch.zeros_like(rows, dtype=torch.bool)


@given(facts, st.integers(1, 8), limits, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_popularity_told_where_it_is_asked_is_that_of_a_look_up(rows, as_of, popular, random):
    index = history_before(graph_of(rows), config_of(popular=popular), as_of)
    queries = all_queries(as_of)
    order = list(range(len(queries)))
    random.shuffle(order)
    # Steps of a snapshot one after another, and then of the next.
    for part in (order[:3], order[2:9], order[5:], order[:1]):
        asked = queries.select(torch.tensor(sorted(part)))
        whole = index.look_up(asked).popularity
        found = index.sampled(index.find(asked), All())
        if popular == 0:
            assert found.popular is whole is None
            continue
        assert found.popular is not None
        assert whole is not None
        assert torch.equal(found.popular.relations[found.relation_row], asked.relation)
        expected = entries(whole)
        told = found.popular.among(lambda rows: rows >= 0)
        assert entries(told) == expected
        row = torch.arange(len(found.popular.relations)).repeat_interleave(index.stride)
        pair, told = found.popular.of_pairs(row, torch.arange(index.stride).repeat(len(found.popular.relations)))
        assert entries(told) == expected
        assert torch.equal(row[pair], told.row)
    graph = graph_of(rows)
    for moment in moments_of(graph, [time for time in graph.times if time == as_of]):
        index.remember(moment)
    later = all_queries(as_of + 1)
    found, whole = index.sampled(index.find(later), All()).popular, index.look_up(later).popularity
    assert (found is None) == (whole is None) == (popular == 0)
    if found is not None and whole is not None:
        assert entries(found.among(lambda rows: rows >= 0)) == entries(whole)


def entries(told):
    columns = (told.relations[told.row], told.other, told.recency, told.count)
    return Counter(zip(*(column.tolist() for column in columns), strict=True))


def same_look_up(one, two):
    for name in ("pairs", "paths", "popularity"):
        mine, theirs = vars(getattr(one, name)), vars(getattr(two, name))
        if not all(torch.equal(mine[column], theirs[column]) for column in mine):
            return False
    return True


@given(facts, facts, st.integers(0, 8))
@settings(max_examples=60)
def test_facts_at_or_after_a_time_never_show(rows, others, time):
    altered = [row for row in rows if row[3] < time] + [row for row in others if row[3] >= time]
    indices = [history_before(graph_of(each), config_of(), time) for each in (rows, altered)]
    assert same_look_up(*(index.look_up(all_queries(time)) for index in indices))
    # Asking about later is no way around it.
    assert same_look_up(*(index.look_up(all_queries(time + 2)) for index in indices))


def test_questions_about_what_is_already_told_are_refused():
    graph = graph_of([(0, 0, 1, 2), (0, 0, 1, 4)])
    history = history_before(graph, config_of(), 3)
    history.look_up(all_queries(3))
    with pytest.raises(ValueError, match="about 2, when snapshot 2 is already told"):
        history.look_up(all_queries(2))
    with pytest.raises(ValueError, match="snapshot 2 is told after snapshot 2"):
        history.remember(moments_of(graph, [2])[0])


@given(facts, st.integers(0, 8))
@settings(max_examples=30)
def test_a_reset_index_is_as_new(rows, time):
    graph = graph_of(rows)
    used, fresh = history_before(graph, config_of(), 9), history_before(graph, config_of(), time)
    used.reset()
    for moment in moments_of(graph, [at for at in graph.times if at < time]):
        used.remember(moment)
    assert same_look_up(used.look_up(all_queries(time)), fresh.look_up(all_queries(time)))


def test_snapshot_numbers_may_be_large():
    time = 2**31 + 5
    facts = [(0, 0, 1, 0), (0, 0, 2, time), (0, 0, 1, 3 * time)]
    found = history_before(graph_of(facts), config_of(), 3 * time).look_up(queries_of([(0, 0)], 3 * time)).pairs
    assert found is not None
    assert sorted(found.entry_recency[found.entry_same].tolist()) == sorted([bucket(3 * time), bucket(2 * time)])


def test_keys_that_do_not_fit_64_bits_are_refused():
    graph = replace(graph_of([(0, 0, 1, 2)]), partition=Partition(10**9), num_relations=100)
    with pytest.raises(DataError, match="1000000000 entities with 100 relations"):
        HistoryIndex(graph, config_of())


@given(facts, st.randoms(use_true_random=False), st.integers(0, 8))
@settings(max_examples=30)
def test_the_order_of_the_facts_does_not_matter(rows, random, time):
    shuffled = rows.copy()
    random.shuffle(shuffled)
    indices = [history_before(graph_of(each), config_of(), time) for each in (rows, shuffled)]
    assert same_look_up(*(index.look_up(all_queries(time)) for index in indices))


def test_no_queries_find_nothing():
    index = HistoryIndex(graph_of(np.array([(0, 0, 1, 0)])), config_of())
    found = index.look_up(queries_of([], 3))
    assert found.pairs is not None
    assert len(found.pairs.link_query) == 0
