"""The report stage: `evaluation/` and the training log → `report/`, a page with tables and a picture."""

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from gam_kg.artifacts import Manifest, read_manifest, require_same, stage_key, write_manifest, writing
from gam_kg.config import Config
from gam_kg.inference.report import (
    draw,
    metrics_table,
    strata_table,
    time_table,
    traffic_table,
    write_html,
)
from pipelines.progress import results
from pipelines.stages import artifact_path, is_current

logger = logging.getLogger("gam_kg")


def report(config: Config, *, force: bool = False) -> Path:
    """Write the run's report.

    Args:
        config: The run's configuration.
        force: Do it anew in any case.

    Returns:
        The folder of the artifact: report.html, report.png (with the `report` extra).

    Raises:
        ArtifactError: `graph/`, `checkpoint/` or `evaluation/` is missing, or they do not belong together.
    """
    path = artifact_path(config, "report")
    manifests = {
        name: read_manifest(artifact_path(config, name), name) for name in ("graph", "checkpoint", "evaluation")
    }
    inputs = {name: manifest.id for name, manifest in manifests.items()}
    for later, earlier in (("checkpoint", "graph"), ("evaluation", "graph"), ("evaluation", "checkpoint")):
        require_same(earlier, manifests[later].inputs[earlier], inputs[earlier], artifact_path(config, later))
    settings = {"name": config.name, "picture": find_spec("matplotlib") is not None}
    key = stage_key("report", inputs, settings)
    if is_current(path, "report", key, force=force):
        return path
    metrics = read_metrics(config)
    log = artifact_path(config, "checkpoint") / "metrics.jsonl"
    epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    with writing(path) as staging:
        if settings["picture"]:
            draw(metrics, epochs, staging / "report.png")
        else:
            logger.warning("report: no picture; for one, pip install 'gam-kg[report]'")
        splits = [split for split in ("test", "valid") if split in metrics]
        tables = [metrics_table(metrics, split) for split in splits]
        tables += [strata_table(metrics, split) for split in splits if "single_step" in metrics[split]]
        tables.append(time_table(epochs))
        if epochs[-1]["traffic"]:
            tables.append(traffic_table(epochs))
        write_html(staging / "report.html", f"gam-kg: {config.name}", _summary(manifests), tables)
        write_manifest(staging, Manifest("report", key, inputs, settings))
    logger.info("report: %s", path / "report.html")
    return path


def read_metrics(config: Config) -> dict[str, Any]:
    """The metrics tree of the run's evaluation."""
    return json.loads((artifact_path(config, "evaluation") / "metrics.json").read_text(encoding="utf-8"))


def show_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table; the first column holds names, the others numbers."""
    # Names are text, whatever brackets they hold.
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
