"""Ranks that meet by themselves listen at the address they are given, and nowhere else."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from listeners import beyond_loopback

from gam_kg.distributed.process_group import bind_beside, join, listen, process_group
from gam_kg.errors import ConfigError

TESTS = Path(__file__).parents[1]
RANK = """
import json, os
import torch
from listeners import listeners
from gam_kg.distributed.process_group import process_group
with process_group(use_gpu=False) as (communicator, device):
    total = communicator.sum(torch.tensor([communicator.rank + 1.0]), "test").item()
    print(json.dumps([total, sorted(listeners(os.getpid()))]))
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ranks_listen_on_loopback_where_they_meet_there():
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    common |= {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        said, _ = rank.communicate(timeout=120)
        assert rank.returncode == 0
        total, found = json.loads(said)
        assert total == 3
        assert found, "gloo listens"
        assert not beyond_loopback({tuple(one) for one in found})


def test_a_listener_is_at_one_address():
    port, descriptor = listen("127.0.0.1")
    with socket.socket(fileno=descriptor) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)
        with pytest.raises(ConfigError, match=rf"cannot listen at 127.0.0.1, port {port} .*MASTER_PORT to a free port"):
            listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ConfigError, match=r"cannot listen at 203\.0\.113\.1, port 0 .*an address of rank 0's machine"):
        listen("203.0.113.1")


def test_an_incomplete_environment_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE=None in the environment: expected a whole number"):
        process_group(use_gpu=False).__enter__()


def test_a_rank_that_cannot_join_says_why(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such")
    port, listener = listen("127.0.0.1")
    with pytest.raises(ConfigError, match=rf"rank 0 of 1 does not reach .* at 127.0.0.1, port {port} .*: no-such"):
        join("127.0.0.1", port, 0, 1, use_gpu=False, listener=listener)


@pytest.mark.parametrize(
    ("listed", "expected"), [("0-1,4\n", {0, 1}), ("1\n", {1}), ("64-95\n", {0, 1, 2}), (None, {0, 1, 2})]
)
def test_a_rank_on_a_gpu_is_bound_to_the_cpus_beside_it(monkeypatch, tmp_path, listed, expected):
    """Those of them that it may run on; to none where the system does not say, or all are denied."""
    place, bound = SimpleNamespace(pci_domain_id=0, pci_bus_id=0xAF, pci_device_id=0), {0, 1, 2}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: place)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: bound)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: bound.intersection_update(cpus))
    if listed is not None:
        folder = tmp_path / "0000:af:00.0"
        folder.mkdir()
        (folder / "local_cpulist").write_text(listed)
    bind_beside(torch.device("cuda", 0), tmp_path)
    assert bound == expected
