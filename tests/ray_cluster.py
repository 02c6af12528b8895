"""A real Ray cluster of one machine: a head with a dashboard on loopback and token authentication."""

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECONDS_TO_START = 120
SECONDS_A_COMMAND = 240


@dataclass(frozen=True)
class Cluster:
    address: str
    ray_address: str
    token: Path
    environment: dict[str, str]

    def submit(self, *arguments, **environment):
        return self.gam_kg("submit", *arguments, **environment)

    def gam_kg(self, *arguments, **environment):
        command = [sys.executable, "-m", "pipelines", *map(str, arguments), "--address", self.address]
        return subprocess.run(
            command,
            env=self.environment | environment,
            cwd=self.token.parent,
            capture_output=True,
            text=True,
            timeout=SECONDS_A_COMMAND,
        )

    def start(self, *arguments):
        command = [sys.executable, "-m", "pipelines", "submit", "--address", self.address, *map(str, arguments)]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run_advised(self, advice, what):
        """Run one of the commands that the user was advised to run."""
        (line,) = (line for line in advice.splitlines() if line.startswith(f"{what}:"))
        command = shlex.split(line.removeprefix(f"{what}:"))
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, timeout=SECONDS_A_COMMAND
        ).stdout


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def environment_with(token):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return environment | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # Without it Ray replaces loopback by the machine's address; see pipelines/ray_session.py.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # by default a head takes half a minute to end
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def head_command(temporary):
    port, dashboard, agent, client = free_ports(4)
    options = [
        *("--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2", f"--object-store-memory={100 * 2**20}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(
            f"--ray-client-server-port={client}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--temp-dir={temporary}",
        ),
        # As in pipelines/ray_session.py: by default workers are killed and started anew between the steps of a shuffle.
        '--system-config={"num_workers_soft_limit": 8, "idle_worker_killing_time_threshold_ms": 600000}',
    ]
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", "--disable-usage-stats", *options]
    return command, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}"


def wait_for(address, token, head, log):
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token.read_text()}"})
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and head.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"no cluster:\n{log.read_text()}")


@contextmanager
def cluster_of_one(folder):
    """The running cluster; its token and its log are in the folder."""
    token, log = folder / "token", folder / "head.log"
    token.write_text(secrets.token_hex(32))
    environment = environment_with(token)
    # Paths of sockets are short: at most 107 bytes, of which Ray takes about 60.
    with tempfile.TemporaryDirectory(prefix="gam-kg-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        command, address, ray_address = head_command(temporary)
        with log.open("w") as out:
            head = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            wait_for(address, token, head, log)
            yield Cluster(address, ray_address, token, environment)
        finally:
            end(head)


def end(head):
    """End this head and what it started, and no other Ray."""
    head.terminate()
    try:
        head.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
