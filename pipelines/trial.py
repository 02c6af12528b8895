"""One trial of `tune`: a training that reports each epoch, may be stopped after any, and goes on where it was."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gam_kg.artifacts import read_json
from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import ArtifactError, ConfigError, GamKGError, OutputError
from gam_kg.output import remove, replacing
from gam_kg.training.run import LocalCheckpoints, Write, compute_device, threads, train_graph

UNFINISHED, FINISHED, STOPPED, FAILED = "unfinished", "finished", "stopped", "failed"

_RECORD = "record.json"
_REPORTED = ("epoch", "valid_mrr", "seconds")


@dataclass
class Record:
    """What is known of a trial; a file in its folder.

    Attributes:
        status: "unfinished"; "finished": trained to the end; "stopped": others were better; "failed".
        epochs: `epoch`, `valid_mrr` and `seconds` of each epoch.
        error: Why it failed.
    """

    status: str = UNFINISHED
    epochs: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """The record in the folder of a trial, an empty one where there is none.

        Raises:
            ArtifactError: It is damaged.
        """
        if not (folder / _RECORD).exists():
            return cls()
        try:
            return cls(**read_json(folder / _RECORD, "tune"))
        except (ArtifactError, TypeError):
            raise ArtifactError(
                f"{folder / _RECORD} is damaged; remove {folder}, and its trial is trained anew"
            ) from None

    def write(self, folder: Path) -> None:
        """Write it into the folder of the trial."""
        with replacing(folder / _RECORD) as staging:
            staging.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def end(self, folder: Path, status: str, error: str | None = None) -> None:
        """Record that the trial has ended, and remove its checkpoint."""
        self.status, self.error = status, error
        self.write(folder)
        remove(folder / "checkpoint")

    def best(self) -> dict[str, Any] | None:
        """The epoch with the best validation MRR, the first of several; None before the first has ended."""
        return max(self.epochs, key=lambda epoch: epoch["valid_mrr"], default=None)


def train_trial(config: Config, graph: Path, folder: Path, report: Callable[[dict[str, Any]], None]) -> None:
    """Train in this process, on training facts, and rank validation facts after each epoch.

    Args:
        config: The configuration of the trial.
        graph: The `graph/` artifact.
        folder: Has the trial's checkpoint and record, from which it goes on.
        report: Receives `epoch`, `valid_mrr` and `seconds` of every epoch, those that were recorded before included;
            may not return, where the trial is stopped.

    Raises:
        ArtifactError: The graph or the checkpoint cannot be read.
        ConfigError: This machine cannot train with these settings.
        OutputError: The folder cannot be written.
    """
    record = Record.read(folder)
    for epoch in record.epochs:
        report({**epoch, "is_new": False})
    if record.status != UNFINISHED:
        return
    torch.set_num_threads(threads(config))
    communicator = Communicator()
    checkpoints = LocalCheckpoints(folder, communicator)

    def save(write: Write, metrics: dict[str, Any]) -> None:
        # Recorded first: an epoch that is recorded and not in the checkpoint is trained again, with the same result.
        is_new = bool(metrics) and metrics["epoch"] > len(record.epochs)
        if is_new:
            record.epochs.append({name: metrics[name] for name in _REPORTED})
            record.write(folder)
        checkpoints.save(write, metrics)
        if is_new:
            report({**record.epochs[-1], "is_new": True})

    try:
        train_graph(
            config,
            graph,
            communicator=communicator,
            device=torch.device(compute_device(config)),
            latest=checkpoints.latest(),
            on_event=lambda _: None,
            save=save,
        )
    except (ArtifactError, ConfigError, OutputError):
        raise
    except GamKGError as error:  # settings with which training fails are a result
        record.end(folder, FAILED, str(error))
    else:
        record.end(folder, FINISHED)
