"""Damage to any file of a finished run: the right numbers, or an error that says what to do; nothing else.

GAM_KG_FUZZ_SEED and GAM_KG_FUZZ_CASES choose other damage and more of it.
"""

import json
import os
import pickle
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import NUM_ENTITIES, all_queries, graph_of, random_facts, tiny_config, write_graph
from mutations import mutated
from runs import train_run

from gam_kg.artifacts import MANIFEST, Manifest, open_artifact, write_artifact
from gam_kg.config import Config, EvaluateConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import ArtifactError, EvaluationError, GamKGError
from gam_kg.graph.partition import Partition
from gam_kg.inference.embed import write_embeddings
from gam_kg.inference.evaluation import evaluate_run
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.parquet import write_table
from gam_kg.training.checkpoint import load_weights, save_weights, seal
from gam_kg.training.run import train_graph, write_checkpoint
from gam_kg.training.step import ShardedModel
from gam_kg.versions import artifact_folder, publish, version_name
from pipelines.report import read_metrics

SEED = os.environ.get("GAM_KG_FUZZ_SEED", "0")
CASES = int(os.environ.get("GAM_KG_FUZZ_CASES", "150"))
MOST_BYTES = 2**30
MOST_SECONDS = 60
CONFIG = tiny_config(epochs=1)
KINDS = ("graph", "checkpoint", "evaluation", "embeddings")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run with every artifact that is read again, and with the training checkpoint of its last epoch."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    write_graph(folder / "graph", graph_of(random_facts(1, 150), buckets=3), buckets=3)
    train_run(folder, CONFIG)
    run = TrainedRun.load(folder)
    inputs = {"graph": run.graph_manifest.id, "checkpoint": run.checkpoint_manifest.id}
    last = run.graph.end - 3

    def embed(staging: Path) -> dict[str, Any]:
        write_embeddings(run, last, staging)
        return {"after_snapshot": last}

    def evaluate(staging: Path) -> dict[str, Any]:
        found = evaluate_run(run, EvaluateConfig(settings=("single_step",)))
        (staging / "metrics.json").write_text(json.dumps(found.metrics))
        write_table(found.ranks, staging / "ranks.parquet")
        return {}

    write_artifact(folder / "evaluation", Manifest.of("evaluation", inputs, {}), evaluate)
    described = Manifest.of("embeddings", inputs, {})
    publish(folder / "embeddings", version_name("0"), described, embed, CONFIG.publish, at_end=True)
    return folder


def numbers(run: Path, scratch: Path) -> dict[str, Any]:
    """Everything that is read from a run: by queries, by the report, and by a training that continues."""
    loaded = TrainedRun.load(run)
    scorer = loaded.scorer_before(loaded.graph.end)
    trained: list[dict[str, Any]] = []
    scratch.mkdir()
    train_graph(
        CONFIG,
        run / "graph",
        communicator=Communicator(),
        device=torch.device("cpu"),
        latest=run / "training" / "checkpoint",
        on_event=lambda _: None,
        save=lambda *_: None,
    )
    trained.append(write_checkpoint(scratch, run / "training" / "checkpoint"))
    open_artifact(run / "evaluation", "evaluation")
    return {
        "vectors": scorer.vectors(),
        "scores": scorer.table(all_queries(loaded.graph.end)),
        "names": loaded.entities.names.to_pylist(),
        "metrics": read_metrics(Config(run_dir=str(run))),
        "trained": trained,
        "best": load_weights(scratch, loaded.graph.partition),
    }


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    return torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected


@pytest.fixture(scope="module")
def expected(finished, tmp_path_factory) -> dict[str, Any]:
    return numbers(finished, tmp_path_factory.mktemp("expected") / "scratch")


