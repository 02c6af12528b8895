"""What listens while gam-kg works, addresses where nobody answers, and what a killed run leaves."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from flows import SMALL, write_facts
from listeners import alive, beyond_loopback, listeners, listeners_of, tree

from gam_kg.config import load_config
from gam_kg.errors import ConfigError
from pipelines.prepare import prepare
from pipelines.ray_start import connect, local_ray
from pipelines.time_limit import within

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def config(tmp_path_factory, local_ray) -> Path:
    """A configuration with two workers, whose run has a graph."""
    folder = tmp_path_factory.mktemp("network")
    write_facts(folder / "facts.parquet")
    paths = [f"data.facts={folder}/facts.parquet", f"run_dir={folder}/run"]
    config = load_config(None, [*SMALL, *paths, "train.num_workers=2"])
    prepare(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return folder / "config.yaml"


def start(*arguments, **environment):
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ours |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(command, env=ours, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@linux
@pytest.mark.parametrize("where", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_socket_that_listens_is_seen(where):
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    with socket.create_server((where, 0), family=family) as server:
        address = f"{where}:{server.getsockname()[1]}"
        assert address in {found for _, found in listeners(os.getpid())}
        assert beyond_loopback({("it", address)}) == (set() if where == "127.0.0.1" else {("it", address)})


@linux
@pytest.mark.ray
@pytest.mark.slow
def test_everything_that_listens_is_on_loopback(config, tmp_path):
    with start("run", config, f"run_dir={tmp_path}/run", "train.epochs=1") as process:
        found = listeners_of(process, seconds=900)
        assert process.returncode == 0, process.stdout.read()
    for expected in ("raylet", "ray::RayTrainWorker"):
        assert any(program.startswith(expected) for program, _ in found), expected
    assert not beyond_loopback(found)


@linux
@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_run_leaves_no_process(config):
    with start("train", config, "train.epochs=1000") as process:
        kill_at(process, "epoch 1")


@linux
@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_search_leaves_no_process_and_goes_on_with_its_epochs(config, tmp_path):
    (tmp_path / "space.yaml").write_text("train.learning_rate: {choice: [0.01]}")
    arguments = ["tune", config, tmp_path / "space.yaml", "train.epochs=6", "train.patience=6", "--trials", 1]
    with start(*arguments) as process:
        kill_at(process, "tune: trial 0, epoch 2")
    with start(*arguments) as process:
        found = listeners_of(process, seconds=900)
        shown = process.stdout.read()
    assert process.returncode == 0, shown
    assert "tune: trial 0, epoch 2:" not in shown
    assert "tune: trial 0, epoch 6:" in shown
    assert any(program.startswith("ray::Implicit") for program, _ in found), "the trial's process"
    assert not beyond_loopback(found)


def kill_at(process, text):
    """Kill a process when it has shown a line with a text; all that it started must end."""
    for line in process.stdout:
        if text in line:
            break
    left = tree(process.pid)
    assert any("Agent" in program for program in alive(left).values())
    process.kill()
    left.discard(process.pid)
    end = time.monotonic() + 45
    while (found := alive(left)) and time.monotonic() < end:
        time.sleep(0.2)
    for pid in found:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    assert not found


@pytest.mark.ray
def test_no_home_folder_is_needed(config, tmp_path):
    # A file: nothing can be written below it, whoever the user.
    with start("prepare", config, f"run_dir={tmp_path}/run", HOME="/dev/null") as process:
        said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert (tmp_path / "run" / "graph" / "manifest.json").exists()


@pytest.mark.parametrize("key", ["RAY_TMPDIR", pytest.param("TMPDIR", marks=linux)])
def test_a_temporary_folder_is_refused_where_sockets_have_no_room_in_it(tmp_path, monkeypatch, key):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(key, f"/tmp/{'x' * 80}")
    with pytest.raises(ConfigError, match=rf"{key}=/tmp/x+ is too long: .* paths of 1\d\d bytes, and .* takes 10[37]"):
        local_ray(None, None).__enter__()
    assert not Path(f"/tmp/{'x' * 80}").exists()


def test_a_temporary_folder_that_cannot_be_written_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")
    with pytest.raises(ConfigError, match="RAY_TMPDIR=/dev/null: Ray cannot write into /dev/null/ray"):
        local_ray(None, None).__enter__()


@pytest.mark.parametrize(
    ("answer", "reason"), [(None, "no answer within"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not Ray")]
)
def test_an_address_where_something_else_answers_is_refused(monkeypatch, answer, reason):
    monkeypatch.setattr("pipelines.ray_start._SECONDS_TO_ANSWER", 0.5 if answer is None else 20)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                if answer is not None:
                    connection.sendall(answer)
                connection.recv(1000)
                stop.wait(30)

        stop = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"RAY_ADDRESS={address}: .*{reason}"):
            connect(address)
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:1", "refused"), ("ray://127.0.0.1:1", "refused"), ("xyz", "Invalid address")]
)
def test_an_address_where_nobody_answers_is_refused(address, reason):
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS={address}: .*{reason}.*unset RAY_ADDRESS"):
        connect(address)


def test_a_call_is_limited_in_time():
    assert within(20, lambda: 7) == 7
    with pytest.raises(TimeoutError, match="its own"):
        within(20, lambda: (_ for _ in ()).throw(TimeoutError("its own")))
    with pytest.raises(TimeoutError, match="no answer within"):
        within(0.05, threading.Event().wait)
