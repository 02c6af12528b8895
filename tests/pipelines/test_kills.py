"""Runs that are killed at random moments end as if nobody had killed them, and a run folder has one writer at a time.

GAM_KG_FUZZ_SEED chooses other moments.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flows import SMALL, write_facts

from gam_kg.artifacts import LOGS, MANIFEST, open_artifact
from gam_kg.config import load_config
from gam_kg.run_lock import LOCK
from gam_kg.versions import VERSIONED, artifact_folder, versions
from pipelines.prepare import prepare

pytestmark = pytest.mark.ray

SEED = os.environ.get("GAM_KG_FUZZ_SEED", "0")
ARTIFACTS = ("graph", "checkpoint", "embeddings", "evaluation", "predictions")
SECONDS = 900


def start(verb: str, folder: Path, *overrides: str) -> subprocess.Popen:
    """A command on the facts and the run in a folder."""
    (folder / "empty.yaml").touch()
    settings = [*SMALL, f"data.facts={folder.parent / 'facts.parquet'}", f"run_dir={folder / 'run'}", *overrides]
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", verb, str(folder / "empty.yaml"), *settings],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )


def finish(process: subprocess.Popen) -> None:
    try:
        _, shown = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, shown[-3000:]


def whole(run: Path) -> None:
    """Whatever artifact is in place is whole."""
    for kind in ARTIFACTS:
        if kind in VERSIONED:
            for version in versions(run / kind):
                open_artifact(version, kind)
        elif (run / kind).exists():
            open_artifact(run / kind, kind)


def contents(run: Path) -> dict[str, object]:
    """All that a run has written, except times."""
    found: dict[str, object] = {}
    for kind in ARTIFACTS:
        found[kind] = open_artifact(artifact_folder(run, kind), kind).id
        for path in sorted((run / kind).rglob("*")):
            if path.is_file() and path.name not in (MANIFEST, *LOGS):
                found[str(path.relative_to(run))] = path.read_bytes()
    found["report"] = (run / "report" / MANIFEST).exists()
    found["others"] = sorted(path.name for path in run.iterdir())
    return found


def assert_kills_change_nothing(folder: Path, kills: int, *overrides: str) -> None:
    write_facts(folder / "facts.parquet")
    generator = random.Random(SEED)
    new_folders = (folder / f"{number}" for number in range(kills + 2))
    undisturbed, current = next(new_folders), next(new_folders)
    undisturbed.mkdir()
    current.mkdir()
    started = time.monotonic()
    finish(start("run", undisturbed, *overrides))
    seconds = time.monotonic() - started
    expected, killed = contents(undisturbed / "run"), 0
    while killed < kills:
        process = start("run", current, *overrides)
        try:
            _, shown = process.communicate(timeout=generator.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            whole(current / "run")
        else:  # it was faster
            assert process.returncode == 0, shown[-3000:]
            assert contents(current / "run") == expected
            current = next(new_folders)
            current.mkdir()
    finish(start("run", current, *overrides))
    assert contents(current / "run") == expected


@pytest.mark.slow
def test_three_kills_change_nothing(tmp_path: Path) -> None:
    assert_kills_change_nothing(tmp_path, 3, "evaluate.baselines=false")


@pytest.mark.nightly
def test_thirty_kills_with_ray_workers_change_nothing(tmp_path: Path) -> None:
    assert_kills_change_nothing(tmp_path, 30, "train.num_workers=2", "train.checkpoint_steps=10")


def test_a_second_writer_ends_at_once_and_names_the_first_one(tmp_path: Path, local_ray: None) -> None:
    write_facts(tmp_path / "facts.parquet")
    folder = tmp_path / "one"
    folder.mkdir()
    long = ("train.epochs=1000", "train.patience=1000")
    settings = [*SMALL, *long, f"data.facts={tmp_path / 'facts.parquet'}", f"run_dir={folder / 'run'}"]
    prepare(load_config(None, settings))
    first = start("train", folder, *long)
    try:
        for _ in range(10 * SECONDS):
            if (folder / "run" / LOCK).exists() or first.poll() is not None:
                break
            time.sleep(0.1)
        assert first.poll() is None
        before = (folder / "run" / LOCK).read_bytes()
        for verb in ("train", "prepare"):
            second = start(verb, folder, *long)
            _, shown = second.communicate(timeout=SECONDS)
            assert second.returncode == 1
            assert f"process {first.pid} " in shown
            for wrong in ("--force", "--take-over", "Traceback"):
                assert wrong not in shown
        assert first.poll() is None
        assert (folder / "run" / LOCK).read_bytes() == before
    finally:
        first.kill()
        first.communicate()
