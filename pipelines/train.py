"""The train stage: `graph/` → `checkpoint/`, by Ray Train workers (or in this process for zero workers)."""

import logging
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConsistencyMode

from gam_kg.artifacts import Content
from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.mirror import push_training
from gam_kg.run_folder import remove_finished_training
from gam_kg.training.position import Progress
from gam_kg.training.run import (
    LocalCheckpoints,
    Write,
    compute_device,
    describe_checkpoint,
    threads,
    train_graph,
    write_checkpoint,
)
from gam_kg.training.training_log import TrainingLog
from gam_kg.workflow.situation import CHECKPOINT
from gam_kg.workflow.stage import Stage, Task
from .metrics import record
from .progress import print_line, progress
from .ranks import OnEvent
from .workers import Worker, enter, run_workers

logger = logging.getLogger("gam_kg")


def _write(task: Task) -> Content:
    """The weights of the epoch with the best validation MRR.

    An interrupted training continues from its last checkpoint when it is started again with the same configuration, on
    any number of workers.
    """
    config, splits = task.config, task.read["graph"].content["splits"]
    storage = _training_folder(config) / task.manifest.key
    if task.force:
        shutil.rmtree(storage, ignore_errors=True)
    log = training_log(config, anew=not storage.exists())
    logger.info("training on %d facts, validating on %d", splits["train"], splits["valid"])
    graph_path = task.paths["graph"]
    with ExitStack() as stack:
        on_event = recorded(_copying(config, stack.enter_context(log)), config.run_path.name)
        if config.train.most_workers:
            trained = train_with_ray(config, graph_path, storage, stack, on_event)
        else:
            trained = _train_here(config, graph_path, storage, on_event)
        return write_checkpoint(task.folder, trained)


def _copying(config: Config, on_event: OnEvent) -> OnEvent:
    """Also copies training checkpoints to a run at a URI: each when the event after its own says that it is whole."""
    written = False

    def forward(event: Any) -> None:
        nonlocal written
        if written:
            push_training(config.run_path)
        written = event.checkpoint
        on_event(event)

    return forward


def training_log(config: Config, *, anew: bool) -> TrainingLog:
    """The run's training log, which shows progress on the console."""
    return TrainingLog(config, anew=anew, open_progress=progress, print_line=print_line)


def recorded(log: OnEvent, run_name: str) -> OnEvent:
    """A receiver of the trainer's events that passes them to the log and sets the run's gauges."""

    def on_event(event: Progress) -> None:
        log(event)
        if event.metrics is None:
            record(run_name, loss=event.loss)
        else:
            figures = {"validation_mrr": "valid_mrr", "facts_per_second": "facts_per_second", "loss": "loss"}
            record(run_name, **{name: event.metrics[key] for name, key in figures.items()})

    return on_event


def train_with_ray(
    config: Config, graph_path: Path, storage: Path, stack: ExitStack, on_event: OnEvent, worker: Worker | None = None
) -> Path:
    """Train with Ray Train workers; Ray writes the checkpoints under `storage` and restarts failed workers.

    Args:
        config: The run's configuration.
        graph_path: The `graph/` artifact.
        storage: Folder that all nodes see.
        stack: The result exists until it is closed.
        on_event: Receives the trainer's events.
        worker: What each worker runs; None for `train_worker`.

    Returns:
        The last training checkpoint.
    """
    result = run_workers(config, worker or train_worker, {"graph": str(graph_path)}, storage=storage, on_event=on_event)
    assert result.checkpoint is not None, "a finished training has reported its last epoch"
    return Path(stack.enter_context(result.checkpoint.as_directory()))


def train_worker(settings: dict[str, Any]) -> None:
    """Train as one rank of the Ray Train workers.

    Args:
        settings: Those of `run_workers`, and `graph`, the folder of the artifact.
    """
    config, communicator, device, on_event = enter(settings)

    def report_checkpoint(write: Write, metrics: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
        # A restart resumes from a committed checkpoint: after a crash just after `report` it took the one before.
        ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)

    with ExitStack() as stack:
        reported = ray.train.get_checkpoint()
        train_graph(
            config,
            Path(settings["graph"]),
            communicator=communicator,
            device=device,
            latest=Path(stack.enter_context(reported.as_directory())) if reported else None,
            on_event=on_event,
            save=report_checkpoint,
        )


def _train_here(config: Config, graph_path: Path, storage: Path, on_event: OnEvent) -> Path:
    """Train in this process, without Ray; the last checkpoint is under `storage`."""
    torch.set_num_threads(threads(config))
    communicator, device = Communicator(), torch.device(compute_device(config))
    local = LocalCheckpoints(storage, communicator)
    latest, save = local.latest(), local.save
    train_graph(
        config, graph_path, communicator=communicator, device=device, latest=latest, on_event=on_event, save=save
    )
    return local.path


def _training_folder(config: Config) -> Path:
    return config.run_path / "training"


train = Stage(
    CHECKPOINT,
    write=_write,
    summary=lambda _, content: describe_checkpoint(content),
    finish=lambda config: shutil.rmtree(_training_folder(config), ignore_errors=True),
    deliver=lambda config: remove_finished_training(config.run_path),
)
