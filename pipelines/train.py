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

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Queue

from gam_kg.artifacts import Manifest, read_manifest, stage_key, write_manifest, writing
from gam_kg.config import Config
from gam_kg.data.graph import TemporalGraph, read_names
from gam_kg.data.names import NameWords
from gam_kg.distributed.topology import Topology
from gam_kg.errors import ConfigError
from gam_kg.train import checkpoint
from gam_kg.train.loop import Progress, Trainer
from pipelines.progress import console, progress
from pipelines.ray_session import ray_session
from pipelines.stages import artifact_path, compute_device, is_current, threads

_MAX_RESTARTS = 2
_POLL_SECONDS = 0.5
# What changes how training is done but not what comes out.
_OPERATIONAL = {"num_workers", "use_gpu", "threads", "checkpoint_steps", "max_logits"}

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
    if not (storage / key).exists():
        shutil.rmtree(config.run_path / "log", ignore_errors=True)
    manifest = Manifest("checkpoint", key, inputs, settings)
    fit = _fit_with_ray if config.train.num_workers else _fit_here
    fit(config, graph_path, storage / key, graph.content, lambda folder: _write_artifact(path, folder, manifest))
    shutil.rmtree(storage, ignore_errors=True)
    return path


def _train(
    config: Config,
    graph_path: Path,
    topology: Topology,
    device: torch.device,
    latest: Path | None,
    tell: Callable[[Progress], None],
    keep: Callable[[Path, dict[str, Any]], None],
) -> None:
    """Train to the end.

    Args:
        config: The run's configuration.
        graph_path: The `graph/` artifact.
        topology: The ranks.
        device: Where to compute.
        latest: Checkpoint to continue from.
        tell: Told of every snapshot and epoch.
        keep: Given each new checkpoint, a folder that it must copy or move, and the metrics if an epoch has just ended.
    """
    torch.set_num_threads(threads(config))
    graph, _ = TemporalGraph.load(graph_path, rank=topology.rank, world_size=topology.world_size)
    words = None
    if config.model.name_words:
        words = NameWords.of(read_names(graph_path, "entity").to_pylist(), known=graph.trained.tolist())
    trainer = Trainer(config, graph, words, device=device, topology=topology)
    if latest is not None:
        checkpoint.load(trainer, latest)
    for told in trainer.run():
        tell(told)
        if told.checkpoint:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                checkpoint.save(trainer, folder)
                (folder / "words.json").write_text(json.dumps(words.words if words else []), encoding="utf-8")
                keep(folder, told.metrics or {})


def _fit_here(
    config: Config, graph_path: Path, storage: Path, content: dict[str, Any], use: Callable[[Path], None]
) -> None:
    """Train in this process, without Ray; `storage` holds the last checkpoint."""
    latest = storage / "checkpoint"

    def keep(folder: Path, _: dict[str, Any]) -> None:
        incoming, old = storage / "incoming", storage / "old"
        shutil.rmtree(incoming, ignore_errors=True)
        shutil.copytree(folder, incoming)
        if latest.exists():
            shutil.rmtree(old, ignore_errors=True)
            latest.rename(old)
        incoming.rename(latest)
        shutil.rmtree(old, ignore_errors=True)

    if not latest.exists() and (storage / "old").exists():  # stopped between the two renames
        (storage / "old").rename(latest)
    told: queue.SimpleQueue[Progress] = queue.SimpleQueue()
    device = torch.device(compute_device(config))
    with _ProgressLog(config, lambda: told.get(timeout=_POLL_SECONDS), content):
        _train(config, graph_path, Topology(), device, latest if latest.exists() else None, told.put, keep)
    use(latest)


def _fit_with_ray(
    config: Config, graph_path: Path, storage: Path, content: dict[str, Any], use: Callable[[Path], None]
) -> None:
    """Train with Ray Train workers; Ray keeps the checkpoints under `storage` and restarts failed workers."""
    with ray_session():
        workers, available = config.train.num_workers, ray.cluster_resources()
        resources = {"CPU": threads(config)}
        if config.train.use_gpu:
            resources["GPU"] = 1
        for name, wanted in resources.items():
            if wanted * workers > available.get(name, 0):
                raise ConfigError(
                    f"training wants {wanted * workers} {name}, Ray has {int(available.get(name, 0))}; "
                    f"lower {'train.threads' if name == 'CPU' else 'train.num_workers'}"
                    f"{' or set train.use_gpu=false' if name == 'GPU' else ''}"
                )
        told = Queue(actor_options={"num_cpus": 0})
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"config": config.model_dump(mode="json"), "graph": str(graph_path), "told": told},
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=config.train.use_gpu, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=storage.name,
                storage_path=str(storage.parent),
                failure_config=FailureConfig(max_failures=_MAX_RESTARTS),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        )
        with _ProgressLog(config, lambda: told.get(timeout=_POLL_SECONDS), content):
            result = trainer.fit()
        told.shutdown()
        assert result.checkpoint is not None, "a finished training has reported its last epoch"
        with result.checkpoint.as_directory() as folder:
            use(Path(folder))


def train_worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs.

    Args:
        settings: `config` (the resolved configuration), `graph` (folder), `told` (queue of progress).
    """
    context = ray.train.get_context()
    topology = Topology(context.get_world_rank(), context.get_world_size())
    config, graph_path = Config.model_validate(settings["config"]), Path(settings["graph"])

    def keep(folder: Path, metrics: dict[str, Any]) -> None:
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(str(folder)))

    with ExitStack() as stack:
        reported = ray.train.get_checkpoint()
        latest = Path(stack.enter_context(reported.as_directory())) if reported else None
        _train(config, graph_path, topology, get_device(), latest, settings["told"].put_nowait, keep)


class _ProgressLog:
    """Shows what workers tell, and keeps the metrics of each epoch as JSON lines and for TensorBoard."""

    def __init__(self, config: Config, get: Callable[[], Progress], content: dict[str, Any]) -> None:
        self._get, self._config = get, config
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
                return self._get()
            except queue.Empty:
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
