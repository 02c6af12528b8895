import pytest
import torch
from graphs import NUM_ENTITIES, graph_of, random_facts
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.graph.message_graph import MessageGraph

worlds = st.integers(1, 4)


def message_graphs(graph, time, world_size):
    """Snapshot, message graph and partition of each rank."""
    shards = [graph.shard(rank, world_size) for rank in range(world_size)]
    return [
        (shard.snapshot(time), MessageGraph.of(shard.snapshot(time), shard.partition), shard.partition)
        for shard in shards
    ]


def exchanged(found):
    """Ids that each rank receives, where each sends the ids of the rows that others need."""
    sent = []
    for _, messages, partition in found:
        ids = partition.ids[messages.active]
        sent.append(ids[messages.halo.send].split(messages.halo.send_counts) if messages.halo else [ids[:0]])
    return [torch.cat([parts[rank] for parts in sent]) for rank in range(len(found))]


@given(st.integers(0, 1000), st.integers(0, 60), st.integers(1, 8), worlds)
@settings(max_examples=60)
def test_ranks_send_each_other_the_rows_that_are_needed_in_the_order_expected(seed, size, buckets, world_size):
    graph = graph_of(random_facts(seed, size), buckets=buckets)
    for time in range(8):
        found = message_graphs(graph, time, world_size)
        halos = exchanged(found)
        for rank, (snapshot, messages, partition) in enumerate(found):
            if messages.halo is None:
                assert world_size == 1
                continue
            # What each rank expects of another is what that one sends, and of itself nothing.
            theirs = [other.halo.send_counts[rank] for _, other, _ in found]
            assert messages.halo.receive_counts == theirs
            assert messages.halo.send_counts[rank] == messages.halo.receive_counts[rank] == 0
            assert len(messages.halo.send) == sum(messages.halo.send_counts)
            # Each remote neighbour comes once, by owner and id.
            remote = set(snapshot.other[~partition.owns(snapshot.other)].tolist())
            expected = sorted(remote, key=lambda entity: (int(partition.owner(torch.tensor(entity))), entity))
            assert halos[rank].tolist() == expected


@given(st.integers(0, 1000), st.integers(0, 60), st.integers(1, 8), worlds)
@settings(max_examples=60)
def test_after_the_exchange_every_edge_starts_at_the_vector_of_the_other(seed, size, buckets, world_size):
    graph = graph_of(random_facts(seed, size), buckets=buckets)
    vectors = torch.randn(NUM_ENTITIES, 3, generator=torch.Generator().manual_seed(seed))
    for time in range(8):
        found = message_graphs(graph, time, world_size)
        halos = exchanged(found)
        edges = 0
        for (snapshot, messages, partition), halo in zip(found, halos, strict=True):
            own = vectors[partition.ids][messages.active]
            sources = torch.cat([own, vectors[halo]])
            src, dst = messages.src, messages.dst
            assert torch.equal(sources[src], vectors[snapshot.other])
            assert torch.equal(own[dst], vectors[snapshot.anchor])
            assert torch.equal(partition.ids[messages.active], snapshot.active)
            assert torch.equal(messages.relations[messages.edge_type], snapshot.relation)
            assert messages.time == time
            edges += len(src)
        assert edges == len(graph.snapshot(time))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_without_facts_and_empty_snapshots_have_empty_message_graphs(world_size):
    graph = graph_of([(0, 0, 1, 2), (1, 1, 1, 2)])
    for time in (1, 2):
        for snapshot, messages, _ in message_graphs(graph, time, world_size):
            assert len(messages.active) == len(snapshot.active)
            for end in (messages.src, messages.dst):
                assert end.shape == (len(snapshot),)
                assert end.dtype == torch.int64
            if messages.halo is not None and not len(snapshot):
                assert messages.halo.send_counts == messages.halo.receive_counts == [0] * world_size
                assert len(messages.halo.send) == 0
    empty = message_graphs(graph, 2, world_size)[2:]
    assert all(len(snapshot) == 0 for snapshot, _, _ in empty)
