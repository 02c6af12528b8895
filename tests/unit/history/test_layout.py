from collections import Counter

import torch
from columns import bin_of, counted, joined_of, layout_of, parts_of, popular_columns
from graphs import Past, all_queries, graph_of, history_before, history_config, snapshots_of
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import horizons, limits, recurring_facts

from gam_kg.history.bins import NUM_BINS
from gam_kg.history.layout import Slots, lay_out
from gam_kg.history.sampling import InclusionProbabilities, Sample
from gam_kg.ops.counter_rng import CounterRNG

probabilities = st.sampled_from([InclusionProbabilities(0.6, 0.3), InclusionProbabilities(1.0, 1.0)])


def popular_of(past, queries, limit):
    """(relation, other, recency, count) of the most recent objects of the queries' relations."""
    return Counter(
        (relation, other, bin_of(queries.now - last), bin_of(count))
        for relation in set(queries.relation.tolist())
        for other, last, count in past.popular(relation, limit)
    )


@given(recurring_facts, st.integers(0, 8), st.integers(0, 3), horizons, limits)
@settings(max_examples=60)
def test_popularity_is_what_a_walk_through_the_facts_finds(rows, end, later, horizon, popular):
    queries, past = all_queries(end + later, horizon), Past(rows, end)
    history = history_before(graph_of(rows), history_config(popular=popular), end)
    layout = layout_of(history, joined_of(history, queries))
    found = layout.popularity
    if popular == 0:
        assert found is None
        return
    assert found is not None
    assert set(layout.kinds.horizon.tolist()) == {horizon}
    assert found.num_kinds == len(queries.relation.unique())
    expected = popular_of(past, queries, popular)
    assert counted(popular_columns(layout)) == expected
    # Each query reads the objects of its own relation.
    position, object_ = found.by_query(layout.num_columns)
    query, column = position // layout.num_columns, position % layout.num_columns
    of_query = zip(query.tolist(), column.tolist(), found.columns.pattern.column[object_].tolist(), strict=True)
    assert Counter(of_query) == Counter(
        (query, other, recency * NUM_BINS + count)
        for query, own in enumerate(queries.relation.tolist())
        for relation, other, recency, count in expected
        if relation == own
    )


def sampled_layout(history, queries, sample, answers):
    joined = joined_of(history, queries, sample)
    slots = Slots.of(joined, answers, history.partition.num_rows, sample)
    return joined, slots, lay_out(history, joined, slots)


def draw(history, queries, num_negatives, probabilities, seed):
    known = history.find(queries).known_answers
    return Sample.draw(queries, num_negatives, known, probabilities, history.partition, CounterRNG(seed, 0))


