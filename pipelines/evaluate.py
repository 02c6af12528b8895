"""The evaluate stage: `graph/` + `checkpoint/` → `evaluation/` with metrics.json and ranks.parquet."""

import json
import logging
from pathlib import Path

import pyarrow.parquet as pq

from gam_kg.artifacts import Manifest, read_manifest, stage_key, write_manifest, writing
from gam_kg.config import Config
from gam_kg.inference.evaluation import count_ticks, evaluate_run
from gam_kg.inference.trained_run import TrainedRun
from pipelines.progress import counted, progress
from pipelines.stages import artifact_path, is_current, open_run

logger = logging.getLogger("gam_kg")


def evaluate(config: Config, *, force: bool = False) -> Path:
    """Rank every validation and test query for the model and the untrained baselines.

    Args:
        config: The run's configuration; `evaluate` matters here.
        force: Do it anew in any case.

    Returns:
        The folder of the artifact.

    Raises:
        ArtifactError: `graph/` or `checkpoint/` is missing, or they do not belong together.
        EvaluationError: A score is NaN or infinite.
    """
    path = artifact_path(config, "evaluation")
    inputs = {name: read_manifest(artifact_path(config, name), name).id for name in ("graph", "checkpoint")}
    settings = {"evaluate": config.evaluate.model_dump(mode="json")}
    key = stage_key("evaluation", inputs, settings)
    if is_current(path, "evaluation", key, force=force):
        return path
    run: TrainedRun = open_run(config)
    with progress("evaluate", count_ticks(run, config.evaluate)) as advance:
        found = evaluate_run(run, config.evaluate, counted(advance))
    with writing(path) as staging:
        (staging / "metrics.json").write_text(json.dumps(found.metrics, indent=2), encoding="utf-8")
        pq.write_table(found.ranks, staging / "ranks.parquet", compression="zstd")
        write_manifest(staging, Manifest("evaluation", key, inputs, settings, {"num_queries": len(found.ranks)}))
    logger.info("evaluation: %d queries ranked", len(found.ranks))
    return path
