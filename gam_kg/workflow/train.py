"""The train stage: `graph/` → `checkpoint/`, by whatever trains; `train_here` does it in this process."""

import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from gam_kg.artifacts import Content
from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.mirror import push_training
from gam_kg.ops.precision import require_precision
from gam_kg.run_folder import remove_finished_training
from gam_kg.training.position import Progress
from gam_kg.training.run import (
    LocalCheckpoints,
    batches_ahead,
    compute_device,
    describe_checkpoint,
    threads,
    train_graph,
    write_checkpoint,
)
from gam_kg.training.training_log import TrainingLog
from gam_kg.workflow.situation import CHECKPOINT
from gam_kg.workflow.stage import Stage, Task

OnEvent = Callable[[Progress], None]
Fit = Callable[[Config, Path, Path, ExitStack, OnEvent], Path]
"""(configuration, folder of the graph, folder for training checkpoints, what must stay open until the last one is read,
receiver of the trainer's events) → the last training checkpoint."""
OpenLog = Callable[..., TrainingLog]

logger = logging.getLogger("gam_kg")


def train_stage(fit: Fit, open_log: OpenLog) -> Stage:
    """The stage.

    An interrupted training continues from its last checkpoint when it is started again with the same configuration, on
    any number of workers.

    Args:
        fit: Trains.
        open_log: (configuration, anew=whether the log of an earlier training is removed) → the run's training log.
    """

    def write(task: Task) -> Content:
        """The weights of the epoch with the best validation MRR.

        Raises:
            ConfigError: See `require_precision`.
        """
        require_precision(task.config.train.precision, use_gpu=task.config.train.use_gpu)
        config, splits = task.config, task.read["graph"].content["splits"]
        storage = _folder(config) / task.manifest.key
        if task.force:
            shutil.rmtree(storage, ignore_errors=True)
        log = open_log(config, anew=not storage.exists())
        logger.info("training on %d facts, validating on %d", splits["train"], splits["valid"])
        with ExitStack() as stack:
            on_event = _copying(config, stack.enter_context(log))
            return write_checkpoint(task.folder, fit(config, task.paths["graph"], storage, stack, on_event))

    return Stage(
        CHECKPOINT,
        write=write,
        summary=lambda _, content: describe_checkpoint(content),
        finish=lambda config: shutil.rmtree(_folder(config), ignore_errors=True),
        deliver=lambda config: remove_finished_training(config.run_path),
    )


def train_here(config: Config, graph_path: Path, storage: Path, _: ExitStack, on_event: OnEvent) -> Path:
    """A `Fit` in this process; the last checkpoint is under `storage`."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(threads(config))
    communicator, device = Communicator(), torch.device(compute_device(config))
    local = LocalCheckpoints(storage, communicator)
    latest, save = local.latest(), local.save
    try:
        train_graph(
            config,
            graph_path,
            communicator=communicator,
            device=device,
            latest=latest,
            on_event=on_event,
            save=save,
            read_ahead=batches_ahead(config),
        )
    finally:
        torch.set_num_threads(num_threads)
    return local.path


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


def _folder(config: Config) -> Path:
    return config.run_path / "training"
