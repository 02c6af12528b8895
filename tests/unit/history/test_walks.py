import math
from collections import Counter

import torch
from columns import (
    bin_of,
    confidence_columns,
    counted,
    fact_columns,
    joined_of,
    joined_rule_columns,
    pair_columns,
    parts_of,
    path_columns,
)
from graphs import NUM_ENTITIES, Past, all_queries, graph_of, history_before, history_config, queries_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_past import features_of, unpacked
from strategies import horizons, limits, recurring_facts

from gam_kg.graph.partition import Partition
from gam_kg.history.bins import NUM_BINS, log_bin
from gam_kg.history.index import HistoryIndex
from gam_kg.history.pair_features import PARTS
from gam_kg.history.sampling import InclusionProbabilities, Sample
from gam_kg.history.walks import UniqueRows
from gam_kg.ops.counter_rng import CounterRNG


def test_log_bins_follow_the_formula():
    values = [*range(70_000), 10**6, 10**9, 10**12]

    def formula(x):
        return min(x if x < 6 else int(5 + 2 * math.log2(x / 5) + 0.5), NUM_BINS - 1)

    assert log_bin(torch.tensor(values)).tolist() == [formula(x) for x in values]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 2), st.integers(0, 2)), max_size=30))
def test_unique_rows_are_the_rows_each_stored_once(rows):
    columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).T.contiguous()
    found = UniqueRows.of(tuple(columns))
    assert torch.equal(torch.stack(found.columns)[:, found.index], columns)
    assert len(found.columns[0]) == len(set(rows))


def past_facts(past, subject, relation, config):
    """(relation, other, last, count, same) of the facts that a query attends over."""
    recent = past.facts_of(subject, config.recent)
    different = [(*row, False) for row in recent if row[0] != relation or config.same_relation == 0]
    same = past.answers_of(subject, relation, config.same_relation)
    return different + [(relation, other, last, count, True) for other, last, count in same]


@given(recurring_facts, st.integers(0, 8), st.integers(0, 3), horizons, limits, limits)
@settings(max_examples=60)
def test_facts_and_pairs_are_those_a_walk_through_the_facts_finds(rows, end, later, horizon, recent, same_relation):
    config = history_config(recent=recent, same_relation=same_relation)
    now, past = end + later, Past(rows, end)
    queries = all_queries(now, horizon)
    history = history_before(graph_of(rows), config, end)
    parts = parts_of(joined_of(history, queries))
    if recent == same_relation == 0:
        assert "facts" not in parts
        return

    walks = Counter()
    for query, (subject, relation) in enumerate(zip(queries.subject.tolist(), queries.relation.tolist(), strict=True)):
        for seen, other, last, count, same in past_facts(past, subject, relation, config):
            recency, count = bin_of(now - last), bin_of(count)
            walks[query, other, seen, recency, count, int(same)] += 1
    found, pairs = parts["facts"]
    assert counted(fact_columns(found)) == walks
    query, other, kind, *columns = pair_columns(found, pairs, history.num_rows)
    assert torch.equal(queries.relation.unique()[kind], queries.relation[query])
    rows = zip(query.tolist(), other.tolist(), *(column.tolist() for column in columns), strict=True)
    features = {row[:2]: dict(zip(PARTS, map(unpacked, PARTS, row[2:]), strict=True)) for row in rows}
    assert len(features) == len(pairs)
    pairs = enumerate(zip(queries.subject.tolist(), queries.relation.tolist(), strict=True))
    expected = {
        (query, other): features_of(past, pair, other, now, config)
        for query, pair in pairs
        for other in range(NUM_ENTITIES)
    }
    assert features == {pair: one for pair, one in expected.items() if one is not None}


