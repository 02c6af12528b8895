"""Candidates divided over processes give the loss and the gradients of one process that has them all."""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from gam_kg.distributed.sharded_softmax import Targets, sharded_cross_entropy
from gam_kg.distributed.topology import Topology

SECONDS = 90
SMOOTHING = 0.1
ANSWERS = [[0, 3, 6], [1], [], [2, 6]]
# Columns of each rank; uneven, one rank with nothing, candidates in no order.
SHARDS = {
    2: [[0, 1, 2, 5], [6, 4, 3]],
    3: [[6, 0], [], [3, 1, 5, 4, 2]],
}


def all_scores() -> torch.Tensor:
    torch.manual_seed(0)
    return 3 * torch.randn(len(ANSWERS), 7, dtype=torch.float64)


def loss_and_gradient(columns: list[int], topology: Topology) -> tuple[torch.Tensor, torch.Tensor]:
    scores = all_scores()[:, columns].requires_grad_()
    local = [
        (query, columns.index(answer)) for query, each in enumerate(ANSWERS) for answer in each if answer in columns
    ]
    query, candidate = torch.tensor(local, dtype=torch.int64).reshape(-1, 2).T
    targets = Targets(query, candidate, torch.tensor([len(each) for each in ANSWERS]))
    loss = sharded_cross_entropy(scores.clone(), targets, num_candidates=7, smoothing=SMOOTHING, topology=topology)
    return loss.detach(), torch.autograd.grad(2 * loss, scores)[0]


def run_rank(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=SECONDS),
    )
    try:
        topology = Topology.current()
        assert topology == Topology(rank, world_size)
        torch.save(loss_and_gradient(SHARDS[world_size][rank], topology), f"{folder}/rank-{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("world_size", SHARDS)
def test_sharding_the_candidates_changes_neither_loss_nor_gradients(world_size: int, tmp_path: Path) -> None:
    context = mp.start_processes(run_rank, (world_size, str(tmp_path)), world_size, join=False, start_method="spawn")
    assert context is not None
    try:
        deadline = time.monotonic() + SECONDS
        while not context.join(timeout=1):  # one call returns as soon as any rank has ended
            assert time.monotonic() < deadline, "the ranks did not end in time"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    loss, gradient = loss_and_gradient(list(range(7)), Topology())
    for rank, columns in enumerate(SHARDS[world_size]):
        found_loss, found_gradient = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found_loss, loss, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found_gradient, gradient[:, columns], rtol=1e-10, atol=1e-10)
