"""The prepare stage: facts in files → `graph/`, by whatever reads them; `prepare_here` does it in this process."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gam_kg.artifacts import Content
from gam_kg.ingest.prepare import FactsInput, make_graph
from gam_kg.ingest.quarantine import Quarantine
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.workflow.inputs import quarantine_notice
from gam_kg.workflow.situation import GRAPH
from gam_kg.workflow.stage import Stage, Task

logger = logging.getLogger("gam_kg")


def prepare_stage(make: Callable[[FactsInput, Path], Content]) -> Stage:
    """The stage.

    Args:
        make: (input, empty folder) → the content of the manifest, with the files in the folder; see `make_graph`.
    """

    def write(task: Task) -> Content:
        """Vocabularies, features of entities, anchored facts in buckets, and the rows that were quarantined."""
        content = make(FactsInput.check(task.config, task.sources), task.folder)
        _warn_of_quality(content)
        return content

    return Stage(
        GRAPH,
        write=write,
        summary=lambda _, content: describe_graph(content),
        finish=lambda config: (config.run_path / Quarantine.NAME).unlink(missing_ok=True),
    )


prepare_here = prepare_stage(lambda found, folder: make_graph(found, found.local_blocks(), folder))


def _warn_of_quality(content: Content) -> None:
    """Warn where a third of the rows is missing, test is empty, or snapshots have hardly any facts."""
    if notice := quarantine_notice(content):
        logger.warning(notice)
    if not content["splits"]["test"]:
        logger.warning("no fact is in test: the model is trained on train, selected on valid, and evaluated on valid")
    if content["num_facts"] < 2 * content["num_snapshots"]:
        unit = content["time"]["unit"]
        logger.warning(
            "%.1f facts a snapshot are few to learn from; a longer data.time_unit may be meant (now %s)",
            content["num_facts"] / content["num_snapshots"],
            f"{unit}; a day is 86400 where timestamps count seconds" if isinstance(unit, int) else unit,
        )


def describe_graph(content: Content) -> str:
    """Where the rows went, what a snapshot is, and how time is divided."""
    axis = TimeAxis(**content["time"])
    counts = ", ".join(f"{content[f'num_{name}']} {name}" for name in ("facts", "entities", "relations", "snapshots"))
    reasons = ", ".join(f"{reason} {count}" for reason, count in content["quarantined"].items())
    rows = [
        f"{content['num_rows']} rows read",
        f"{sum(content['quarantined'].values())} quarantined" + (f" ({reasons})" if reasons else ""),
        f"{content['merged']} merged with the same fact of the same snapshot",
        f"{content['names_changed']} with names stripped or folded",
    ]
    if num_left_out := sum(content["left_out"].values()):
        rows.append(f"{num_left_out} files left out")
    unit = f"time unit {axis.unit}" + (f", zone {axis.zone}" if axis.zone else "")
    return f"{counts}; {unit}; {_division(axis, content)}\n  {', '.join(rows)}"


def _division(axis: TimeAxis, content: dict[str, Any]) -> str:
    first, valid, test = (axis.label(content[name]) for name in ("first_snapshot", "valid_start", "test_start"))
    splits = content["splits"]
    train_valid = f"train {splits['train']} from {first}, valid {splits['valid']} from {valid}"
    return f"{train_valid}, test {splits['test']} from {test}" if splits["test"] else f"{train_valid}, no test"
