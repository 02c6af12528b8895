"""What every stage shares: where a run keeps its artifacts, and when a stage may be skipped."""

import logging
from pathlib import Path

import torch
import yaml

from gam_kg.artifacts import read_manifest
from gam_kg.config import Config
from gam_kg.errors import ArtifactError, ConfigError
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.train.session import threads

ARTIFACTS = ("graph", "checkpoint", "evaluation", "embeddings", "predictions", "report")

logger = logging.getLogger("gam_kg")


def artifact_path(config: Config, kind: str) -> Path:
    """Folder of one artifact of the run."""
    assert kind in ARTIFACTS
    return config.run_path / kind


def write_config(config: Config) -> None:
    """Keep the resolved configuration beside the artifacts."""
    config.run_path.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (config.run_path / "config.yaml").write_text(text, encoding="utf-8")


def is_current(path: Path, kind: str, key: str, *, force: bool) -> bool:
    """Whether the artifact at `path` was finished from these very inputs and this configuration."""
    if force:
        return False
    try:
        current = read_manifest(path, kind).key == key
    except ArtifactError:
        return False
    if current:
        logger.info("%s: up to date, skipped (--force redoes it)", path.name)
    return current


def open_run(config: Config) -> TrainedRun:
    """The run's graph and model, on the configured device and threads.

    Raises:
        ArtifactError: `graph/` or `checkpoint/` is missing, or they do not belong together.
    """
    torch.set_num_threads(threads(config))
    return TrainedRun.load(config.run_path, compute_device(config))


def compute_device(config: Config) -> str:
    """The configured device.

    Raises:
        ConfigError: A GPU is asked for and there is none.
    """
    if not config.train.use_gpu:
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError("train.use_gpu=true, but torch finds no CUDA device here; set train.use_gpu=false")
    return "cuda"
