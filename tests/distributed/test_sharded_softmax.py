"""Candidates divided over processes give the loss and the gradients of one process that has them all."""

import pytest
import torch

from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.cross_entropy import Targets, sharded_cross_entropy

SMOOTHING = 0.1
ANSWERS = [[0, 3, 6], [1], [], [2, 6]]
# Columns of each rank; uneven, one rank with nothing, candidates in no order.
SHARDS = {
    2: [[0, 1, 2, 5], [6, 4, 3]],
    3: [[6, 0], [], [3, 1, 5, 4, 2]],
}
# Query and candidate of pairs that are scored apart, all answers among them, and of others that are masked.
APART = [(0, 0), (0, 3), (0, 4), (0, 6), (1, 1), (1, 5), (2, 2), (3, 2), (3, 6)]
MASKED = [(0, 1), (2, 0), (3, 5)]


def all_scores() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(len(ANSWERS), 7, dtype=torch.float64, generator=generator)


def loss_and_gradient(
    communicator: Communicator, columns_of_ranks: list[list[int]], sampled: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, and gradient of the rank's columns (num_queries, num_columns)."""
    columns = columns_of_ranks[communicator.rank]
    apart = [pair for pair in APART if sampled and pair[1] in columns]
    scores = all_scores().requires_grad_()
    table = scores[:, columns]
    vector = torch.cat([table.flatten(), *(scores[query, column].view(1) for query, column in apart)])
    answers = [(query, answer) for query, each in enumerate(ANSWERS) for answer in each if answer in columns]

    def in_table(query: int, column: int) -> int:
        return query * len(columns) + columns.index(column)

    positions = [table.numel() + apart.index(pair) if sampled else in_table(*pair) for pair in answers]
    log_weight, log_weight_apart, masked = None, None, []
    if sampled:
        log_weight = torch.tensor([0.1 * (column + 1) for column in columns])
        log_weight_apart = torch.tensor([0.2 * query for query, _ in apart])
        masked = [in_table(*pair) for pair in [*apart, *MASKED] if pair[1] in columns]
    targets = Targets(
        num_queries=len(ANSWERS),
        num_columns=len(columns),
        num_candidates=7,
        query=torch.tensor([query for query, _ in answers], dtype=torch.int64),
        position=torch.tensor(positions, dtype=torch.int64),
        answers_per_query=torch.tensor([len(each) for each in ANSWERS]),
        apart_query=torch.tensor([query for query, _ in apart], dtype=torch.int64),
        log_weight=log_weight,
        log_weight_apart=log_weight_apart,
        masked=torch.tensor(masked, dtype=torch.int64),
    )
    loss = sharded_cross_entropy(vector, targets, smoothing=SMOOTHING, communicator=communicator)
    return loss.detach(), torch.autograd.grad(2 * loss, scores)[0][:, columns]


def rank_and_world_size(communicator: Communicator) -> tuple[int, int]:
    assert communicator == Communicator.current()
    return communicator.rank, communicator.world_size


@pytest.mark.parametrize("world_size", SHARDS)
@pytest.mark.parametrize("sampled", [False, True])
def test_sharding_the_candidates_changes_neither_loss_nor_gradients(rank_pool, world_size: int, sampled: bool) -> None:
    loss, gradient = loss_and_gradient(Communicator(), [list(range(7))], sampled)
    found = rank_pool.run(world_size, loss_and_gradient, SHARDS[world_size], sampled)
    for columns, (found_loss, found_gradient) in zip(SHARDS[world_size], found, strict=True):
        torch.testing.assert_close(found_loss, loss, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found_gradient, gradient[:, columns], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("world_size", SHARDS)
def test_the_communicator_is_that_of_the_process_group(rank_pool, world_size: int) -> None:
    assert rank_pool.run(world_size, rank_and_world_size) == [(rank, world_size) for rank in range(world_size)]
