"""Work on a finished run: in this process, without Ray, or on several ranks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gam_kg.config import Config
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.training.run import compute_device, threads
from .progress import progress

OnEvent = Callable[[Any], None]
OnRun = Callable[[TrainedRun, dict[str, Any], OnEvent], None]


def on_ranks(
    config: Config,
    work: OnRun,
    settings: dict[str, Any],
    description: str,
    *,
    opened: TrainedRun | None = None,
    pending: Path | None = None,
) -> None:
    """Run a function on a finished run: on `train.num_workers` ranks if they are several, else in this process.

    Args:
        config: The run's configuration.
        work: Called on each rank with the run as the rank has it, `settings`, and a function that takes progress as
            (done, total).
        settings: Plain values.
        description: What is being done.
        opened: The run, if this process has it open already.
        pending: See `TrainedRun.load`.
    """
    with progress(description, 1) as advance:

        def on_event(event: tuple[int, int]) -> None:
            advance(event[0], total=event[1])

        if config.train.most_workers <= 1:
            work(opened or open_run(config, pending), settings, on_event)
        else:
            from .workers import run_on_workers

            run_on_workers(config, work, settings, description, on_event, pending)


def open_run(config: Config, pending: Path | None = None) -> TrainedRun:
    """The run's graph and model, whose files the stage has verified, on the configured device and threads.

    Args:
        config: The run's configuration.
        pending: See `TrainedRun.load`.

    Raises:
        ArtifactError: `graph/` or `checkpoint/` is missing, or they do not belong together.
    """
    torch.set_num_threads(threads(config))
    return TrainedRun.load(config.run_path, compute_device(config), verified=True, pending=pending)
