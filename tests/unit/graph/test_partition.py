import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.graph.partition import Partition

sizes, bucket_counts, world_sizes = st.integers(0, 200), st.integers(1, 20), st.integers(1, 25)


def shards(num_entities, buckets, world_size):
    return [Partition(num_entities, buckets, rank, world_size) for rank in range(world_size)]


@given(sizes, bucket_counts, world_sizes)
def test_shards_are_disjoint_and_cover_all_entities(num_entities, buckets, world_size):
    parts, every = shards(num_entities, buckets, world_size), torch.arange(num_entities)
    assert sorted(torch.cat([part.ids for part in parts]).tolist()) == every.tolist()
    for part in parts:
        assert part.ids.dtype == torch.int64
        assert part.ids.tolist() == sorted(part.ids.tolist())
        assert part.num_rows == len(part.ids)
        assert part.ids.tolist() == every[part.owns(every)].tolist()
        assert (part.owner(part.ids) == part.rank).all()


@given(sizes, bucket_counts, world_sizes)
def test_a_bucket_has_one_owner(num_entities, buckets, world_size):
    every = torch.arange(num_entities)
    owner = Partition(num_entities, buckets, 0, world_size).owner(every)
    assert torch.equal(owner, every % buckets % world_size)


@given(sizes, bucket_counts, world_sizes)
def test_a_row_is_the_place_among_the_ids_of_the_owner(num_entities, buckets, world_size):
    parts, every = shards(num_entities, buckets, world_size), torch.arange(num_entities)
    for part in parts:  # any rank knows the rows of all
        owner, row = part.owner(every), part.rows(every)
        ids = [parts[int(rank)].ids[int(place)] for rank, place in zip(owner, row, strict=True)]
        assert [int(one) for one in ids] == every.tolist()
        assert torch.equal(part.rows(part.ids), torch.arange(part.num_rows))


@given(sizes, bucket_counts, world_sizes)
def test_no_shard_is_larger_than_that_of_rank_0(num_entities, buckets, world_size):
    parts = shards(num_entities, buckets, world_size)
    rows = [part.num_rows for part in parts]
    assert rows[0] == max(rows)
    assert {part.most_rows for part in parts} == {rows[0]}


@given(sizes, bucket_counts)
def test_a_world_of_one_has_every_entity_in_its_own_row(num_entities, buckets):
    part, every = Partition(num_entities, buckets), torch.arange(num_entities)
    assert torch.equal(part.ids, every)
    assert torch.equal(part.rows(every), every)
    assert part.owns(every).all()
    assert (part.num_rows, part.most_rows) == (num_entities, num_entities)


def test_the_rows_of_a_shard_are_counted_without_being_made():
    parts = shards(10**15, 64, 3)
    assert sum(part.num_rows for part in parts) == 10**15
    assert {part.most_rows for part in parts} == {parts[0].num_rows}
    assert Partition(10**15).num_rows == 10**15


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_outside_its_world_is_refused(rank, world_size):
    with pytest.raises(ValueError, match=f"rank {rank}"):
        Partition(10, 4, rank, world_size)
