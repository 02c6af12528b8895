"""Jobs on a real cluster of one machine: a head with a dashboard on loopback and token authentication."""

import asyncio
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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from listeners import listeners_of
from typer.testing import CliRunner

from gam_kg.config import load_config
from gam_kg.errors import ConfigError, ConnectionLostError
from pipelines.cli import app
from pipelines.submit import follow, require_shared_paths, submit

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "configs" / "cluster"
SECONDS_TO_START = 120
SECONDS_A_COMMAND = 240


@dataclass(frozen=True)
class Cluster:
    address: str
    token: Path
    environment: dict[str, str]

    def submit(self, *arguments, **environment):
        command = [sys.executable, "-m", "pipelines", "submit", "--address", self.address, *map(str, arguments)]
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
    return [ray, "start", "--head", "--block", "--disable-usage-stats", *options], f"http://127.0.0.1:{dashboard}"


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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submit")
    token, log = folder / "token", folder / "head.log"
    token.write_text(secrets.token_hex(32))
    environment = environment_with(token)
    # Paths of sockets are short: at most 107 bytes, of which Ray takes about 60.
    with tempfile.TemporaryDirectory(prefix="gam-kg-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        command, address = head_command(temporary)
        with log.open("w") as out:
            head = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            wait_for(address, token, head, log)
            yield Cluster(address, token, environment)
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


@pytest.fixture
def config(tmp_path):
    """A config that extends another, with a run folder and facts that the 'cluster' shares with us."""
    rows = [(f"e{(3 * time + i) % 5}", "r", f"e{(time + i) % 4}", time) for time in range(10) for i in range(3)]
    columns = dict(zip(("subject", "relation", "object", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "facts.parquet")
    below = {"data": {"facts": str(tmp_path / "facts.parquet"), "time_unit": 1}, "prepare": {"buckets": 2}}
    (tmp_path / "below.yaml").write_text(yaml.safe_dump(below))
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"extends": "below.yaml", "run_dir": str(tmp_path / "run")}))
    return path


def checkout(folder, code):
    """A folder that is taken for gam-kg when the job runs in it: a job that is quick."""
    (folder / "pipelines").mkdir(parents=True)
    (folder / "pipelines" / "__init__.py").touch()
    (folder / "pipelines" / "__main__.py").write_text(code)
    (folder / "beside.txt").write_text("beside")
    return folder


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_does_the_stage_on_the_cluster_and_shows_its_log(cluster, config, tmp_path):
    done = cluster.submit(config, "prepare.buckets=1", "--verb", "prepare")
    assert done.returncode == 0, done.stderr
    assert "graph: 30 facts, 5 entities, 1 relations, 10 snapshots" in done.stdout
    assert "succeeded" in done.stderr
    assert (tmp_path / "run" / "graph" / "manifest.json").exists()
    resolved = load_config(tmp_path / "run" / "config.yaml")
    assert (resolved.name, resolved.prepare.buckets, resolved.data.time_unit) == ("tiny", 1, 1)
    assert not {"INFO", "WARNING", "Traceback"} & set(done.stderr.split())


@pytest.mark.ray
def test_a_job_that_fails_shows_why(cluster, config, tmp_path):
    pq.write_table(pa.table({"subject": ["a"], "object": ["b"], "timestamp": [1]}), tmp_path / "bad.parquet")
    done = cluster.submit(config, "--verb", "prepare", f"data.facts={tmp_path / 'bad.parquet'}")
    assert done.returncode == 1
    assert "error: " in done.stdout
    assert "bad.parquet: no column 'relation'" in done.stdout
    assert "failed: its command ended with status 1" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.ray
