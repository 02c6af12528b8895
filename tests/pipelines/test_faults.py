"""Workers that are killed at the worst snapshots: the run ends with the numbers of one that was left alone."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray.cloudpickle
import ray.train
import torch
from flows import SMALL, write_facts
from safetensors.torch import load_file

import gam_kg.training.checkpoint
import gam_kg.training.trainer
from gam_kg.artifacts import Manifest, read_manifest, write_artifact
from gam_kg.config import Config, EvaluateConfig, load_config
from gam_kg.graph.partition import Partition
from gam_kg.metrics.baselines import Popularity
from gam_kg.run_config import checkpoint_settings
from gam_kg.training.batches import Step
from gam_kg.training.checkpoint import load_rows, load_weights
from gam_kg.training.run import write_checkpoint
from gam_kg.training.trainer import Trainer
from pipelines.evaluate import evaluate, evaluate_worker
from pipelines.prepare import prepare
from pipelines.train import train_with_ray, train_worker, training_log

pytestmark = pytest.mark.ray

INTERVAL = 4
KILLED_IN_STEP = 11


@pytest.fixture(scope="module")
def config(tmp_path_factory, local_ray) -> Config:
    """A run with a graph, to be trained on two workers."""
    folder = tmp_path_factory.mktemp("faults")
    write_facts(folder / "facts.parquet")
    overrides = ["train.num_workers=2", f"train.checkpoint_steps={INTERVAL}", f"data.facts={folder}/facts.parquet"]
    config = load_config(None, [*SMALL, *overrides, f"run_dir={folder}/run"])
    prepare(config)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return config


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory) -> Path:
    return trained(config, tmp_path_factory.mktemp("uninterrupted"))


def trained(config: Config, folder: Path, worker: Any = None) -> Path:
    """Train in a folder of its own; a copy of the last training checkpoint."""
    config = config.model_copy(update={"run_dir": str(folder / "run")})
    graph = Path(config.data.facts).parent / "run" / "graph"
    with ExitStack() as stack:
        on_event = stack.enter_context(training_log(config, anew=True))
        last = train_with_ray(config, graph, folder / "training" / "key", stack, on_event, worker)
        return Path(os.fspath(last)).rename(folder / "last")


def killed_once(markers: Path, places: tuple[str, ...]) -> Any:
    """A worker whose rank 1 kills itself at each of some places, the first time it gets there."""

    def die(place: str) -> None:
        marker = markers / f"killed in {place}"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def in_step(train_step):
        def wrapped(trainer: Trainer, step: Step):
            if trainer.position.step == KILLED_IN_STEP:
                die("step")
            return train_step(trainer, step)

        return wrapped

    def in_checkpoint(save):
        def wrapped(trainer: Trainer, folder: Path):
            save(trainer, folder)
            if trainer.position.step >= KILLED_IN_STEP:
                die("checkpoint")

        return wrapped

    def in_validation(rank_split):
        def wrapped(*args, tick=lambda: None, **kwargs):
            def count():
                die("validation")
                tick()

            return rank_split(*args, tick=count, **kwargs)

        return wrapped

    def worker(settings: dict[str, Any]) -> None:
        if ray.train.get_context().get_world_rank() == 1:
            if "step" in places:
                gam_kg.training.trainer.Trainer._train_step = in_step(Trainer._train_step)
            if "checkpoint" in places:
                gam_kg.training.checkpoint.save = in_checkpoint(gam_kg.training.checkpoint.save)
            if "validation" in places:
                gam_kg.training.evaluate.rank_split = in_validation(gam_kg.training.evaluate.rank_split)
        train_worker(settings)

    return worker


def numbers(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint except times."""
    position = json.loads((checkpoint / "position.json").read_text())
    partition = Partition(len(torch.cat([ids["entity_id"] for ids in shards(checkpoint)])))
    losses = torch.tensor([[epoch["loss"], epoch["valid_mrr"]] for epoch in position["metrics"]], dtype=torch.float64)
    return {
        **load_weights(checkpoint, partition),
        **{f"best {name}": value for name, value in load_weights(checkpoint, partition, "best-").items()},
        **load_rows(checkpoint, "training", partition),
        "epochs": losses,
        "step": torch.tensor(position["step"]),
    }


def shards(checkpoint: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted(checkpoint.glob("entities-*"))]


def assert_same_numbers(found: Path, expected: Path, **tolerance: float) -> None:
    one, other = numbers(found), numbers(expected)
    assert one.keys() == other.keys()
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


@pytest.mark.parametrize(
    "places", [("step", "checkpoint"), pytest.param(("validation",), marks=pytest.mark.nightly)], ids=" and ".join
)
def test_each_kill_of_a_worker_changes_nothing_and_costs_at_most_one_interval(config, uninterrupted, tmp_path, places):
    found = trained(config, tmp_path, killed_once(tmp_path, places))
    for place in places:
        assert (tmp_path / f"killed in {place}").exists(), "nobody was killed"
    assert_same_numbers(found, uninterrupted)
    lines = (tmp_path / "run" / "log" / "steps.jsonl").read_text().splitlines()
    steps = Counter(json.loads(line)["step"] for line in lines)
    total = int(numbers(found)["step"])
    assert sorted(steps) == list(range(1, total + 1))
    assert sum(steps.values()) - total <= len(places) * INTERVAL


def test_a_worker_killed_in_the_evaluate_stage_changes_nothing(config, uninterrupted, tmp_path, monkeypatch):
    graph = read_manifest(config.run_path / "graph", "graph")
    manifest = Manifest.of("checkpoint", {"graph": graph.id}, checkpoint_settings(config))
    write_artifact(config.run_path / "checkpoint", manifest, lambda folder: write_checkpoint(folder, uninterrupted))
    config = config.model_copy(update={"evaluate": EvaluateConfig(splits=("test",))})
    evaluate(config.model_copy(update={"train": config.train.model_copy(update={"num_workers": 0})}))
    expected = pq.read_table(config.run_path / "evaluation" / "ranks.parquet")
    marker = tmp_path / "killed"

    def dying(run: Any, settings: dict[str, Any], on_event: Any) -> None:
        if run.graph.partition.rank == 1 and not marker.exists():

            def die(*_: Any) -> None:
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)

            Popularity.scores = die
        evaluate_worker(run, settings, on_event)

    monkeypatch.setattr("pipelines.evaluate.evaluate_worker", dying)
    evaluate(config, force=True)
    assert marker.exists(), "nobody was killed"
    assert pq.read_table(config.run_path / "evaluation" / "ranks.parquet").equals(expected)


@pytest.mark.nightly
def test_a_killed_node_leaves_the_run_to_the_workers_that_are_left(config, uninterrupted, tmp_path):
    values = config.model_dump(mode="json")
    values["train"]["num_workers"] = [1, 2]
    values["run_dir"] = str(tmp_path / "run")
    script = Path(__file__).with_name("node_loss.py")
    command = [sys.executable, str(script), json.dumps(values), str(config.run_path / "graph"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(shards(tmp_path / "last")) == 1
    lines = (tmp_path / "run" / "log" / "steps.jsonl").read_text().splitlines()
    assert len(lines) - len({json.loads(line)["step"] for line in lines}) <= INTERVAL
    # Two ranks and then one: within float error of two to the end.
    assert_same_numbers(tmp_path / "last", uninterrupted, rtol=1e-4, atol=1e-4)