@given(recurring_facts, st.integers(0, 8), st.integers(0, 3), horizons, limits, limits, limits)
@settings(max_examples=100)
def test_paths_are_those_a_walk_through_the_facts_finds(rows, end, later, horizon, first, second, newest):
    now, past = end + later, Past(rows, end)
    queries = all_queries(now, horizon)
    config = history_config(two_hop_first=first, two_hop_second=second, two_hop_newest=newest)
    history = history_before(graph_of(rows), config, end)
    parts = parts_of(joined_of(history, queries))
    if first == 0 or second == 0:
        assert "paths" not in parts
        return

    expected = Counter()
    for query, subject in enumerate(queries.subject.tolist()):
        for r1, neighbour, last1, _ in past.facts_of(subject, first):
            for r2, other, last2, count2 in past.ends_of(neighbour, config):
                if other != subject:
                    recencies = bin_of(now - last1), bin_of(now - last2)
                    expected[query, other, r1, recencies[0], r2, recencies[1], bin_of(count2)] += 1
    found, pairs = parts["paths"]
    assert counted(path_columns(found)) == expected
    found_pairs = counted(pair_columns(found, pairs, history.num_rows))
    assert found_pairs == Counter({row[:2] for row in expected})


probabilities = st.sampled_from(
    [InclusionProbabilities(0.6, 0.3), InclusionProbabilities(1.0, 0.3), InclusionProbabilities(1.0, 1.0)]
)


@given(recurring_facts, st.integers(1, 8), limits, limits, probabilities, st.integers(1, 12))
@settings(max_examples=60)
def test_walks_of_a_sample_are_those_of_all_whose_candidates_are_drawn(
    rows, end, recent, same_relation, probabilities, num_negatives
):
    config = history_config(recent=recent, same_relation=same_relation)
    graph = graph_of(rows)
    history, queries = history_before(graph, config, end), all_queries(end)
    found = history.find(queries)
    sample = Sample.draw(
        queries, num_negatives, found.known_answers, probabilities, Partition(graph.num_entities), CounterRNG(end, 0)
    )
    whole, drawn = joined_of(history, queries), joined_of(history, queries, sample)
    assert parts_of(whole).keys() == parts_of(drawn).keys()
    left_out = set()
    for name, columns_of in (("facts", fact_columns), ("paths", path_columns)):
        if name not in parts_of(whole):
            continue
        (walks, pairs), (found_walks, found_pairs) = parts_of(whole)[name], parts_of(drawn)[name]
        query, row = pairs // history.num_rows, pairs % history.num_rows
        is_drawn = sample.includes(queries.subject[query], row, sample.draws(row))
        assert torch.equal(found_pairs, pairs[is_drawn])
        expected = zip(*(column[is_drawn[walks.pair]].tolist() for column in columns_of(walks)), strict=True)
        assert counted(columns_of(found_walks)) == Counter(expected)
        in_columns = torch.isin(row, sample.column_rows)
        left_out |= set(pairs[~is_drawn & in_columns].tolist())
        features = [pair_columns(*part, history.num_rows)[2:] for part in ((walks, pairs), (found_walks, found_pairs))]
        for of_all, of_drawn in zip(*features, strict=True):
            assert torch.equal(of_drawn, of_all[is_drawn])
    for columns_of in (joined_rule_columns, confidence_columns):
        query, row, *_ = columns = columns_of(whole)
        is_drawn = sample.includes(queries.subject[query], row, sample.draws(row))
        assert counted(columns_of(drawn)) == counted(column[is_drawn] for column in columns)
        left_out |= set((query * history.num_rows + row)[~is_drawn & torch.isin(row, sample.column_rows)].tolist())
    assert set(drawn.excluded.tolist()) == left_out
    assert not len(whole.excluded)


def test_snapshot_numbers_may_be_large():
    time = 2**31 + 5
    facts = [(0, 0, 1, 0), (0, 0, 2, time), (0, 0, 1, 3 * time)]
    history = history_before(graph_of(facts), history_config(), 3 * time)
    walks, _ = parts_of(joined_of(history, queries_of([(0, 0)], 3 * time)))["facts"]
    _, _, _, recency, _, same = fact_columns(walks)
    assert sorted(recency[same == 1].tolist()) == sorted([bin_of(3 * time), bin_of(2 * time)])


def test_no_queries_find_nothing():
    history = HistoryIndex(graph_of([(0, 0, 1, 0)]), history_config())
    walks, pairs = parts_of(joined_of(history, queries_of([], 3)))["facts"]
    assert len(pairs) == len(walks.query) == len(walks.pair) == 0
