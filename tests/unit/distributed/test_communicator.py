import pytest
import torch

from gam_kg.distributed.communicator import Communicator


def test_without_a_process_group_there_is_a_world_of_one():
    assert Communicator.current() == Communicator() == Communicator(rank=0, world_size=1)


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_outside_its_world_is_refused(rank, world_size):
    with pytest.raises(ValueError, match=f"rank {rank}"):
        Communicator(rank, world_size)


def test_a_world_of_one_reduces_nothing():
    value = torch.tensor([1.0, -2.0])
    assert Communicator().sum(value, "test") is value
    assert Communicator().max(value, "test") is value
    assert value.tolist() == [1, -2]
