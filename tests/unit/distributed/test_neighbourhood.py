import pytest
import torch
from graphs import NUM_ENTITIES, graph_of, random_facts
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.distributed.neighbourhood import Neighbourhood

worlds = st.integers(1, 4)


def neighbourhoods(graph, time, world_size):
    """Snapshot, neighbourhood and partition of each rank."""
    shards = [graph.shard(rank, world_size) for rank in range(world_size)]
    return [
        (shard.snapshot(time), Neighbourhood.of(shard.snapshot(time), shard.partition), shard.partition)
        for shard in shards
    ]


def exchanged(found):
    """Ids that each rank receives, where each sends the ids of the rows it is asked for."""
    sent = [
        plan.entity[plan.halo.send].split(plan.halo.send_counts) if plan.halo else [plan.entity[:0]]
        for _, plan, _ in found
    ]
    return [torch.cat([parts[rank] for parts in sent]) for rank in range(len(found))]


@given(st.integers(0, 1000), st.integers(0, 60), st.integers(1, 8), worlds)
@settings(max_examples=60)
def test_ranks_send_each_other_the_rows_that_are_needed_in_the_order_expected(seed, size, buckets, world_size):
    graph = graph_of(random_facts(seed, size), buckets=buckets)
    for time in range(8):
        found = neighbourhoods(graph, time, world_size)
        halos = exchanged(found)
        for rank, (snapshot, plan, partition) in enumerate(found):
            if plan.halo is None:
                assert world_size == 1
                continue
            # What each rank expects of another is what that one sends, and of itself nothing.
            theirs = [other.halo.send_counts[rank] for _, other, _ in found]
            assert plan.halo.receive_counts == theirs
            assert plan.halo.send_counts[rank] == plan.halo.receive_counts[rank] == 0
            assert len(plan.halo.send) == sum(plan.halo.send_counts)
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
        found = neighbourhoods(graph, time, world_size)
        halos = exchanged(found)
        edges = 0
        for (snapshot, plan, partition), halo in zip(found, halos, strict=True):
            own = vectors[partition.ids][plan.active]
            sources = torch.cat([own, vectors[halo]])
            src, dst = plan.edges
            assert torch.equal(sources[src], vectors[snapshot.other])
            assert torch.equal(own[dst], vectors[snapshot.anchor])
            assert torch.equal(plan.entity, partition.ids[plan.active])
            assert torch.equal(plan.entity, snapshot.active)
            assert torch.equal(plan.relations[plan.edge_type], snapshot.relation)
            assert plan.time == time
            edges += len(src)
        assert edges == len(graph.snapshot(time))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_without_facts_and_empty_snapshots_have_empty_neighbourhoods(world_size):
    graph = graph_of([(0, 0, 1, 2), (1, 1, 1, 2)])
    for time in (1, 2):
        for snapshot, plan, _ in neighbourhoods(graph, time, world_size):
            assert len(plan.active) == len(snapshot.active)
            assert plan.edges.shape == (2, len(snapshot))
            assert plan.edges.dtype == torch.int64
            if plan.halo is not None and not len(snapshot):
                assert plan.halo.send_counts == plan.halo.receive_counts == [0] * world_size
                assert len(plan.halo.send) == 0
    empty = neighbourhoods(graph, 2, world_size)[2:]
    assert all(len(snapshot) == 0 for snapshot, _, _ in empty)