def test_not_waiting_prints_the_id_and_a_folder_can_travel(cluster, config, tmp_path):
    code = (
        "import os, sys; print(sys.argv[1:], open('beside.txt').read(), open(sys.argv[2]).read());"
        "print('cluster at', os.environ['RAY_ADDRESS'])"  # what pipelines/ray_session.py goes by
    )
    folder = checkout(tmp_path / "checkout", code)
    # The address given wins over the one in the environment, where Ray's own commands have it the other way round.
    done = cluster.submit(config, "--no-wait", "--force", "--working-dir", folder, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    (submission_id,) = done.stdout.split()
    log = cluster.run_advised(done.stderr, "log")
    assert "['run', 'gam-kg-job.yaml', '--force'] beside name: tiny" in log
    assert "cluster at 127.0.0.1:" in log
    assert cluster.token.read_text() not in log
    again = cluster.submit(config, "--submission-id", submission_id)
    assert again.returncode == 1
    assert f"--submission-id {submission_id}: the cluster has a job of this name" in again.stderr
    assert "Traceback" not in again.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["beside.txt", "pipelines"]


@pytest.mark.ray
def test_an_interrupt_leaves_the_job_running(cluster, config, tmp_path):
    folder = checkout(tmp_path / "checkout", "import time; print('at work'); time.sleep(300)")
    with cluster.start(config, "--working-dir", folder) as watching:
        while "at work" not in (line := watching.stdout.readline()):
            assert line, watching.stderr.read()
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=SECONDS_A_COMMAND)
    assert watching.returncode == 130
    assert "goes on" in said
    assert "Traceback" not in said
    assert "RUNNING" in cluster.run_advised(said, "status")
    assert "was stopped" in cluster.run_advised(said, "stop")


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_client_listens_nowhere(cluster, config, tmp_path):
    folder = checkout(tmp_path / "checkout", "import time; time.sleep(3)")
    with cluster.start(config, "--working-dir", folder) as watching:
        assert listeners_of(watching, seconds=SECONDS_A_COMMAND) == set()
    assert watching.returncode == 0


@pytest.mark.ray
@pytest.mark.parametrize("token", ["wrong", "missing", "not sent"])
def test_a_refused_token_is_explained(cluster, config, tmp_path, token):
    path = tmp_path / "token"
    if token == "wrong":
        path.write_text(secrets.token_hex(32))
    mode = "disabled" if token == "not sent" else "token"
    done = cluster.submit(config, RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN_PATH=str(path))
    assert done.returncode == 1
    assert "error: http" in done.stderr
    assert "RAY_AUTH_TOKEN_PATH to a file with the cluster's token" in done.stderr
    assert "Traceback" not in done.stderr


def refusal(config, *overrides, address="http://127.0.0.1:1", **options):
    with pytest.raises(ConfigError) as error:
        submit(load_config(config, overrides), address, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run_dir=null", ["run_dir is not set", "runs/tiny", "absolute path", "share"]),
        ("run_dir=runs/tiny", ["run_dir=runs/tiny", "absolute path", "share"]),
        ("run_dir=s3://bucket/run", ["run_dir: a URI is not allowed", "s3://bucket/run"]),
        ("run_dir=~/run", ["run_dir=~/run", "absolute path"]),
        ("predict.out=answers.csv", ["predict.out=answers.csv", "absolute path"]),
        ("data.facts=null", ["data.facts is not set", "run needs it"]),
        ("data.facts=facts.parquet", ["data.facts=facts.parquet", "absolute path or a URI"]),
        ("data.import_from=folder", ["data.import_from=folder", "absolute path"]),
        ("predict.queries=queries.parquet", ["predict.queries=queries.parquet", "or a URI"]),
    ],
)
def test_paths_that_lead_nowhere_on_a_cluster_are_refused(config, override, expected):
    message = refusal(config, override)
    assert all(part in message for part in expected), message


def test_paths_that_a_cluster_shares_are_taken(config):
    require_shared_paths(load_config(config, ["data.facts=s3://bucket/facts", "data.import_from=lahman:1995"]))
    require_shared_paths(load_config(config, ["data.facts=null"]), "train")


def test_an_address_where_nobody_answers_is_refused(config):
    message = refusal(config)
    assert "http://127.0.0.1:1: no Ray cluster answers" in message
    assert "expected the URL" in refusal(config, address="127.0.0.1:8265")
    assert "--working-dir" in refusal(config, working_dir=config.parent / "missing")


