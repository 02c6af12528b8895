"""The evaluate stage: `graph/` + `checkpoint/` → `evaluation/` with metrics.json and ranks.parquet."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gam_kg.artifacts import Content, read_json, read_manifest
from gam_kg.config import Config, EvaluateConfig
from gam_kg.graph.update_chain import read_updates
from gam_kg.inference.evaluation import Evaluation, count_ticks, evaluate_run
from gam_kg.inference.state import publish_state, state_parts
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.inference.update import write_over_time
from gam_kg.parquet import write_table
from gam_kg.training.loggers import log_evaluation
from gam_kg.workflow.situation import EVALUATION
from gam_kg.workflow.stage import Stage, Task
from .progress import counted
from .ranks import OnEvent, on_ranks


def _write(task: Task) -> Content:
    """Ranks of every validation and test query, by the model and the untrained baselines.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    run = task.config.run_path
    with state_parts(run) as parts:
        settings = {**task.manifest.config, "folder": str(task.folder), "state": str(parts)}
        on_ranks(task.config, evaluate_worker, settings, "evaluate")
        after, made_from = (
            task.read["graph"].content["last_snapshot"],
            (task.read["graph"], task.read["checkpoint"], ()),
        )
        newer = read_updates(run, task.read["graph"])
        baselines = task.config.evaluate.baselines
        publish_state(run, after, made_from, parts, task.config.update, newer, baselines=baselines)
    content: Content = {"num_queries": pq.read_metadata(task.folder / "ranks.parquet").num_rows}
    facts = task.read["graph"].content["splits"]
    if empty := [split for split in task.config.evaluate.splits if not facts[split]]:
        content["notices"] = [f"{' and '.join(empty)} has no facts, so that there are no results of it"]
    return content


def evaluate_worker(run: TrainedRun, settings: dict[str, Any], on_event: OnEvent) -> None:
    """Rank with the other ranks; rank 0 writes the result.

    Args:
        run: The run, as the rank has it.
        settings: `evaluate`, the section of the configuration; `folder`, where to write; `state`, where to write the
            state after the last fact.
        on_event: Receives progress: steps done, of how many.
    """
    config, folder = EvaluateConfig.model_validate(settings["evaluate"]), Path(settings["folder"])
    total = count_ticks(run, config)
    tick = counted(lambda done: on_event((done, total)))
    found = evaluate_run(run, config, tick, state=Path(settings["state"]))
    if run.graph.partition.rank == 0:
        write_evaluation(found, folder)


def write_evaluation(found: Evaluation, folder: Path) -> Content:
    """Write the files of `evaluation/` into its folder."""
    (folder / "metrics.json").write_text(json.dumps(found.metrics, indent=2), encoding="utf-8")
    write_table(found.ranks, folder / "ranks.parquet")
    return {"num_queries": found.ranks.num_rows}


def _finish(config: Config) -> None:
    run = config.run_path
    write_over_time(run, read_updates(run, read_manifest(run / "graph", "graph")))
    log_evaluation(config, read_json(run / "evaluation" / "metrics.json", "evaluation"))


evaluate = Stage(
    EVALUATION,
    write=_write,
    summary=lambda _, content: f"{content['num_queries']} queries ranked",
    finish=_finish,
)
