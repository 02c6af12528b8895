"""What ranks look up together, as threads of one process, against one index of all facts."""

import torch
from graphs import NUM_ENTITIES, NUM_RELATIONS, graph_of, history_before
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_threads import ranks_in_threads
from strategies import recurring_facts

from gam_kg.config import HistoryConfig
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.history.index import HistoryIndex
from gam_kg.history.past_facts import PastFacts
from gam_kg.history.sharded import ShardedHistory

CONFIG = HistoryConfig(rule_bodies=0, rule_confidence=False)
world_sizes, buckets = st.integers(2, 3), st.integers(1, 12)
groups = st.lists(st.integers(0, NUM_ENTITIES - 1), max_size=6, unique=True)
limits = st.one_of(st.none(), st.integers(0, 4))


def rows_of(history: PastFacts, found, ids):
    """Group, relation, entity, last and count of each fact by subject, in order."""
    relation, row = found.item // history.num_rows, found.item % history.num_rows
    return list(zip(*(part.tolist() for part in (found.row, relation, ids[row], found.last, found.count)), strict=True))


def built(graph, communicator, end):
    shard = graph.shard(communicator.rank, communicator.world_size)
    history = ShardedHistory(shard, CONFIG, communicator)
    for snapshot in read_snapshots(shard, range(end), communicator):
        history.insert(snapshot)
    return history


@given(recurring_facts, st.integers(0, 8), world_sizes, buckets, groups, limits, limits)
@settings(max_examples=60)
def test_ranks_look_up_what_one_index_has_in_the_same_order(
    rows, end, world_size, buckets, subjects, of_subject, of_query
):
    graph = graph_of(rows, buckets)
    whole, subjects = history_before(graph, CONFIG, end), torch.tensor(subjects, dtype=torch.int64)
    queries = (subjects[:, None] * 2 * NUM_RELATIONS + torch.arange(2 * NUM_RELATIONS)).flatten()

    def look_up(history):
        by_subject, by_query = (history.by_subject, subjects, of_subject), (history.by_query, queries, of_query)
        return [rows_of(history, found, history.partition.ids) for found in history.recent(by_subject, by_query)]

    expected = look_up(whole)
    parts = ranks_in_threads(world_size, lambda communicator: look_up(built(graph, communicator, end)))
    owner = graph.shard(0, world_size).partition.owner
    for rank, found in enumerate(parts):
        for mine, theirs in zip(found, expected, strict=True):
            assert mine == [row for row in theirs if owner(torch.tensor(row[2])) == rank]


@given(recurring_facts, st.integers(0, 8), world_sizes, buckets, groups, st.integers(0, 4))
@settings(max_examples=60)
def test_what_goes_to_all_is_the_same_on_all(rows, end, world_size, buckets, subjects, limit):
    graph, subjects = graph_of(rows, buckets), torch.tensor(subjects, dtype=torch.int64)

    def look_up(history):
        found = history.look_up(history.by_subject, subjects, limit)
        (found,) = history.deliver((None, len(subjects), found))
        return [part.tolist() for part in (found.row, found.item, found.last, found.count)]

    expected = look_up(history_before(graph, CONFIG, end))
    parts = ranks_in_threads(world_size, lambda communicator: look_up(built(graph, communicator, end)))
    assert all(found == expected for found in parts)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), max_size=40),
    st.lists(st.integers(1, 4), min_size=4, max_size=4),
    world_sizes,
    st.booleans(),
)
@settings(max_examples=60)
def test_ranks_find_the_first_items_of_all(rows, limits, world_size, ties):
    graph, limits = graph_of([(0, 0, 1, 0)]), torch.tensor(limits)
    # Equal names of different entities have equal ties.
    items = [(*row, tie // 3 if ties else tie) for tie, row in enumerate(rows)]
    items = torch.tensor(items, dtype=torch.int64).reshape(-1, 4)
    first = HistoryIndex(graph, CONFIG).among_first(items, limits)

    def of_rank(communicator):
        history = ShardedHistory(graph.shard(communicator.rank, world_size), CONFIG, communicator)
        return history.among_first(items[communicator.rank :: world_size], limits)

    for rank, found in enumerate(ranks_in_threads(world_size, of_rank)):
        assert torch.equal(found, first[rank::world_size])


@given(recurring_facts, world_sizes, buckets)
@settings(max_examples=40)
def test_each_fact_is_found_by_the_owner_of_its_subject(rows, world_size, buckets):
    graph = graph_of(rows, buckets)
    whole, end = history_before(graph, CONFIG, graph.end), graph.end
    parts = ranks_in_threads(world_size, lambda communicator: built(graph, communicator, end))
    tables = [history.of_subjects for history in parts]
    keys, order = torch.cat([table.keys for table in tables]).sort()
    assert torch.equal(keys, whole.facts.keys)
    for name in ("last", "count"):
        assert torch.equal(torch.cat([getattr(table, name) for table in tables])[order], getattr(whole.facts, name))
    for history, table in zip(parts, tables, strict=True):
        assert history.partition.owns(table.keys // history.width // history.num_relations).all()
