"""The process group of ranks: they meet at rank 0, and listen at one address of their machine each.

Nothing in the traffic of ranks is encrypted or authenticated: it belongs on loopback or on a network that is trusted.
"""

import os
import socket
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import ConfigError

# How long ranks wait at the start for each other.
_JOIN_TIMEOUT = timedelta(minutes=10)
# How long a collective waits for the other ranks before its rank counts as failed.
_COLLECTIVE_TIMEOUT = timedelta(minutes=30)
_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


@contextmanager
def process_group(*, use_gpu: bool) -> Generator[tuple[Communicator, torch.device]]:
    """Join the ranks that a launcher such as torchrun has started; a world of one if RANK is unset.

    Goes by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of the environment. Yields communicator and device; binds
    ranks on CPUs to cores, and ranks on GPUs to the cores beside their GPU.

    Args:
        use_gpu: Whether to compute on a GPU.

    Raises:
        ConfigError: The environment is incomplete, rank 0 cannot listen there, or the ranks do not reach each other.
    """
    local_rank = _number("LOCAL_RANK", 0)
    device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Communicator(), device
        return
    if use_gpu:
        bind_beside(device)
    else:
        _bind_to_cpus(local_rank, _number("LOCAL_WORLD_SIZE", 1))
    rank, world_size, port = _number("RANK"), _number("WORLD_SIZE"), _number("MASTER_PORT")
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    # torchrun listens itself, and says so.
    listens = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    listener = listen(address, port)[1] if listens else None
    join(address, port, rank, world_size, use_gpu=use_gpu, listener=listener)
    try:
        yield Communicator.current(), device
    finally:
        dist.destroy_process_group()


def listen(address: str, port: int = 0) -> tuple[int, int]:
    """Listen at one address of this machine: a store that torch makes by itself listens at all of them.

    Args:
        address: Where the other ranks find rank 0.
        port: 0 for any that is free.

    Returns:
        Port, and file descriptor, which `join` takes over.

    Raises:
        ConfigError: The address is not of this machine, or the port is in use.
    """
    try:
        family, *_, found = min(socket.getaddrinfo(address, port, type=socket.SOCK_STREAM))  # IPv4 before IPv6
        listener = socket.create_server(found[:2], family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"rank 0 cannot listen at {address}, port {port} ({error.strerror}); set MASTER_ADDR to an address of rank "
            "0's machine, 127.0.0.1 where all ranks are on one, and MASTER_PORT to a free port"
        ) from None
    return listener.getsockname()[1], listener.detach()


def join(address: str, port: int, rank: int, world_size: int, *, use_gpu: bool, listener: int | None = None) -> None:
    """Make this process a rank. The backend is NCCL for tensors on GPUs, gloo for those on CPUs.

    Args:
        address: Where rank 0 listens.
        port: Its port.
        rank: Of this process.
        world_size: Number of ranks.
        use_gpu: Whether some tensors are on GPUs.
        listener: File descriptor of `listen`; None where another process listens.

    Raises:
        ConfigError: The ranks do not reach each other.
    """
    backend = "cpu:gloo,cuda:nccl" if use_gpu else "gloo"
    try:
        store = dist.TCPStore(
            address, port, world_size, listener is not None, timeout=_JOIN_TIMEOUT, master_listen_fd=listener
        )
        if interface := _interface(_own_address(address, port)):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_COLLECTIVE_TIMEOUT)
    except (RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"rank {rank} of {world_size} does not reach the others by way of rank 0 at {address}, port {port} "
            f"({reason}); start all ranks within {_JOIN_TIMEOUT.seconds // 60} minutes, on "
            "machines that may connect to each other at any port"
        ) from None


def bind_beside(device: torch.device, devices: Path = Path("/sys/bus/pci/devices")) -> None:
    """Bind the process to the CPUs of the memory node that a GPU is attached to, where the system says which they are.

    Args:
        device: The GPU.
        devices: Linux's folder of PCI devices.
    """
    found = torch.cuda.get_device_properties(device)
    place = [getattr(found, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]  # not in every torch
    if None in place or not hasattr(os, "sched_setaffinity"):
        return
    file = devices / "{:04x}:{:02x}:{:02x}.0".format(*place) / "local_cpulist"
    if file.is_file() and (cpus := _cpu_list(file.read_text()) & os.sched_getaffinity(0)):
        os.sched_setaffinity(0, cpus)


def _cpu_list(text: str) -> set[int]:
    """The CPUs of a list such as 0-15,32-47."""
    ranges = (part.partition("-") for part in text.strip().split(",") if part)
    return {cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1)}


def _number(name: str, default: int | None = None) -> int:
    try:
        return int(os.environ.get(name, "" if default is None else default))
    except ValueError:
        raise ConfigError(
            f"{name}={os.environ.get(name)} in the environment: expected a whole number where RANK is set; start ranks "
            "with torchrun, or unset RANK to train in one process"
        ) from None


def _own_address(peer: str, port: int) -> str:
    """The address of this machine from which it reaches another."""
    family, *_, found = min(socket.getaddrinfo(peer, port, type=socket.SOCK_DGRAM))
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(found)  # sends nothing
        return probe.getsockname()[0]


def _interface(address: str) -> str | None:
    """The network interface that has an address; None where this system does not say."""
    names = [name for _, name in socket.if_nameindex()]
    if address == "::1" or address.startswith("127."):
        return next((name for name in names if name in ("lo", "lo0")), None)
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for name in names:
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def _bind_to_cpus(local_rank: int, local_world_size: int) -> None:
    """Bind a rank to its share of the CPUs: ranks wait for each other, so one that loses its CPU delays all."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if share := len(cpus) // local_world_size:
        os.sched_setaffinity(0, cpus[local_rank * share : (local_rank + 1) * share])
