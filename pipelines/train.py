"""The train stage: `graph/` → `checkpoint/`, by Ray Train workers (or in this process for zero workers)."""

import json
import logging
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConsistencyMode

from gam_kg.artifacts import Manifest, read_manifest
from gam_kg.config import Config
from gam_kg.distributed.topology import Topology
from gam_kg.errors import ArtifactError
from gam_kg.train.loop import Progress
from gam_kg.train.session import (
    LocalCheckpoints,
    Write,
    checkpoint_manifest,
    describe,
    threads,
    train_graph,
    write_checkpoint_artifact,
)
from pipelines.progress import console, progress
from pipelines.stages import artifact_path, compute_device, is_current
from pipelines.workers import POLL_SECONDS, Worker, enter, run_workers

logger = logging.getLogger("gam_kg")


def train(config: Config, *, force: bool = False) -> Path:
    """Make the run's `checkpoint/` from its `graph/`.

    An interrupted run continues from its last checkpoint when started again with the same configuration, on any number
    of workers.

    Args:
        config: The run's configuration.
        force: Train anew in any case, from the start.

    Returns:
        The folder of the artifact: the weights of the epoch with the best validation MRR.

    Raises:
        ArtifactError: There is no finished `graph/`, or no room for the log.
    """
    path, graph_path = artifact_path(config, "checkpoint"), artifact_path(config, "graph")
    graph = read_manifest(graph_path, "graph")
    manifest = checkpoint_manifest(config, graph)
    if is_current(path, "checkpoint", manifest.key, force=force):
        return path
    storage, log = config.run_path / "training" / manifest.key, config.run_path / "log"
    if log.exists() and not log.is_dir():
        raise ArtifactError(
            f"{log} is a file, where training needs a folder for its log; move it away, or choose another run_dir"
        )
    if force:
        shutil.rmtree(storage, ignore_errors=True)
    if not storage.exists():
        shutil.rmtree(log, ignore_errors=True)
    splits = graph.content["splits"]
    logger.info("training on %d facts, validating on %d", splits["train"], splits["valid"])
    if config.train.most_workers:
        with ExitStack() as stack:
            _write(path, train_with_ray(config, graph_path, storage, stack), manifest)
    else:
        _write(path, _train_here(config, graph_path, storage), manifest)
    shutil.rmtree(storage.parent, ignore_errors=True)
    return path


def train_with_ray(
    config: Config, graph_path: Path, storage: Path, stack: ExitStack, worker: Worker | None = None
) -> Path:
    """Train with Ray Train workers; Ray keeps the checkpoints under `storage` and restarts failed workers.

    Args:
        config: The run's configuration.
        graph_path: The `graph/` artifact.
        storage: Folder that all nodes see.
        stack: Keeps the result until it is closed.
        worker: What each worker runs; None for `train_worker`.

    Returns:
        The last training checkpoint.
    """
    result = run_workers(
        config,
        worker or train_worker,
        {"graph": str(graph_path)},
        storage=storage,
        follow=lambda get: ProgressLog(config, get),
    )
    assert result.checkpoint is not None, "a finished training has reported its last epoch"
    return Path(stack.enter_context(result.checkpoint.as_directory()))


def train_worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs.

    Args:
        settings: Those of `run_workers`, and `graph`, the folder of the artifact.
    """
    config, topology, device, tell = enter(settings)

    def keep(write: Write, metrics: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
        # Only then is it what a restart resumes from: a crash just after `report` went back one checkpoint more.
        ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)

    with ExitStack() as stack:
        reported = ray.train.get_checkpoint()
        latest = Path(stack.enter_context(reported.as_directory())) if reported else None
        graph_path = Path(settings["graph"])
        train_graph(config, graph_path, topology=topology, device=device, latest=latest, tell=tell, keep=keep)


def _train_here(config: Config, graph_path: Path, storage: Path) -> Path:
    """Train in this process, without Ray; `storage` holds the last checkpoint."""
    torch.set_num_threads(threads(config))
    checkpoints = LocalCheckpoints(storage, Topology())
    told: queue.SimpleQueue[Progress] = queue.SimpleQueue()
    with ProgressLog(config, lambda: told.get(timeout=POLL_SECONDS)):
        train_graph(
            config,
            graph_path,
            topology=Topology(),
            device=torch.device(compute_device(config)),
            latest=checkpoints.latest(),
            tell=told.put,
            keep=checkpoints.keep,
        )
    return checkpoints.path


def _write(path: Path, trained: Path, manifest: Manifest) -> None:
    content = write_checkpoint_artifact(path, trained, manifest)
    logger.info(
        "checkpoint: best epoch %d of %d, validation MRR %.2f",
        content["best_epoch"],
        content["epochs"],
        100 * content["valid_mrr"],
    )


class ProgressLog:
    """Shows what workers tell, and keeps it: steps and epochs as JSON lines, epochs also for TensorBoard.

    Args:
        config: The run's configuration.
        get: Gets what has been told next, or raises `queue.Empty` after a while.
    """

    def __init__(self, config: Config, get: Callable[[], Progress]) -> None:
        self._get, self._config = get, config
        self._log = config.run_path / "log"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._log.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _follow(self) -> None:
        told = self._next()
        while told is not None:
            with progress(f"epoch {told.epoch}/{self._config.train.epochs}", told.total) as advance:
                while told is not None and told.metrics is None:
                    note = f"loss {told.loss:.3f}" if told.phase == "train" else "validating"
                    advance(told.done if told.phase == "train" else told.total, note)
                    told = self._next()
            if told is not None and told.metrics is not None:
                console.print(describe(told.metrics))
                self._append("metrics.jsonl", told.metrics)
                _write_tensorboard(self._log, told.metrics)
                told = self._next()

    def _next(self) -> Progress | None:
        while True:
            try:
                told = self._get()
            except queue.Empty:
                if self._stop.is_set():
                    return None
            else:
                if told.snapshot is not None:
                    self._append("steps.jsonl", {"epoch": told.epoch, **told.snapshot})
                return told

    def _append(self, name: str, values: dict[str, Any]) -> None:
        with (self._log / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _write_tensorboard(log: Path, metrics: dict[str, Any]) -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the tensorboard extra is not installed
        return
    with SummaryWriter(str(log)) as writer:
        for name, value in _flat(metrics):
            writer.add_scalar(name, value, global_step=metrics["epoch"])


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    nested = [_flat(value, f"{prefix}{name}/") for name, value in values.items() if isinstance(value, dict)]
    plain = [(f"{prefix}{name}", value) for name, value in values.items() if not isinstance(value, dict)]
    return [*plain, *(pair for pairs in nested for pair in pairs)]
