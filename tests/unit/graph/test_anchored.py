import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.graph.anchored import anchored_facts, bucket_of, buckets_of_rank
from gam_kg.graph.snapshot import inverse_relation


def test_each_fact_is_anchored_at_its_object_and_inverse_at_its_subject():
    anchor, relation, other = anchored_facts(np.array([0, 4]), np.array([1, 2]), np.array([3, 4]), num_relations=5)
    rows = list(zip(anchor.tolist(), relation.tolist(), other.tolist(), strict=True))
    assert rows == [(3, 1, 0), (4, 2, 4), (0, 6, 3), (4, 7, 4)]


@given(st.integers(1, 50), st.data())
def test_the_inverse_of_the_inverse_is_the_relation(num_relations, data):
    relation = torch.tensor(data.draw(st.lists(st.integers(0, 2 * num_relations - 1))), dtype=torch.int64)
    once = inverse_relation(relation, num_relations)
    assert ((once >= num_relations) != (relation >= num_relations)).all()
    assert torch.equal(inverse_relation(once, num_relations), relation)


@given(st.integers(1, 50), st.data())
def test_the_second_anchored_fact_has_the_inverse_relation(num_relations, data):
    relation = np.array(data.draw(st.lists(st.integers(0, num_relations - 1))), np.int64)
    _, found, _ = anchored_facts(relation, relation, relation, num_relations)
    expected = inverse_relation(torch.from_numpy(relation), num_relations)
    assert torch.equal(torch.from_numpy(found[len(relation) :]), expected)


@given(
    facts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(0, 40))),
    buckets=st.integers(1, 20),
    world_size=st.integers(1, 25),
)
def test_every_anchored_fact_belongs_to_exactly_one_rank(facts, buckets, world_size):
    subject, relation, object = np.array(facts, np.int64).reshape(-1, 3).T
    anchor, _, _ = anchored_facts(subject, relation, object, num_relations=4)
    ranks = [buckets_of_rank(buckets, rank, world_size) for rank in range(world_size)]
    owners = np.stack([np.isin(bucket_of(anchor, buckets), owned) for owned in ranks])
    assert len(anchor) == 2 * len(facts)
    assert (owners.sum(axis=0) == 1).all()
    assert sorted(np.concatenate(ranks).tolist()) == list(range(buckets))


@given(st.integers(1, 64), st.integers(1, 64))
def test_ranks_differ_by_at_most_one_bucket(buckets, world_size):
    sizes = [len(buckets_of_rank(buckets, rank, world_size)) for rank in range(world_size)]
    assert max(sizes) - min(sizes) <= 1


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(ValueError, match="rank=2"):
        buckets_of_rank(8, 2, 2)
