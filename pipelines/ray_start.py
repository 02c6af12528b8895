"""Starts a local Ray on loopback, or connects to the one at RAY_ADDRESS; what is in the way is named before Ray hangs.

A local Ray has no dashboard, and takes a token that is made for it and is in the environment of its processes alone.
"""

import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._common.network_utils import parse_address
from ray._private import ray_constants, services
from ray._raylet import AuthenticationTokenLoader  # ty: ignore[missing-module-member]
from ray.exceptions import RayError

from gam_kg.errors import ConfigError
from gam_kg.text import error_line, user_path
from . import ray_watch
from .time_limit import within

# Idle workers stay: by default Ray kills and respawns them between the steps of a shuffle, 13 s instead of 0.3 s.
_SYSTEM_CONFIG = {"num_workers_soft_limit": 8, "idle_worker_killing_time_threshold_ms": 600_000}
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_REFUSED = (OSError, RuntimeError, ValueError, RayError)
_SECONDS_TO_ANSWER = 15.0
# How a client of gRPC begins; every server answers with a frame of type 4, its settings.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107


def cluster_address() -> str | None:
    """RAY_ADDRESS; None where a local Ray is started."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address or None


def connect(address: str) -> None:
    """Connect to a Ray that runs already.

    Args:
        address: HOST:PORT, ray://HOST:PORT, or auto for one on this machine.

    Raises:
        ConfigError: No cluster answers there, or it refuses.
    """
    try:
        found = address if "://" in address else services.canonicalize_bootstrap_address(address)
        assert found is not None, "it is not local"
        within(_SECONDS_TO_ANSWER, lambda: _require_answer(found.rpartition("://")[2]))
        ray.init(found, **_QUIET)
    except _REFUSED as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: {error_line(error)}. Is the cluster up? Where it needs a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH; unset RAY_ADDRESS to work on this machine"
        ) from None


@contextmanager
def local_ray(num_cpus: int | None, object_store_memory: int | None) -> Generator[None]:
    """Run the block with a Ray of its own, whose processes all bind to loopback and end with this one.

    Args:
        num_cpus: Its CPUs; None: all of the machine.
        object_store_memory: Bytes of its object store; None: Ray's choice.

    Raises:
        ConfigError: It does not start.
    """
    folder = _temporary_folder()
    with _settings(), _watch():
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                object_store_memory=object_store_memory,
                include_dashboard=False,
                _temp_dir=str(folder),
                _system_config=_SYSTEM_CONFIG,
                **_QUIET,
            )
        except Exception as error:  # Ray raises bare ones here
            ray.shutdown()
            logs = sorted(folder.glob(f"session_*_{os.getpid()}"))
            raise ConfigError(
                f"Ray does not start: {error_line(error)}{f'; its logs are in {logs[-1]}/logs' if logs else ''}"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Ray itself tries for minutes to reach an address, and may then end the process.

    Raises:
        OSError: No gRPC server answers there.
        ValueError: It is no HOST:PORT.
    """
    parts = parse_address(address)
    if parts is None:
        raise ValueError("expected HOST:PORT")
    with socket.create_connection((parts[0], int(parts[1]))) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        connection.sendall(_HELLO)
        answer = connection.recv(9)
    if answer[3:4] != bytes([_SETTINGS]):
        raise ConnectionError("what answers there is not Ray")


def _temporary_folder() -> Path:
    """Where Ray has its sockets and logs.

    Raises:
        ConfigError: It cannot be written, or its path is too long for sockets.
    """
    keys = ("RAY_TMPDIR", "TMPDIR") if sys.platform == "linux" else ("RAY_TMPDIR",)
    key = next((name for name in keys if os.environ.get(name)), "RAY_TMPDIR")
    system = os.environ.get(key) or "/tmp"
    folder = user_path(system, key).absolute() / "ray"
    below = f"/session_0000-00-00_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    if (spare := _SOCKET_PATH_BYTES - len(os.fsencode(folder)) - len(below)) < 0:
        raise ConfigError(
            f"{key}={system} is too long: the sockets of Ray below it would have paths of {_SOCKET_PATH_BYTES - spare} "
            f"bytes, and the system takes {_SOCKET_PATH_BYTES}; set RAY_TMPDIR to a path that is {-spare} bytes shorter"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ConfigError(
            f"{key}={system}: Ray cannot write into {folder} ({error.strerror}); set RAY_TMPDIR to a folder of yours"
        ) from None


@contextmanager
def _settings() -> Generator[None]:
    """Let every process of a Ray started in the block bind to loopback, and take a token of its own.

    On Linux Ray replaces 127.0.0.1 by the machine's address, unless multi-node clusters are switched off as they are on
    macOS and Windows; the switch is read when Ray is imported. Ray's own token is a file in the home folder.
    """
    ours = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
    if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        ours["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    before, environment = ray_constants.ENABLE_RAY_CLUSTER, {name: os.environ.get(name) for name in ours}
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.update(ours)
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _watch() -> Generator[None]:
    """End what is left of Ray if this process is killed in the block."""
    if sys.platform != "linux":
        yield
        return
    # In a session of its own: it outlives a signal to all processes of a terminal.
    command = [sys.executable, "-I", "-S", ray_watch.__file__, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as watcher:
        try:
            yield
        finally:
            watcher.terminate()
