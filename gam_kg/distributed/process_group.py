"""The process group of ranks that a launcher such as torchrun has started."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from gam_kg.distributed.topology import Topology

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@contextmanager
def process_group(*, use_gpu: bool, minutes: float = 30) -> Generator[tuple[Topology, torch.device]]:
    """Join the ranks that the environment names (RANK, WORLD_SIZE, MASTER_ADDR), or be alone where it names none.

    NCCL on GPUs, one a rank of the machine; gloo on CPUs, bound to loopback where the master is there.

    Args:
        use_gpu: Whether to compute on a GPU.
        minutes: How long a collective waits for the other ranks before it fails.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Topology(), device
        return
    if os.environ.get("MASTER_ADDR", "") in _LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    if not use_gpu:
        _keep_to_own_cpus(local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    dist.init_process_group("nccl" if use_gpu else "gloo", timeout=timedelta(minutes=minutes))
    try:
        yield Topology.current(), device
    finally:
        dist.destroy_process_group()


def _keep_to_own_cpus(local_rank: int, local_world_size: int) -> None:
    """Ranks wait for each other at every step: one that is moved off its CPU holds up all."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cpus = sorted(os.sched_getaffinity(0))
    share = len(cpus) // local_world_size
    if share:
        os.sched_setaffinity(0, cpus[local_rank * share : (local_rank + 1) * share])
