"""Candidates divided over processes give the loss and the gradients of one process that has them all."""

import pytest
import torch

from gam_kg.distributed.sharded_softmax import Targets, sharded_cross_entropy
from gam_kg.distributed.topology import Topology

SMOOTHING = 0.1
ANSWERS = [[0, 3, 6], [1], [], [2, 6]]
# Columns of each rank; uneven, one rank with nothing, candidates in no order.
SHARDS = {
    2: [[0, 1, 2, 5], [6, 4, 3]],
    3: [[6, 0], [], [3, 1, 5, 4, 2]],
}


def all_scores() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(len(ANSWERS), 7, dtype=torch.float64, generator=generator)


def loss_and_gradient(topology: Topology, columns_of_ranks: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    columns = columns_of_ranks[topology.rank]
    scores = all_scores()[:, columns].requires_grad_()
    local = [
        (query, columns.index(answer)) for query, each in enumerate(ANSWERS) for answer in each if answer in columns
    ]
    query, candidate = torch.tensor(local, dtype=torch.int64).reshape(-1, 2).T
    targets = Targets(query, candidate, torch.tensor([len(each) for each in ANSWERS]))
    loss = sharded_cross_entropy(scores.clone(), targets, num_candidates=7, smoothing=SMOOTHING, topology=topology)
    return loss.detach(), torch.autograd.grad(2 * loss, scores)[0]


def told_topology(topology: Topology) -> tuple[int, int]:
    assert topology == Topology.current()
    return topology.rank, topology.world_size


@pytest.mark.parametrize("world_size", SHARDS)
def test_sharding_the_candidates_changes_neither_loss_nor_gradients(rank_pool, world_size: int) -> None:
    loss, gradient = loss_and_gradient(Topology(), [list(range(7))])
    found = rank_pool.run(world_size, loss_and_gradient, SHARDS[world_size])
    for columns, (found_loss, found_gradient) in zip(SHARDS[world_size], found, strict=True):
        torch.testing.assert_close(found_loss, loss, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found_gradient, gradient[:, columns], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("world_size", SHARDS)
def test_the_topology_is_that_of_the_process_group(rank_pool, world_size: int) -> None:
    assert rank_pool.run(world_size, told_topology) == [(rank, world_size) for rank in range(world_size)]
