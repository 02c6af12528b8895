"""Stored rules are those with enough hits; where they are too many, those with the number of hits that is logged."""

from collections import Counter

import pytest
import torch
from columns import rule_columns
from graphs import all_queries, graph_of, history_before, history_config, random_facts
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.graph.partition import Partition
from gam_kg.history import rule_keys
from gam_kg.history.index import HistoryIndex

NUM_ENTITIES = 7
parts_of_hits = st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=8)


def found_on(parts: list[list[int]], fewest: int, most: int, merged: int = 3) -> tuple[list[int], int]:
    """The frequent keys of a rank alone, merged after a few hits."""
    cells = rule_keys.RuleCells(Partition(NUM_ENTITIES, 3), most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule_keys, "MERGED_AT_ONCE", merged)
        keys, needed = rule_keys.frequent(
            lambda: (torch.tensor(part, dtype=torch.int64) for part in parts), fewest, most, cells, lambda value: value
        )
    return keys.tolist(), needed


def with_hits(parts: list[list[int]], fewest: int) -> list[int]:
    counts = Counter(key for part in parts for key in part)
    return sorted(key for key, count in counts.items() if count >= fewest)


@given(parts_of_hits, st.integers(1, 3))
@settings(max_examples=50)
def test_frequent_keys_are_those_of_all_parts(parts, fewest):
    assert found_on(parts, fewest, 100) == (with_hits(parts, fewest), fewest)


@given(parts_of_hits, st.integers(1, 3), st.integers(1, 30), st.integers(1, 20))
@settings(max_examples=200)
def test_where_there_are_too_many_keys_they_need_more_hits(parts, fewest, most, merged):
    keys, needed = found_on(parts, fewest, most, merged)
    assert needed >= fewest
    assert keys == with_hits(parts, needed)
    assert len(keys) <= most
    # It does not depend on how many hits are counted at once.
    assert (keys, needed) == found_on(parts, fewest, most, 1000)
    if len(with_hits(parts, 1)) <= rule_keys.COUNTED_PER_RULE * most:
        assert needed == fewest or len(with_hits(parts, needed - 1)) > most


@given(parts_of_hits, st.integers(1, 30))
@settings(max_examples=50)
def test_no_more_keys_are_counted_than_there_is_room_for(parts, most):
    add, sizes = rule_keys.KeyCounts.add, [0]

    def counted(self: rule_keys.KeyCounts, keys: torch.Tensor) -> None:
        sizes.append(len(self.keys))  # of what is left of those before
        add(self, keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule_keys.KeyCounts, "add", counted)
        found_on(parts, 1, most)
    assert max(sizes) <= rule_keys.COUNTED_PER_RULE * most


@pytest.mark.parametrize(("most", "needed"), [(600, 1), (300, 2)])
def test_how_many_hits_rules_need_is_logged(caplog, most, needed):
    graph = graph_of(random_facts(0, 120), buckets=5)
    index = HistoryIndex(graph, history_config(max_rules=most))
    assert index.rules is not None
    assert index.rules.fewest == needed
    lines = [f"rules that led to an answer less than {needed} times are left out"] if needed > 1 else []
    assert [record.getMessage().partition(", as")[0] for record in caplog.records] == lines
    if lines:
        assert f"model.history.max_rules={most}" in caplog.text


def test_a_bound_on_rules_finds_what_the_count_that_it_takes_finds():
    graph, queries = graph_of(random_facts(0, 120), buckets=5), all_queries(8)
    bounded, counted = (
        history_before(graph, history_config(**changes), 8) for changes in ({"max_rules": 300}, {"rule_count": 2})
    )
    found = [rule_columns(history, queries, 1, None) for history in (bounded, counted)]
    assert len(found[0][0]) > 100
    assert all(map(torch.equal, *found))