def test_an_address_that_takes_connections_and_says_nothing_is_refused(config, monkeypatch):
    monkeypatch.setattr("pipelines.submit._SECONDS_TO_ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert f"{address}: no Ray cluster answers (no answer within" in refusal(config, address=address)


def test_without_the_extra_it_is_named(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert "pip install 'gam-kg[cluster]'" in refusal(config)


def test_a_mistake_in_the_config_is_reported_before_anything_is_sent(config):
    result = CliRunner().invoke(app, ["submit", str(config), "train.epochs=0", "--address", "http://127.0.0.1:1"])
    assert isinstance(result.exception, ConfigError)
    assert "train.epochs" in str(result.exception)


class Client:
    """A cluster whose connection breaks after each of the given pieces of a log."""

    def __init__(self, log, pieces, **details):
        self.log, self.pieces, self.details = log, list(pieces), details

    async def tail_job_logs(self, submission_id):
        yield self.log[: self.pieces.pop(0)]
        if self.pieces:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, submission_id):
        status = SimpleNamespace(is_terminal=lambda: True)
        return SimpleNamespace(**{"status": status, "message": None, "driver_exit_code": None} | self.details)


class Ended(str):
    """A status as Ray has it: a string that knows more."""

    def is_terminal(self):
        return True


def test_a_lost_connection_is_made_again_and_nothing_is_shown_twice(monkeypatch, capsys):
    monkeypatch.setattr("pipelines.submit._SECONDS_BETWEEN_TRIES", 0)
    assert follow(Client("one\ntwo\nthree\n", [4, 2, 9, 14], status=Ended("SUCCEEDED")), "job", "advice") == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_connection_lost_for_good_has_a_status_of_its_own(monkeypatch):
    monkeypatch.setattr("pipelines.submit._SECONDS_BETWEEN_TRIES", 0.01)
    monkeypatch.setattr("pipelines.submit._SECONDS_TO_LOSE", 0.1)
    message = r"lost the connection to job job, which may go on \(WebSocket.*\)\nadvice"
    with pytest.raises(ConnectionLostError, match=message) as error:
        follow(Client("one", [3] + [0] * 10_000), "job", "advice")
    assert error.value.status not in (0, 1, 2, 3, 130)


class SilentClient(Client):
    """A cluster that shows a log and then says nothing more, as behind a network that has gone."""

    def __init__(self, log, answers):
        super().__init__(log, [len(log)])
        self.answers = list(answers)

    async def tail_job_logs(self, submission_id):
        yield self.log
        await asyncio.Event().wait()

    def get_job_info(self, submission_id):
        if not self.answers:
            time.sleep(60)
        ended = self.answers.pop(0)
        return SimpleNamespace(status=Ended("SUCCEEDED") if ended else SimpleNamespace(is_terminal=lambda: False))


def test_a_cluster_that_says_nothing_more_is_lost_and_a_quiet_job_is_not(monkeypatch, capsys):
    monkeypatch.setattr("pipelines.submit._SECONDS_BETWEEN_TRIES", 0.01)
    monkeypatch.setattr("pipelines.submit._SECONDS_TO_LOSE", -1)
    monkeypatch.setattr("pipelines.submit._SECONDS_OF_SILENCE", 0.05)
    monkeypatch.setattr("pipelines.submit._SECONDS_TO_ANSWER", 0.2)
    with pytest.raises(ConnectionLostError, match="no answer within"):
        follow(SilentClient("one", [False, False]), "job", "advice")
    with pytest.raises(ConnectionLostError, match="the log does not end"):
        follow(SilentClient("one", [False, True]), "job", "advice")
    assert capsys.readouterr().out == "oneone"


def test_the_exit_status_follows_the_job(capsys):
    assert follow(Client("", [0], status=Ended("STOPPED")), "job", "advice") == 3
    assert "was stopped" in capsys.readouterr().err
    broken = Client("", [0], status=Ended("FAILED"), message="Failed to set up the runtime environment [a]")
    assert follow(broken, "job", "advice") == 1
    assert "failed: Failed to set up the runtime environment [a]" in capsys.readouterr().err


def test_the_rayjob_runs_a_command_of_ours_with_a_config_of_ours():
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    program, verb, path, *overrides = shlex.split(job["spec"]["entrypoint"])
    assert (program, verb) == ("gam-kg", "run")
    config = load_config(ROOT / Path(path).relative_to("/gam-kg"), overrides)
    require_shared_paths(config)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == config.train.num_workers
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"]).keys() == {"env_vars"}


def test_the_launched_cluster_asks_for_a_token_and_keeps_its_dashboard_on_loopback():
    cluster = yaml.safe_load((CLUSTER / "cluster.yaml").read_text())
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in start for start in starts if "ray start" in start)
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    assert cluster["head_node_type"] in cluster["available_node_types"]
