"""Settings that are all away from their defaults, and runs trained from a stored graph as the commands train them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from gam_kg.artifacts import Manifest, read_manifest, write_artifact
from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.run_config import checkpoint_settings
from gam_kg.training.position import Progress
from gam_kg.training.run import (
    LocalCheckpoints,
    Write,
    train_graph,
    write_checkpoint,
)

UNUSUAL: dict[str, Any] = {
    "seed": 7,
    "model.dim": 12,
    "model.heads": 2,
    "model.decoder": "conv_transe",
    "model.dropout": 0.2,
    "model.entity_dropout": 0.3,
    "model.relation_dropout": 0.25,
    "model.name_words": False,
    "model.word_agreement": False,
    "model.memory": False,
    "model.gate": False,
    "model.history.recent": 4,
    "model.history.same_relation": 2,
    "model.history.popular": 5,
    "model.history.pair_statistics": False,
    "model.history.two_hop_first": 3,
    "model.history.two_hop_second": 2,
    "model.history.two_hop_newest": 4,
    "model.history.rule_bodies": 4,
    "model.history.rule_heads": 1,
    "model.history.rule_count": 2,
    "model.history.max_rules": 10_000,
    "model.history.rule_confidence": False,
    "model.history.dim": 3,
    "model.history.popularity_dim": 2,
    "train.epochs": 2,
    "train.learning_rate": 0.02,
    "train.decay_epochs": 3,
    "train.final_learning_rate": 0.3,
    "train.weight_decay": 0.4,
    "train.label_smoothing": 0.2,
    "train.gradient_norm": 0.7,
    "train.window": 1,
    "train.max_horizon": 3,
    "train.ahead_share": 0.6,
    "train.answers_per_step": 12,
    "train.max_steps_per_snapshot": 3,
    "train.candidates": "sampled",
    "train.num_negatives": 3,
    "train.history_links": 3,
    "train.valid_facts": 30,
    "train.max_logits": 45,
    "train.patience": 1,
    "train.checkpoint_steps": 4,
    "train.num_workers": 2,
    "train.use_gpu": True,
    "train.cuda_graphs": False,
    "train.precision": "bf16",
    "train.threads": 3,
    "train.batch_workers": 1,
    "train.read_ahead": 2,
    "train.max_failures": 5,
    "train.loggers": ("mlflow",),
}
"""A value that is not the default for every setting of training that has another value."""


def settings_of(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All settings of a section and of the sections in it, by dotted name."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from settings_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def training_settings(config: Config) -> dict[str, Any]:
    """The settings that a checkpoint can depend on, by dotted name."""
    return {name: value for name, value in settings_of(config) if name.startswith(("seed", "model.", "train."))}


def changed(config: Config, settings: dict[str, Any]) -> Config:
    """The configuration with other values of some settings, by dotted name."""
    values = config.model_dump()
    for name, value in settings.items():
        *parents, last = name.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = value
    return Config.model_validate(values)


def train_run(
    folder: Path,
    config: Config,
    on_event: Callable[[Progress], None] = lambda _: None,
    checkpointed: Callable[[], None] = lambda: None,
) -> None:
    """Make the `checkpoint/` of a run folder that has a `graph/`, in this process, on the CPU.

    Args:
        folder: The run.
        config: How to train.
        on_event: Called with the progress of every snapshot and epoch.
        checkpointed: Called after each training checkpoint.
    """
    checkpoints = LocalCheckpoints(folder / "training", Communicator())

    def save(write: Write, metrics: dict[str, Any]) -> None:
        checkpoints.save(write, metrics)
        checkpointed()

    train_only(folder, config, on_event, save)
    inputs = {"graph": read_manifest(folder / "graph", "graph").id}
    manifest = Manifest.of("checkpoint", inputs, checkpoint_settings(config))
    write_artifact(folder / "checkpoint", manifest, lambda staging: write_checkpoint(staging, checkpoints.path))


def train_only(
    folder: Path,
    config: Config,
    on_event: Callable[[Progress], None] = lambda _: None,
    save: Callable[[Write, dict[str, Any]], None] = lambda *_: None,
) -> None:
    """Train on the `graph/` of a run folder and write nothing; arguments as of `train_graph`."""
    cpu = torch.device("cpu")
    train_graph(
        config, folder / "graph", communicator=Communicator(), device=cpu, latest=None, on_event=on_event, save=save
    )