@contextmanager
def bounded() -> Iterator[None]:
    """Bound time and memory; what is beyond raises an error that is not the user's."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {MOST_SECONDS} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(MOST_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def read(run: Path, scratch: Path) -> dict[str, Any] | GamKGError:
    with bounded():
        try:
            return numbers(run, scratch)
        except GamKGError as error:
            return error


def files_of(run: Path) -> list[Path]:
    return sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file())


@pytest.fixture
def damaged(finished, tmp_path) -> Iterator[tuple[Path, Path]]:
    """A copy of the run, and a place to write."""
    shutil.copytree(finished, tmp_path / "run")
    yield tmp_path / "run", tmp_path / "scratch"
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("case", range(CASES))
def test_damage_is_found_or_does_no_harm(damaged, expected, case):
    run, scratch = damaged
    generator = random.Random(f"{SEED}-{case}")
    file = generator.choice(files_of(run))
    (run / file).write_bytes(mutated((run / file).read_bytes(), f"{SEED}-{case}"))
    found = read(run, scratch)
    if isinstance(found, GamKGError):
        assert "--force" in str(found) or "another" in str(found), str(found)
        return
    assert same(found, expected), f"{file}: other numbers"
    harmless = file.parts[0] == "embeddings" or file.name == MANIFEST or file.name.startswith("digests-")
    assert harmless, f"{file}: damage was not found"


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Trap(path.parent / "trace")))


def _torch_pickle(path: Path) -> None:
    torch.save(Trap(path.parent / "trace"), path)


@pytest.mark.parametrize("replace", [_remove, _empty, _folder, _pipe, _endless, _pickle, _torch_pickle])
def test_something_else_in_the_place_of_any_file_is_refused(finished, tmp_path, expected, replace):
    for number, file in enumerate(files_of(finished)):
        run, scratch = tmp_path / f"run {number}", tmp_path / f"scratch {number}"
        shutil.copytree(finished, run)
        replace(run / file)
        found = read(run, scratch)
        if file.parts[0] == "embeddings":  # nothing is read from them again
            assert not isinstance(found, GamKGError), file
            assert same(found, expected), file
        else:
            assert isinstance(found, ArtifactError), file
        assert not list(run.rglob("trace")), f"{file}: a pickle was read"
        shutil.rmtree(run, ignore_errors=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_names_the_file_and_the_stage_to_redo(damaged, kind):
    run, _ = damaged
    verb = {"graph": "prepare", "checkpoint": "train", "evaluation": "evaluate", "embeddings": "embed"}[kind]
    folder = artifact_folder(run, kind)
    file = next(path for path in sorted(folder.rglob("*")) if path.suffix in (".parquet", ".safetensors"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError) as found:
        open_artifact(folder, kind)
    assert str(file) in str(found.value)
    assert f"redo it: gam-kg {verb} CONFIG --force" in str(found.value)


def test_a_file_too_many_is_refused_where_it_would_be_read(damaged):
    run, _ = damaged
    part = next((run / "graph" / "anchored").rglob("*.parquet"))
    shutil.copy(part, part.with_name("more.parquet"))
    with pytest.raises(ArtifactError, match=r"more\.parquet is no file of this graph"):
        TrainedRun.load(run)
    (part.parent / "more.parquet").rename(part.parent / "notes.txt")
    TrainedRun.load(run)


def _nan(weights: dict[str, torch.Tensor]) -> None:
    weights["entity"][0, 0] = torch.nan


def _infinite(weights: dict[str, torch.Tensor]) -> None:
    weights["relation"][0, 0] = -torch.inf


def _other_shape(weights: dict[str, torch.Tensor]) -> None:
    weights["relation"] = weights["relation"].T.contiguous()


def _other_rows(weights: dict[str, torch.Tensor]) -> None:
    weights["entity"] = weights["entity"][:, :1].contiguous()


def _missing(weights: dict[str, torch.Tensor]) -> None:
    del weights["relation"]


@pytest.mark.parametrize("change", [_nan, _infinite, _other_shape, _other_rows, _missing])
def test_wrong_weights_under_a_right_digest_are_refused(damaged, change: Callable[[dict[str, torch.Tensor]], None]):
    run, _ = damaged
    loaded = TrainedRun.load(run)
    weights = load_weights(run / "checkpoint", loaded.graph.partition)
    change(weights)

    def write(folder: Path) -> dict[str, Any]:
        shutil.copy(run / "checkpoint" / "words.json", folder)
        save_weights(weights, folder, loaded.graph.partition)
        return {}

    write_artifact(run / "checkpoint", loaded.checkpoint_manifest, write)
    with pytest.raises((ArtifactError, EvaluationError), match="checkpoint"):
        TrainedRun.load(run)


def test_weights_that_are_not_finite_become_no_checkpoint(damaged):
    run, scratch = damaged
    trained, whole = run / "training" / "checkpoint", Partition(NUM_ENTITIES, 3)
    weights = load_weights(trained, whole, prefix="best-")
    weights["entity"][0, 0] = torch.nan
    save_weights(weights, trained, whole, prefix="best-")
    next(trained.glob("digests-*")).unlink()
    seal(trained, whole)
    scratch.mkdir()
    with pytest.raises(EvaluationError, match="weights entity"):
        write_checkpoint(scratch, trained)


def test_vectors_that_are_not_finite_become_no_embeddings(damaged, monkeypatch):
    run, scratch = damaged
    loaded, vectors = TrainedRun.load(run), ShardedModel.entity_vectors
    monkeypatch.setattr(ShardedModel, "entity_vectors", lambda *args, **options: vectors(*args, **options) / 0)
    scratch.mkdir()
    with pytest.raises(EvaluationError, match="vectors of the entities"):
        write_embeddings(loaded, loaded.graph.end - 1, scratch)
