"""The train stage: `graph/` → `checkpoint/`, by Ray Train workers (or in this process for zero workers)."""

import logging
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointConsistencyMode

from gam_kg.config import Config
from gam_kg.training.position import Progress
from gam_kg.training.run import Write, batches_ahead, train_graph
from gam_kg.training.training_log import TrainingLog
from gam_kg.workflow.train import train_here, train_stage
from .metrics import record
from .progress import print_line, progress
from .ranks import OnEvent
from .workers import Worker, enter, run_workers

logger = logging.getLogger("gam_kg")


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
            read_ahead=batches_ahead(config),
        )


def _fit(config: Config, graph_path: Path, storage: Path, stack: ExitStack, on_event: OnEvent) -> Path:
    on_event = recorded(on_event, config.run_path.name)
    fit = train_with_ray if config.train.most_workers else train_here
    return fit(config, graph_path, storage, stack, on_event)


train = train_stage(_fit, training_log)
