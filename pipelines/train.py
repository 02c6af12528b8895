"""The train stage: `graph/` → `checkpoint/`, by Ray Train workers (or in this process for zero workers)."""

import json
import logging
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Empty, Queue

from gam_kg.artifacts import Manifest, read_manifest, stage_key, write_manifest, writing
from gam_kg.config import Config
from gam_kg.data.graph import TemporalGraph, read_names
from gam_kg.data.names import NameWords
from gam_kg.distributed.topology import Topology
from gam_kg.train import checkpoint
from gam_kg.train.loop import Progress, Trainer
from pipelines.progress import console, progress
from pipelines.ray_session import ray_session
from pipelines.stages import artifact_path, is_current

_MAX_RESTARTS = 2
_OPERATIONAL = {"num_workers", "use_gpu", "threads", "checkpoint_steps"}

logger = logging.getLogger("gam_kg")


def train(config: Config, *, force: bool = False) -> Path:
    """Make the run's `checkpoint/` from its `graph/`.

    An interrupted run continues from its last checkpoint when started again with the same configuration.

    Args:
        config: The run's configuration.
        force: Train anew in any case, from the start.

    Returns:
        The folder of the artifact: the weights of the epoch with the best validation MRR.

    Raises:
        ArtifactError: There is no finished `graph/`.
    """
    path, graph_path = artifact_path(config, "checkpoint"), artifact_path(config, "graph")
    graph = read_manifest(graph_path, "graph")
    inputs = {"graph": graph.id}
    settings = {
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json", exclude=_OPERATIONAL),
    }
    key = stage_key("checkpoint", inputs, settings)
    if is_current(path, "checkpoint", key, force=force):
        return path
    storage = config.run_path / "training"
    if force:
        shutil.rmtree(storage / key, ignore_errors=True)
    for other in storage.glob("*") if storage.exists() else ():
        if other.name != key:
            shutil.rmtree(other, ignore_errors=True)
    with ray_session():
        final = _fit(config, graph_path, storage, key, graph.content)
        with final.as_directory() as folder:
            _write_artifact(path, Path(folder), Manifest("checkpoint", key, inputs, settings))
    shutil.rmtree(storage, ignore_errors=True)
    return path


def train_worker(settings: dict[str, Any]) -> None:
    """What each worker runs.

    Args:
        settings: `config` (the resolved configuration), `graph` (folder), `progress` (queue or None).
    """
    config = Config.model_validate(settings["config"])
    torch.set_num_threads(config.train.threads or os.cpu_count() or 1)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    graph_path = Path(settings["graph"])
    graph, _ = TemporalGraph.load(graph_path, rank=rank, world_size=world_size)
    words = NameWords.of(read_names(graph_path, "entity").to_pylist()) if config.model.name_words else None
    trainer = Trainer(config, graph, words, device=get_device(), topology=Topology(rank, world_size))
    if latest := ray.train.get_checkpoint():
        with latest.as_directory() as folder:
            checkpoint.load(trainer, Path(folder))
    queue: Queue | None = settings["progress"]
    for told in trainer.run():
        if queue is not None:
            queue.put_nowait(told)
        if told.checkpoint:
            with tempfile.TemporaryDirectory() as folder:
                checkpoint.save(trainer, Path(folder))
                (Path(folder) / "words.json").write_text(json.dumps(words.words if words else []), encoding="utf-8")
                ray.train.report(told.metrics or {}, checkpoint=Checkpoint.from_directory(folder))


def _fit(config: Config, graph_path: Path, storage: Path, key: str, content: dict[str, Any]) -> Checkpoint:
    workers, cpus = config.train.num_workers, ray.cluster_resources().get("CPU", 1)
    per_worker = {"CPU": config.train.threads or max(1, int(cpus) // max(1, workers))}
    if config.train.use_gpu:
        per_worker["GPU"] = 1
    queue = Queue(actor_options={"num_cpus": 0})
    log = _ProgressLog(config, queue, content)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": config.model_dump(mode="json"), "graph": str(graph_path), "progress": queue},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=config.train.use_gpu, resources_per_worker=per_worker if workers else None
        ),
        run_config=RunConfig(
            name=key,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=_MAX_RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    with log:
        result = trainer.fit()
    queue.shutdown()
    assert result.checkpoint is not None, "a finished training has reported its last epoch"
    return result.checkpoint


class _ProgressLog:
    """Shows what workers tell, and keeps the metrics of each epoch as JSON lines and for TensorBoard."""

    def __init__(self, config: Config, queue: Queue, content: dict[str, Any]) -> None:
        self._queue, self._config = queue, config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        splits = content["splits"]
        logger.info("training on %d facts, validating on %d", splits["train"], splits["valid"])

    def __enter__(self) -> None:
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
                self._record(told.metrics)
                told = self._next()

    def _next(self) -> Progress | None:
        while True:
            try:
                return self._queue.get(timeout=0.5)
            except Empty:
                if self._stop.is_set():
                    return None

    def _record(self, metrics: dict[str, Any]) -> None:
        console.print(
            f"epoch {metrics['epoch']}: loss {metrics['loss']:.3f}, validation MRR {100 * metrics['valid_mrr']:.2f}, "
            f"{metrics['facts_per_second']:.0f} facts/s, {metrics['seconds']:.0f} s, "
            f"{metrics['peak_memory_bytes'] / 2**30:.1f} GiB"
        )
        log = self._config.run_path / "log"
        log.mkdir(parents=True, exist_ok=True)
        with (log / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        _write_tensorboard(log, metrics)


def _write_tensorboard(log: Path, metrics: dict[str, Any]) -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the tensorboard extra is not installed
        return
    with SummaryWriter(str(log)) as writer:
        for name, value in metrics.items():
            writer.add_scalar(name, value, global_step=metrics["epoch"])


def _write_artifact(path: Path, trained: Path, manifest: Manifest) -> None:
    position = json.loads((trained / "position.json").read_text(encoding="utf-8"))
    best = position["metrics"][position["best_epoch"] - 1]
    with writing(path) as staging:
        checkpoint.save_weights(checkpoint.load_weights(trained, prefix="best-"), staging)
        shutil.copy(trained / "words.json", staging)
        lines = (json.dumps(metrics) + "\n" for metrics in position["metrics"])
        (staging / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
        content = {"epochs": position["epoch"], "best_epoch": position["best_epoch"], "valid_mrr": best["valid_mrr"]}
        write_manifest(staging, Manifest(manifest.kind, manifest.key, manifest.inputs, manifest.config, content))
    logger.info(
        "checkpoint: best epoch %d of %d, validation MRR %.2f",
        position["best_epoch"],
        position["epoch"],
        100 * best["valid_mrr"],
    )
