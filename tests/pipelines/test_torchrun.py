"""Training without Ray, alone and under torchrun."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from flows import SMALL, write_facts

from gam_kg.config import load_config
from gam_kg.run_lock import run_lock
from pipelines.prepare import prepare

pytestmark = pytest.mark.ray
ALONE = [sys.executable, "-m", "gam_kg.training"]


def torchrun(ranks: int) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    return [
        sys.executable,
        *launcher,
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(port),
        "-m",
        "gam_kg.training",
    ]


def train(command: list[str], config: Path, *overrides: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [*command, str(config), *overrides]
    root = Path(__file__).parents[2]
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=200, env=environment, cwd=root, check=False
    )


def valid_mrr(run: Path) -> float:
    return json.loads((run / "checkpoint" / "manifest.json").read_text())["content"]["valid_mrr"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, local_ray) -> Path:
    """A configuration file whose run has a graph."""
    folder = tmp_path_factory.mktemp("torchrun")
    write_facts(folder / "facts.parquet")
    config = load_config(None, [*SMALL, f"data.facts={folder}/facts.parquet", f"run_dir={folder}/run"])
    prepare(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return folder / "config.yaml"


def test_ranks_of_torchrun_train_what_one_process_does(prepared: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "graph").symlink_to(prepared.parent / "run" / "graph")
    done = train(ALONE, prepared, f"run_dir={alone}")
    assert done.returncode == 0, done.stderr
    assert "epoch 2: loss" in done.stderr
    together = train(torchrun(2), prepared)
    assert together.returncode == 0, together.stderr
    run = prepared.parent / "run"
    for folder in (alone, run):
        steps, epochs = (
            [json.loads(line) for line in (folder / "log" / name).read_text().splitlines()]
            for name in ("steps.jsonl", "metrics.jsonl")
        )
        assert [step["step"] for step in steps] == list(range(1, len(steps) + 1)), "logged once, by one rank"
        assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert len(list((run / "checkpoint").glob("entities-*-of-00002.safetensors"))) == 2
    assert valid_mrr(run) == pytest.approx(valid_mrr(alone), abs=2e-3), "float error moves a few ranks"


def test_mistakes_are_reported_without_a_traceback(prepared: Path) -> None:
    for arguments, expected in ((("train.epoch=3",), "unknown key"), (("run_dir=/nowhere",), "no finished graph")):
        done = train(ALONE, prepared, *arguments)
        assert done.returncode == 1
        assert expected in done.stderr
        assert "Traceback" not in done.stderr


def test_all_ranks_end_where_another_process_owns_the_run(prepared: Path) -> None:
    with run_lock(prepared.parent / "run", "prepare"):
        done = train(torchrun(2), prepared)
    assert done.returncode == 1
    assert f"gam-kg prepare, process {os.getpid()} " in done.stderr
    assert "error: another rank has failed" in done.stderr
    assert done.stderr.count("Traceback") <= 1, "only torchrun itself shows one"
