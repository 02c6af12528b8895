"""The report stage: `evaluation/` and the training log → `report/`, a page with tables and a picture."""

import json
import logging
from typing import Any

from rich.table import Table
from rich.text import Text

from gam_kg.artifacts import Content, Manifest, open_artifact, read_json, read_manifest
from gam_kg.config import Config
from gam_kg.inference.picture import draw
from gam_kg.inference.report import result_tables, short_tables, time_table, traffic_table, write_html
from gam_kg.text import printable
from gam_kg.workflow.situation import REPORT
from gam_kg.workflow.stage import Stage, Task
from .progress import results

logger = logging.getLogger("gam_kg")


def _write(task: Task) -> Content:
    """report.html, and report.png with the `report` extra."""
    config, metrics = task.config, read_metrics(task.config)
    log = config.run_path / "checkpoint" / "metrics.jsonl"
    epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]  # verified by the stage
    if task.manifest.config["picture"]:
        draw(metrics, epochs, task.folder / "report.png")
    else:
        logger.warning("report: no picture; for one, pip install 'gam-kg[report]'")
    splits = [split for split in ("test", "valid") if split in metrics]
    tables = [table for split in splits for table in result_tables(metrics, split)]
    tables.append(time_table(epochs))
    if epochs[-1]["traffic"]:
        tables.append(traffic_table(epochs))
    write_html(task.folder / "report.html", f"gam-kg: {config.name}", [*_summary(task.read), *_notices(task)], tables)
    return {}


report = Stage(
    REPORT,
    write=_write,
    summary=lambda path, _: str(path / "report.html"),
)


def read_metrics(config: Config) -> dict[str, Any]:
    """The metrics tree of the run's evaluation.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    path = config.run_path / "evaluation"
    open_artifact(path, "evaluation", part="metrics.json")
    return read_json(path / "metrics.json", "evaluation")


def show_metrics(config: Config) -> None:
    """Print the metrics of each evaluated split, and what a reader of them must know."""
    metrics = read_metrics(config)
    for notice in read_manifest(config.run_path / "evaluation", "evaluation").content.get("notices", ()):
        results.print(Text(f"note: {printable(notice)}"), soft_wrap=True)
    for split in [split for split in config.evaluate.splits if split in metrics]:
        for table in short_tables(metrics, split):
            show_table(config.name, *table)


def show_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table; the first column has names, the others numbers."""
    results.print(_shown(title), soft_wrap=True)
    table = Table()
    for index, name in enumerate(header):
        table.add_column(_shown(name), justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(_shown, row))
    results.print(table)


def _shown(name: str) -> Text:
    """Text of one line: rich must not read the brackets of names, nor a terminal their control characters."""
    return Text(printable(name).replace("\n", "\\n"))


def _notices(task: Task) -> list[str]:
    """Those of this run of the stage, and those that the artifacts which it reads were made with."""
    earlier = (notice for manifest in task.read.values() for notice in manifest.content.get("notices", ()))
    return [f"Note: {notice}." for notice in dict.fromkeys((*task.notices, *earlier))]


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
