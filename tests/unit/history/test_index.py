from dataclasses import replace

import pytest
import torch
from columns import joined_of, layout_of, rule_columns
from graphs import Past, all_queries, graph_of, history_before, history_config, snapshots_of
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import limits, recurring_facts

from gam_kg.errors import DataError
from gam_kg.graph.partition import Partition
from gam_kg.history.index import HistoryIndex
from gam_kg.ops.records import map_tensors


def past_of(history, queries):
    """All numbers that scoring takes of the past of queries."""
    joined, tensors = joined_of(history, queries), []
    map_tensors((layout_of(history, joined), *joined.pairs), lambda value: (tensors.append(value), value)[1])
    for limit in (None, 2) if history.config.rule_bodies else ():
        tensors += rule_columns(history, queries, 1, limit)
    return tensors


def same_past(one, two, queries):
    mine, theirs = past_of(one, queries), past_of(two, queries)
    return len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))


@given(recurring_facts, st.integers(0, 8), limits, limits, limits, limits)
@settings(max_examples=60)
def test_known_answers_and_the_number_of_walks_are_those_of_the_past(rows, end, recent, same_relation, first, second):
    config = history_config(recent=recent, same_relation=same_relation, two_hop_first=first, two_hop_second=second)
    queries, past = all_queries(end), Past(rows, end)
    found = history_before(graph_of(rows), config, end).find(queries)
    known, num_walks = [], 0
    for subject, relation in zip(queries.subject.tolist(), queries.relation.tolist(), strict=True):
        known += [(subject, other) for other, _, _ in past.answers_of(subject, relation, same_relation)]
        num_walks += len(past.facts_of(subject, recent))
        for _, neighbour, _, _ in past.facts_of(subject, first):
            num_walks += len(past.ends_of(neighbour, config))
    assert sorted(zip(*(column.tolist() for column in found.known_answers), strict=True)) == sorted(known)
    assert found.rules is not None
    assert found.num_walks == num_walks + len(known) + len(found.rules[1].row)


@given(recurring_facts, recurring_facts, st.integers(0, 8), st.integers(1, 3))
@settings(max_examples=60)
def test_facts_at_or_after_a_time_never_show(rows, others, time, rule_count):
    altered = [row for row in rows if row[3] < time] + [row for row in others if row[3] >= time]
    config = history_config(rule_count=rule_count)
    indices = [history_before(graph_of(each), config, time) for each in (rows, altered)]
    for horizon in (1, 3):
        assert same_past(*indices, all_queries(time, horizon))
        # Queries about later are no way around it.
        assert same_past(*indices, all_queries(time + 2, horizon))


def test_queries_about_what_is_already_inserted_are_refused():
    graph = graph_of([(0, 0, 1, 2), (0, 0, 1, 4)])
    history = history_before(graph, history_config(), 3)
    history.find(all_queries(3))
    with pytest.raises(ValueError, match="see snapshots before 2, and 2 is already inserted"):
        history.find(all_queries(2))
    with pytest.raises(ValueError, match="snapshot 2 is inserted after snapshot 2"):
        history.insert(snapshots_of(graph, [2])[0])


@given(recurring_facts, st.integers(0, 8))
@settings(max_examples=30)
def test_a_reset_index_is_as_new(rows, time):
    graph = graph_of(rows)
    used, fresh = history_before(graph, history_config(), 9), history_before(graph, history_config(), time)
    used.reset()
    for snapshot in snapshots_of(graph, [at for at in graph.times if at < time]):
        used.insert(snapshot)
    assert same_past(used, fresh, all_queries(time))


def test_keys_that_do_not_fit_64_bits_are_refused():
    graph = replace(graph_of([(0, 0, 1, 2)]), partition=Partition(10**9), num_relations=100)
    with pytest.raises(DataError, match="1000000000 entities with 100 relations are too many facts"):
        HistoryIndex(graph, history_config())
    graph = replace(graph, partition=Partition(10**8), num_relations=20)
    with pytest.raises(DataError, match=r"too many rules .* set model.history.rule_bodies=0"):
        HistoryIndex(graph, history_config())
    HistoryIndex(replace(graph, partition=Partition(10**6), num_relations=1000), history_config())


@given(recurring_facts, st.randoms(use_true_random=False), st.integers(0, 8))
@settings(max_examples=30)
def test_the_order_of_the_facts_does_not_matter(rows, random, time):
    shuffled = rows.copy()
    random.shuffle(shuffled)
    indices = [history_before(graph_of(each), history_config(), time) for each in (rows, shuffled)]
    assert same_past(*indices, all_queries(time))
