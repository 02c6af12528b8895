"""What rules say together is what counting through the past in plain Python gives."""

from collections import Counter, defaultdict

import pytest
import torch
from columns import bin_of, confidence_columns, joined_of, layout_of
from graphs import Past, all_queries, graph_of, history_before, history_config
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_by_hand import pair_rules_by_hand, rules_by_hand, together_by_hand
from strategies import horizons, limits, recurring_facts

from gam_kg.history.confidence import BOUNDS, together
from gam_kg.history.pair_rules import PairRules


def rules_of_pairs(rows, end, now, limit):
    """(subject, relation, candidate) → confidences of rules of pairs."""
    exposures, hits = pair_rules_by_hand(rows, end, limit)
    past, queries, found = Past(rows, end), all_queries(now), defaultdict(list)
    for subject, relation in zip(queries.subject.tolist(), queries.relation.tolist(), strict=True):
        for seen, other, last, _ in past.facts_of(subject, limit):
            kind = relation, seen, bin_of(now - last)
            found[subject, relation, other].append(hits[kind] / (exposures[kind] + 30))
    return found


def rules_of_shared_facts(rows, end, num_bodies, fewest):
    """(subject, relation, candidate) → confidences of rules of shared facts with so many hits."""
    exposures, hits = rules_by_hand(rows, end, num_bodies)
    heads_of = defaultdict(list)
    for (*group, answer), number in hits.items():
        if number >= fewest:
            heads_of[tuple(group)].append((number, answer))
    past, queries, found = Past(rows, end), all_queries(end), defaultdict(list)
    for subject, relation in zip(queries.subject.tolist(), queries.relation.tolist(), strict=True):
        for seen, entity, *_ in past.facts_of(subject, num_bodies):
            group = seen, entity, relation
            for number, answer in heads_of[group]:
                found[subject, relation, answer].append(number / (exposures[group] + 30))
    return found


def triples(queries, query, row):
    return zip(queries.subject[query].tolist(), queries.relation[query].tolist(), row.tolist(), strict=True)


@given(recurring_facts, st.integers(0, 8), st.integers(0, 3), horizons, limits)
@settings(max_examples=60)
def test_rules_of_pairs_have_the_confidences_that_counting_by_hand_gives(rows, end, later, horizon, recent):
    history = history_before(graph_of(rows), history_config(recent=recent), end)
    queries = all_queries(end + later, horizon)
    pair, confidence = history.find(queries).pair_rules
    found = zip(triples(queries, pair // history.num_rows, pair % history.num_rows), confidence.tolist(), strict=True)
    expected = rules_of_pairs(rows, end, end + later, recent)
    assert Counter(found) == Counter((triple, one) for triple, some in expected.items() for one in some)


@given(recurring_facts, st.integers(0, 8), st.integers(0, 3), horizons, limits, limits)
@settings(max_examples=60)
def test_candidates_have_the_bins_of_what_their_rules_say_together(rows, end, later, horizon, recent, num_bodies):
    config = history_config(recent=recent, rule_bodies=num_bodies)
    history, queries = history_before(graph_of(rows), config, end), all_queries(end + later, horizon)
    joined = joined_of(history, queries)
    query, row, bin_ = confidence_columns(joined)
    of_pairs = rules_of_pairs(rows, end, end + later, recent)
    shared = rules_of_shared_facts(rows, end, num_bodies, config.rule_count)
    expected = {
        triple: sum(together_by_hand(of_pairs[triple], shared[triple]) >= bound for bound in BOUNDS.tolist())
        for triple in {*of_pairs, *shared}
    }
    found = list(zip(triples(queries, query, row), bin_.tolist(), strict=True))
    assert dict(found) == expected
    assert len(found) == len(expected)
    assert layout_of(history, joined).confidences is joined.confidences


some_rules = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 1)), max_size=40
)


@given(some_rules, st.none() | some_rules)
def test_rules_are_joined_pair_by_pair(of_pairs, shared):
    confidences = defaultdict(lambda: ([], []))
    for kind, rules in enumerate((of_pairs, shared or [])):
        for pair, confidence in rules:
            confidences[pair][kind].append(confidence)
    expected = {pair: together_by_hand(*confidences[pair]) for pair in sorted(confidences)}
    pair, probability = together(*(None if rules is None else as_tensors(rules) for rules in (of_pairs, shared)))
    assert pair.tolist() == list(expected)
    assert probability.tolist() == pytest.approx(list(expected.values()), abs=1e-12)


def as_tensors(rules):
    pair, confidence = zip(*rules, strict=True) if rules else ((), ())
    return torch.tensor(pair, dtype=torch.int64), torch.tensor(confidence, dtype=torch.float64)


@pytest.mark.parametrize("off", [{"rule_confidence": False}, {"recent": 0}])
def test_where_they_are_off_no_pair_is_counted(monkeypatch, off):
    def counted_all_the_same(*_):
        raise AssertionError

    monkeypatch.setattr(PairRules, "observe", counted_all_the_same)
    rows = [(0, 0, 1, time) for time in range(6)]
    history = history_before(graph_of(rows), history_config(**off), 6)
    joined = joined_of(history, all_queries(6))
    if "recent" in off:  # rules of shared facts remain
        assert not len(joined.found.pair_rules[0])
        assert len(joined.confidences.bin)
    else:
        assert joined.found.pair_rules is joined.confidences is layout_of(history, joined).confidences is None
