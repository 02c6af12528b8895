"""The report stage: `evaluation/` and the training log → `report/`, a page with tables and a picture."""

import json
import logging
from importlib.util import find_spec
from typing import Any

from rich.table import Table
from rich.text import Text

from gam_kg.artifacts import Content, Manifest
from gam_kg.config import Config
from gam_kg.inference.report import draw, metrics_table, strata_table, time_table, traffic_table, write_html
from pipelines.progress import results
from pipelines.stages import Stage, Task, artifact_path

logger = logging.getLogger("gam_kg")


def _write(task: Task) -> Content:
    """report.html, and report.png with the `report` extra."""
    config, metrics = task.config, read_metrics(task.config)
    log = artifact_path(config, "checkpoint") / "metrics.jsonl"
    epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    if task.manifest.config["picture"]:
        draw(metrics, epochs, task.folder / "report.png")
    else:
        logger.warning("report: no picture; for one, pip install 'gam-kg[report]'")
    splits = [split for split in ("test", "valid") if split in metrics]
    tables = [metrics_table(metrics, split) for split in splits]
    tables += [strata_table(metrics, split) for split in splits if "single_step" in metrics[split]]
    tables.append(time_table(epochs))
    if epochs[-1]["traffic"]:
        tables.append(traffic_table(epochs))
    write_html(task.folder / "report.html", f"gam-kg: {config.name}", _summary(task.read), tables)
    return {}


report = Stage(
    "report",
    reads=("graph", "checkpoint", "evaluation"),
    settings=lambda config: {"name": config.name, "picture": find_spec("matplotlib") is not None},
    write=_write,
    summary=lambda path, _: str(path / "report.html"),
)


def read_metrics(config: Config) -> dict[str, Any]:
    """The metrics tree of the run's evaluation."""
    return json.loads((artifact_path(config, "evaluation") / "metrics.json").read_text(encoding="utf-8"))


def show_metrics(config: Config) -> None:
    """Print the metrics of each evaluated split."""
    metrics = read_metrics(config)
    for split in config.evaluate.splits:
        show_table(config.name, *metrics_table(metrics, split))


def show_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table; the first column has names, the others numbers."""
    # Names are text: rich must not read their brackets.
    results.print(Text(title), soft_wrap=True)
    table = Table()
    for index, name in enumerate(header):
        table.add_column(Text(name), justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    results.print(table)


def _summary(manifests: dict[str, Manifest]) -> list[str]:
    graph, checkpoint = manifests["graph"].content, manifests["checkpoint"].content
    return [
        f"{graph['num_facts']:,} facts, {graph['num_entities']:,} entities, {graph['num_relations']:,} relations, "
        f"{graph['num_snapshots']:,} snapshots; train/valid/test facts: "
        + "/".join(f"{graph['splits'][split]:,}" for split in ("train", "valid", "test")),
        f"Weights of epoch {checkpoint['best_epoch']} of {checkpoint['epochs']}, selected on validation MRR.",
        "Extrapolation; all entities are candidates; ranks are realistic (ties count half); time-aware filter unless "
        "raw; single-step unless multi-step; both directions.",
    ]