@given(
    recurring_facts,
    st.integers(1, 8),
    limits,
    probabilities,
    st.sampled_from([1, 3, 50]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60)
def test_popularity_of_columns_and_of_pairs_apart_is_that_of_all(rows, end, popular, probabilities, number, random):
    graph = graph_of(rows)
    history = history_before(graph, history_config(popular=popular), end)
    queries = all_queries(end)
    order = list(range(len(queries)))
    random.shuffle(order)
    # Steps of a snapshot one after another, and then of the next.
    steps = [queries.select(torch.tensor(sorted(part))) for part in (order[:3], order[2:9], order[5:], order[:1])]
    for step in steps:
        check_popularity(history, step, draw(history, step, number, probabilities, end), Past(rows, end), popular)
    for snapshot in snapshots_of(graph, [time for time in graph.times if time == end]):
        history.insert(snapshot)
    later = all_queries(end + 1)
    check_popularity(history, later, draw(history, later, number, probabilities, end), Past(rows, end + 1), popular)


def check_popularity(history, queries, sample, past, popular):
    """That of columns, and of pairs apart: of those in the past, and then of all that there are."""
    expected, all_pairs = popular_of(past, queries, popular), torch.arange(len(queries) * history.num_rows)
    for answers in (all_pairs[:0], all_pairs):
        _, slots, layout = sampled_layout(history, queries, sample, answers)
        found, num_columns = layout.popularity, layout.num_columns
        assert (found is None) == (popular == 0)
        if found is None:
            continue
        relation, column, recency, count = popular_columns(layout)
        columns = set(sample.column_rows.tolist())
        assert counted((relation, sample.column_rows[column], recency, count)) == Counter(
            row for row in expected.elements() if row[1] in columns
        )
        relations = queries.relation.unique()
        assert torch.equal(relations[found.of_query], queries.relation)
        assert torch.equal(relations[found.cell // max(1, num_columns)], relation)
        apart, bins = slots.apart, found.apart.pattern.column
        position = layout.positions.popularity - slots.first_apart
        # The relation by which a pair is scored is that of its query.
        assert torch.equal(
            relations[found.apart.kind][found.apart.pattern.row],
            queries.relation[apart[position] // history.num_rows],
        )
        expected_apart = Counter(
            (pair, recency * NUM_BINS + count)
            for pair in apart.tolist()
            for relation, other, recency, count in expected
            if (relation, other) == (int(queries.relation[pair // history.num_rows]), pair % history.num_rows)
        )
        assert counted((apart[position], bins)) == expected_apart
        assert len(answers) == 0 or len(apart) == len(all_pairs)


@given(recurring_facts, st.integers(0, 8), limits, limits)
@settings(max_examples=60)
def test_walks_end_in_the_rows_of_their_candidates_and_are_added_at_their_pairs(rows, end, recent, second):
    history = history_before(graph_of(rows), history_config(recent=recent, two_hop_second=second), end)
    queries = all_queries(end)
    joined = joined_of(history, queries)
    layout, parts = layout_of(history, joined), parts_of(joined)
    assert (layout.num_queries, layout.num_columns) == (len(queries), history.num_rows)
    assert layout.columns is None
    assert layout.num_apart == 0
    assert torch.equal(layout.row, queries.subject)
    ends = {int(row) for walks, _ in parts.values() for row in walks.end}
    assert layout.ends.tolist() == sorted(ends)
    for name, (walks, _) in parts.items():
        assert torch.equal(layout.ends[getattr(layout, name).end], walks.end)
    # Against all candidates, a pair's position is that in the table.
    assert torch.equal(layout.all_positions, torch.cat([layout.all_positions[:0], *joined.pairs]))


@given(recurring_facts, st.integers(1, 8), probabilities, st.sampled_from([1, 3, 50]))
@settings(max_examples=60)
def test_pairs_apart_are_all_of_the_past_and_answers_and_their_columns_do_not_count(rows, end, probabilities, number):
    graph = graph_of(rows)
    history, queries = history_before(graph, history_config(popular=0), end), all_queries(end)
    sample, answers = draw(history, queries, number, probabilities, end), torch.tensor([3, 11, 40])
    joined, slots, layout = sampled_layout(history, queries, sample, answers)
    assert slots.apart.tolist() == sorted({pair for part in (answers, *joined.pairs) for pair in part.tolist()})
    assert torch.equal(layout.columns, sample.column_rows)
    assert torch.equal(layout.apart.row * history.num_rows + layout.apart.column, slots.apart)
    # First the pairs themselves, then what walks add to them.
    pairs = slots.apart[layout.all_positions - layout.num_queries * layout.num_columns]
    assert torch.equal(pairs, torch.cat([slots.apart, *joined.pairs]))
    assert torch.equal(slots.apart[slots.positions(answers) - slots.first_apart], answers)
    masked = slots.masked(joined.excluded)
    query, column = masked // layout.num_columns, masked % layout.num_columns
    expected = {int(pair) for pair in torch.cat([slots.apart, joined.excluded])}
    found = query * history.num_rows + sample.column_rows[column]
    columns = set(sample.column_rows.tolist())
    assert set(found.tolist()) == {pair for pair in expected if pair % history.num_rows in columns}


@given(recurring_facts, st.integers(0, 8), st.integers(2, 3), st.integers(1, 12))
@settings(max_examples=30)
def test_a_rank_lays_out_its_own_queries(rows, end, world_size, buckets):
    queries, owners = all_queries(end), []
    for rank in range(world_size):
        graph = graph_of(rows, buckets).shard(rank, world_size)
        history = history_before(graph, history_config(), end)
        layout = layout_of(history, joined_of(history, queries))
        assert (graph.partition.ids[layout.row] == layout.subject).all()
        owners += zip(layout.subject.tolist(), layout.relation.tolist(), strict=True)
    assert sorted(owners) == sorted(zip(queries.subject.tolist(), queries.relation.tolist(), strict=True))
