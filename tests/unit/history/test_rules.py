"""Rules are what counting through the past in plain Python gives."""

from collections import Counter, defaultdict

import pytest
import torch
from columns import bin_of, counted, joined_of, joined_rule_columns, rule_columns
from graphs import NUM_RELATIONS, Past, all_queries, graph_of, history_before, history_config, snapshots_of
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_by_hand import rules_by_hand
from strategies import recurring_facts

from gam_kg.history.index import HistoryIndex
from gam_kg.history.rule_walks import CONFIDENCES


@given(
    recurring_facts,
    st.integers(0, 8),
    st.integers(0, 2),
    st.sampled_from([1, 2, 3, 50]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([None, 0, 1, 2, 50]),
)
@settings(max_examples=100)
def test_rules_are_those_rules_by_hand(rows, end, later, num_bodies, stored, fewest, limit):
    exposures, hits = rules_by_hand(rows, end, num_bodies)
    heads_of = defaultdict(list)
    for (*group, answer), count in hits.items():
        if count >= max(stored, fewest):
            heads_of[tuple(group)].append((count, answer))
    past, queries, expected = Past(rows, end), all_queries(end + later), Counter()
    for query, (subject, relation) in enumerate(zip(queries.subject.tolist(), queries.relation.tolist(), strict=True)):
        for body_relation, entity, _, _ in past.facts_of(subject, num_bodies):
            group = body_relation, entity, relation
            heads = sorted(heads_of[group], reverse=True)
            for count, answer in heads if limit is None else heads[:limit]:
                expected[query, answer, body_relation, entity, count, exposures[group]] += 1
    history = history_before(graph_of(rows), history_config(rule_bodies=num_bodies, rule_count=stored), end)
    columns = rule_columns(history, queries, fewest, limit)
    assert Counter(zip(*(column.tolist() for column in columns), strict=True)) == expected


@given(recurring_facts, st.booleans())
@settings(max_examples=30)
def test_what_was_looked_up_before_does_not_matter(rows, of_all):
    graph = graph_of(rows)
    used, unused = (HistoryIndex(graph, history_config()) for _ in range(2))
    for snapshot in snapshots_of(graph):
        queries = snapshot.queries if of_all else snapshot.queries.select(torch.arange(0, len(snapshot.queries), 2))
        used.find(queries)
        for index in (used, unused):
            index.insert(snapshot)
    queries = all_queries(graph.end)
    assert all(map(torch.equal, rule_columns(used, queries, 1, None), rule_columns(unused, queries, 1, None)))


@given(recurring_facts, st.integers(0, 8), st.integers(1, 3))
@settings(max_examples=30)
def test_rules_are_joined_to_queries_by_kind(rows, end, limit):
    history, queries = history_before(graph_of(rows), history_config(rule_heads=limit), end), all_queries(end)
    last = {(s, r, o): times for (s, r, o), times in Past(rows, end).seen.items()}
    expected = Counter()
    for query, row, relation, entity, hits, exposures in zip(
        *(column.tolist() for column in rule_columns(history, queries, 2, limit)), strict=True
    ):
        recency = end - max(last[int(queries.subject[query]), relation, entity])
        confidence = next(at for at, bound in enumerate(CONFIDENCES) if hits / (exposures + 30) <= bound)
        kind = (bin_of(hits) * len(CONFIDENCES) + confidence) * 2 + (row == entity)
        expected[query, row, relation, bin_of(recency), kind] += 1
    assert counted(joined_rule_columns(joined_of(history, queries))) == expected


def test_a_rule_joins_subjects_that_share_a_body():
    # Whoever met 7 meets 8 next; 2 has met 7 only.
    rows = [(0, 0, 7, 0), (0, 1, 8, 1), (1, 0, 7, 2), (1, 1, 8, 3), (2, 0, 7, 4)]
    history = history_before(graph_of(rows), history_config(), 5)
    found = list(zip(*(column.tolist() for column in rule_columns(history, all_queries(5), 2, None)), strict=True))
    query = 2 * 2 * NUM_RELATIONS + 1  # (2, 1, ?)
    assert [row[1:] for row in found if row[0] == query] == [(8, 0, 7, 2, 2)]


def test_without_rules_nothing_is_stored():
    history = history_before(graph_of([(0, 0, 1, 0), (0, 0, 1, 1)]), history_config(rule_bodies=0), 2)
    assert history.rules is None
    with pytest.raises(ValueError, match="rules are switched off"):
        history.heads(history.bodies(all_queries(2)))


@given(recurring_facts, st.booleans())
@settings(max_examples=30)
def test_inserting_looks_up_what_was_not_just_found_and_nothing_else(rows, of_all):
    graph = graph_of(rows)
    index, subjects = HistoryIndex(graph, history_config()), []
    look_up = index.by_subject.recent

    def counted_look_up(groups, limit):
        subjects.append(groups)
        return look_up(groups, limit)

    index.by_subject.recent = counted_look_up
    for snapshot in snapshots_of(graph):
        index.find(snapshot.queries if of_all else all_queries(snapshot.time))
        subjects.clear()
        index.insert(snapshot)
        own = snapshot.queries.subject.unique()
        just_found = own if of_all else all_queries(snapshot.time).subject.unique()
        assert len(subjects) == (0 if torch.equal(own, just_found) else 1)
        assert all(torch.equal(own, looked_up) for looked_up in subjects)
