"""All that a report shows, read from the artifacts of a run."""

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gam_kg.artifacts import Content
from gam_kg.config import Config
from gam_kg.inference.report_examples import Look
from gam_kg.inference.report_verdict import primary
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.run_config import flat
from gam_kg.schemas import MODEL

_PLACES = ("run_dir", "data.facts", "data.import_from", "data.entity_features", "predict.queries", "predict.out")
_MEMORY = Path("/proc/meminfo")
_CPU = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class RelationRow:
    """How a relation is answered in one direction.

    Attributes:
        relation: Its name.
        direction: "object" or "subject", the place of the answer.
        count: Answers.
        mrr: Of the model.
        baseline, baseline_mrr: The best baseline and its MRR; None without baselines.
        difference: `mrr`, `low` and `high` of the model minus that baseline; None where answers are too few.
    """

    relation: str
    direction: str
    count: int
    mrr: float
    baseline: str | None
    baseline_mrr: float | None
    difference: dict[str, float] | None


@dataclass(frozen=True)
class Profile:
    """What the facts are like.

    Attributes:
        snapshots: Snapshots with facts, ascending, int64 (num_snapshots,).
        labels: Their starts.
        num_facts: Facts of each, int64 (num_snapshots,).
        split: Index into `schemas.SPLITS` of each, int64 (num_snapshots,).
        degrees: Facts of each entity, int64 (num_entities,).
        relations: Names, those with most facts first.
        relation_counts: Facts of each relation.
    """

    snapshots: np.ndarray
    labels: list[str]
    num_facts: np.ndarray
    split: np.ndarray
    degrees: np.ndarray
    relations: list[str]
    relation_counts: list[int]


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    Attributes:
        name: Of the run.
        metrics: The tree of `evaluation/metrics.json`.
        epochs: The metrics of each epoch.
        graph, checkpoint: Content of their manifests.
        versions: Package → version that trained.
        profile: What the facts are like.
        relations: How each relation is answered, those with most answers first.
        over_time: Rows of `schemas.OVER_TIME`, those of updates.
        settings: Dotted key, value and default of each setting that is not the default.
        seed: Of the training.
        notices: What a reader must know.
        look: What the model itself says; None where it was not opened.
        machine: What the page was made on.
        made: When.
    """

    name: str
    metrics: dict[str, Any]
    epochs: Sequence[dict[str, Any]]
    graph: Content
    checkpoint: Content
    versions: dict[str, str]
    profile: Profile
    relations: list[RelationRow]
    over_time: list[dict[str, Any]]
    settings: list[tuple[str, str, str]]
    seed: int
    notices: Sequence[str] = ()
    look: Look | None = None
    machine: dict[str, str] = field(default_factory=dict)
    made: datetime = field(default_factory=lambda: datetime.now(UTC))


def read_profile(graph: Path, content: Content) -> Profile:
    """What the facts of a `graph/` are like, given the content of its manifest."""
    timeline, relations = pq.read_table(graph / "snapshots.parquet"), pq.read_table(graph / "relations.parquet")
    relations = relations.sort_by([("count", "descending"), ("relation_id", "ascending")])
    snapshots, axis = timeline["snapshot"].to_numpy(), TimeAxis(**content["time"])
    return Profile(
        snapshots,
        [axis.label(snapshot) for snapshot in snapshots.tolist()],
        timeline["num_facts"].to_numpy(),
        np.searchsorted([content["valid_start"], content["test_start"]], snapshots, side="right"),
        pq.read_table(graph / "entities.parquet", columns=["degree"])["degree"].to_numpy(),
        relations["relation"].to_pylist(),
        relations["count"].to_pylist(),
    )


def relation_rows(ranks: pa.Table, metrics: dict[str, Any]) -> list[RelationRow]:
    """How each relation and direction is answered in the first split and setting of a page.

    Args:
        ranks: `evaluation/ranks.parquet`.
        metrics: The tree of `evaluation/metrics.json`.
    """
    split, setting = primary(metrics)
    suffix = "" if setting == "single_step" else f"_{setting}"
    compared = metrics.get("comparison", {}).get(split, {}).get(setting)
    best = compared["overall"]["best_baseline"] if compared else None
    names = {"mrr": f"rank{suffix}"} | ({"baseline": f"{best}_rank{suffix}"} if best else {})
    ranks = ranks.filter(pc.equal(ranks["split"], split))
    keys = ["relation", "direction"]
    columns = {key: ranks[key] for key in keys} | {
        name: pc.divide(1.0, ranks[column]) for name, column in names.items()
    }
    found = pa.table(columns).group_by(keys).aggregate([*((name, "mean") for name in names), ("mrr", "count")])
    rows = []
    for row in found.to_pylist():
        kind = "relations" if row["direction"] == "object" else "inverse_relations"
        values: tuple[Any, ...] = best, row.get("baseline_mean"), None
        if part := (compared or {}).get(kind, {}).get(row["relation"]):
            own = part["best_baseline"]
            values = (
                own,
                metrics["baselines"][own][split][setting][kind][row["relation"]]["mrr"],
                part["model_minus"][own],
            )
        rows.append(RelationRow(row["relation"], row["direction"], row["mrr_count"], row["mrr_mean"], *values))
    return sorted(rows, key=lambda row: (-row.count, row.relation, row.direction))


def curves(
    metrics: dict[str, Any], over_time: Sequence[dict[str, Any]]
) -> tuple[dict[str, list[tuple[str, float, int]]], dict[str, int]]:
    """MRR over time in the first setting of a page, of validation, test and updates, as far as there are such.

    Returns:
        Scorer → label of the snapshot, MRR and number of answers of each point, the same snapshots for all scorers,
        with an MRR of NaN where a scorer was not ranked; and what begins at which point.
    """
    setting, points, starts = primary(metrics)[1], dict[str, list[tuple[str, float, int]]](), dict[str, int]()
    for name, tree in {MODEL: metrics, **metrics["baselines"]}.items():
        points[name] = []
        for split in [split for split in ("valid", "test") if split in tree]:
            starts[split] = len(points[name])
            of_split = tree[split][setting]["curve"]
            points[name] += [(point["timestamp"], point["mrr"], point["count"]) for point in of_split]
        starts |= {"updates": len(points[name])} if over_time else {}
        column = "mrr" if name == MODEL else f"{name}_mrr"
        for row in over_time:  # null where the update left the baselines out
            mrr = row.get(column)
            points[name].append((row["timestamp"], math.nan if mrr is None else mrr, row["num_answers"]))
    return points, starts


def changed_settings(config: Config) -> list[tuple[str, str, str]]:
    """Dotted key, value and default of each setting that is not the default; of places only their last name."""
    defaults = dict(flat(Config().model_dump(mode="json")))
    found = []
    for key, value in flat(config.model_dump(mode="json")):
        default = defaults.get(key)
        if value != default and key not in ("name", "run_dir"):
            found.append((key, _shown(key, value), _shown(key, default)))
    return found


def without_places(line: str, config: Config) -> str:
    """A line that names the configured places by their last names only."""
    for key, value in flat(config.model_dump(mode="json")):
        if key in _PLACES and isinstance(value, str) and "/" in value:
            line = line.replace(value, _shown(key, value))
    return line


def this_machine() -> dict[str, str]:
    """What this process runs on: system, processor, memory and Python."""
    model = next((line.split(":")[1].strip() for line in _lines(_CPU) if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) for line in _lines(_MEMORY) if line.startswith("MemTotal")), 0)
    found = {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": f"{model or platform.processor() or 'unknown'}, {os.cpu_count()} cores",
        "memory": f"{memory / 2**20:.0f} GiB" if memory else "",
        "Python": platform.python_version(),
    }
    return {name: value for name, value in found.items() if value}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []


def _shown(key: str, value: Any) -> str:
    if key in _PLACES and isinstance(value, str) and "/" in value:
        return value.partition("?")[0].rstrip("/").rpartition("/")[2]
    return "none" if value is None else str(value)
