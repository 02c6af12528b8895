"""Jobs on a real cluster of one machine: a head with a dashboard on loopback and token authentication."""

import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from listeners import listeners_of
from ray_cluster import SECONDS_A_COMMAND, cluster_of_one
from typer.testing import CliRunner

from gam_kg.config import load_config
from gam_kg.errors import ConfigError
from pipelines.cli import app
from pipelines.submit import Request, require_shared_paths, submit


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cluster_of_one(tmp_path_factory.mktemp("submit")) as running:
        yield running


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
    assert "failed: its command ended with status 1, see its log" in done.stderr
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


@pytest.mark.ray
def test_variables_resources_and_labels_go_with_the_job(cluster, config, tmp_path):
    code = "import os; print('the value is', os.environ['KG_SECRET'][::-1], os.environ.get('KG_OTHER'))"
    flags = [
        "--env",
        "KG_SECRET",
        "--cpus",
        "1",
        "--memory",
        "0.01",
        "--metadata",
        "team=search",
        "--metadata",
        "a=b=c",
    ]
    folder, values = checkout(tmp_path / "checkout", code), {"KG_SECRET": "s3cret-value", "KG_OTHER": "stays"}
    done = cluster.submit(config, "--working-dir", folder, *flags, "--submission-id", "labelled", **values)
    assert done.returncode == 0, done.stderr
    assert "the value is eulav-terc3s None" in done.stdout
    shown = cluster.gam_kg("job", "status", "labelled")
    assert shown.stdout.split()[0] == "SUCCEEDED"
    assert {"a=b=c", "team=search"} <= {word.strip(",") for word in shown.stdout.split()}
    assert "s3cret-value" not in done.stdout + done.stderr + shown.stdout + shown.stderr
    log = cluster.gam_kg("job", "logs", "labelled")
    assert (log.returncode, log.stdout) == (0, done.stdout)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_waits_for_resources_says_so(cluster, config, tmp_path):
    """The cluster has two CPUs, of which another job takes both until it is stopped."""
    sleeping = checkout(tmp_path / "sleeping", "import time; print('at work', flush=True); time.sleep(300)")
    quick = checkout(tmp_path / "quick", "print('done at last')")
    begun = cluster.submit(config, "--working-dir", sleeping, "--cpus", "2", "--submission-id", "first", "--no-wait")
    assert begun.returncode == 0, begun.stderr
    with cluster.start(config, "--working-dir", quick, "--cpus", "2", "--submission-id", "second") as watching:
        while "waiting for resources" not in (line := watching.stderr.readline()):
            assert line, watching.stdout.read()
        shown = cluster.gam_kg("job", "status", "second").stdout
        assert shown.startswith("PENDING ")
        assert "waiting for resources" in shown
        assert "waiting for resources" in cluster.gam_kg("job", "logs", "second").stderr
        stopped = cluster.gam_kg("job", "stop", "first")
        assert (stopped.returncode, stopped.stdout) == (0, "job first was stopped\n"), stopped.stderr
        log, _ = watching.communicate(timeout=SECONDS_A_COMMAND)
    assert watching.returncode == 0
    assert "done at last" in log
    assert cluster.gam_kg("job", "stop", "second").stdout == "job second had ended: SUCCEEDED\n"
    assert cluster.gam_kg("job", "logs", "first", "--follow").returncode == 3


@pytest.mark.ray
@pytest.mark.parametrize(("verb", "name"), [("status", "nobody"), ("logs", "nobody"), ("stop", "nobody"), ("stop", "")])
def test_a_job_that_the_cluster_does_not_have_is_named(cluster, verb, name):
    done = cluster.gam_kg("job", verb, name)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"the cluster has no job {name!r}; give the name that gam-kg submit printed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ray
def test_a_cluster_has_the_gauges_of_a_command_that_ends_at_once(cluster):
    code = (
        "import ray; from pipelines.metrics import in_cluster, record\n"
        "with in_cluster():\n"
        "    print(ray.nodes()[0]['MetricsExportPort'], flush=True); record('short', mrr_of_the_day=0.5)"
    )
    environment = cluster.environment | {"RAY_ADDRESS": cluster.ray_address}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        url, end = f"http://127.0.0.1:{process.stdout.readline().strip()}/metrics", time.monotonic() + SECONDS_A_COMMAND
        while not (found := re.findall(r'^ray_gam_kg_mrr_of_the_day{.*run="short".*} (.*)$', fetch(url), re.MULTILINE)):
            assert time.monotonic() < end, "Ray does not export the gauge"
            time.sleep(0.5)
        assert process.wait(SECONDS_A_COMMAND) == 0
    assert found == ["0.5"]


def fetch(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def refusal(config, *overrides, address="http://127.0.0.1:1", **options):
    with pytest.raises(ConfigError) as error:
        submit(load_config(config, overrides), address, Request(**options))
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run_dir=null", ["run_dir is not set", "runs/tiny", "absolute path", "share"]),
        ("run_dir=runs/tiny", ["run_dir=runs/tiny", "absolute path or a URI", "share"]),
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
    require_shared_paths(
        load_config(config, ["run_dir=s3://bucket/run", "data.facts=s3://bucket/facts", "data.import_from=lahman:1995"])
    )
    require_shared_paths(load_config(config, ["data.facts=null"]), "train")


def test_an_address_where_nobody_answers_is_refused(config):
    message = refusal(config)
    assert "http://127.0.0.1:1: no Ray cluster answers" in message
    assert "expected the URL" in refusal(config, address="127.0.0.1:8265")
    assert "--working-dir" in refusal(config, working_dir=config.parent / "missing")


def test_an_address_that_takes_connections_and_says_nothing_is_refused(config, monkeypatch):
    monkeypatch.setattr("pipelines.jobs._SECONDS_TO_ANSWER", 0.5)
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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"env": ["KG_MISSING"]}, "--env KG_MISSING: the variable is not set here"),
        ({"env": ["KG_TOKEN=s3cret-value"]}, "--env KG_TOKEN: give a variable's name alone"),
        ({"submission_id": "../jobs"}, "--submission-id '../jobs': give letters, digits, _, . and -"),
        ({"metadata": ["team"]}, "--metadata team: expected KEY=VALUE"),
        ({"metadata": ["=search"]}, "--metadata =search: expected KEY=VALUE"),
        ({"gpus": float("nan")}, "--gpus nan: give a number from 0 on"),
        ({"memory_gib": -1.0}, "--memory -1.0: give a number from 0 on"),
    ],
)
def test_what_no_job_can_have_is_refused_before_anything_is_sent(config, options, expected):
    message = refusal(config, **options)
    assert expected in message
    assert "s3cret-value" not in message
