"""The process group of ranks that a launcher such as torchrun has started."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from gam_kg.distributed.communicator import Communicator

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def backend(use_gpu: bool) -> str:
    """The backend of `torch.distributed`: NCCL for tensors on GPUs, gloo for those on CPUs."""
    return "cpu:gloo,cuda:nccl" if use_gpu else "gloo"


@contextmanager
def process_group(*, use_gpu: bool) -> Generator[tuple[Communicator, torch.device]]:
    """Join the process group of the environment (RANK, WORLD_SIZE, MASTER_ADDR); a world of one if RANK is unset.

    Yields communicator and device; binds CPU ranks to cores, and gloo to loopback if MASTER_ADDR is.

    Args:
        use_gpu: Whether to compute on a GPU.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Communicator(), device
        return
    if os.environ.get("MASTER_ADDR", "") in _LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    if not use_gpu:
        _bind_to_cpus(local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    dist.init_process_group(backend(use_gpu), timeout=timedelta(minutes=30))
    try:
        yield Communicator.current(), device
    finally:
        dist.destroy_process_group()


def _bind_to_cpus(local_rank: int, local_world_size: int) -> None:
    """Bind a rank to its share of the CPUs: ranks wait for each other, so one that loses its CPU delays all."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if share := len(cpus) // local_world_size:
        os.sched_setaffinity(0, cpus[local_rank * share : (local_rank + 1) * share])
