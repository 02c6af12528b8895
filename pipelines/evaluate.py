"""The evaluate stage: `graph/` + `checkpoint/` → `evaluation/` with metrics.json and ranks.parquet."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gam_kg.artifacts import Manifest, read_manifest, stage_key, write_manifest, writing
from gam_kg.config import Config, EvaluateConfig
from gam_kg.inference.evaluation import count_ticks, evaluate_run
from gam_kg.inference.trained_run import TrainedRun
from pipelines.progress import counted
from pipelines.stages import artifact_path, is_current
from pipelines.workers import Tell, on_ranks

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
    with writing(path) as staging:
        on_ranks(config, evaluate_worker, {**settings, "folder": str(staging)}, "evaluate")
        num_queries = pq.read_metadata(staging / "ranks.parquet").num_rows
        write_manifest(staging, Manifest("evaluation", key, inputs, settings, {"num_queries": num_queries}))
    logger.info("evaluation: %d queries ranked", num_queries)
    return path


def evaluate_worker(run: TrainedRun, settings: dict[str, Any], tell: Tell) -> None:
    """What each rank does; rank 0 writes what all have found.

    Args:
        run: The run, as the rank has it.
        settings: `evaluate`, the section of the configuration, and `folder`, where to write.
        tell: Told of progress: steps done, of how many.
    """
    config, folder = EvaluateConfig.model_validate(settings["evaluate"]), Path(settings["folder"])
    total = count_ticks(run, config)
    found = evaluate_run(run, config, counted(lambda done: tell((done, total))))
    if run.graph.partition.rank == 0:
        (folder / "metrics.json").write_text(json.dumps(found.metrics, indent=2), encoding="utf-8")
        pq.write_table(found.ranks, folder / "ranks.parquet", compression="zstd")
