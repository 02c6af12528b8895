"""The report stage: `evaluation/` and the training log → `report/`, one self-contained page."""

import json
import logging
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from gam_kg.artifacts import Content, open_artifact, read_json, read_manifest
from gam_kg.config import Config
from gam_kg.inference.report import short_tables
from gam_kg.text import printable
from gam_kg.workflow.situation import REPORT
from gam_kg.workflow.stage import Stage, Task
from .progress import results

if TYPE_CHECKING:  # it imports torch
    from gam_kg.inference.report_data import ReportData

logger = logging.getLogger("gam_kg")


def _write(task: Task) -> Content:
    """report.html, and report.png with the `report` extra."""
    from gam_kg.inference.report_html import write_page
    from gam_kg.inference.report_page import report_page

    data, charts = _data(task), {}
    if task.manifest.config["picture"]:
        from gam_kg.inference.report_charts import draw_picture, page_charts

        charts = page_charts(data)
        draw_picture(data, task.folder / "report.png")
    else:
        logger.warning("report: no charts; for them, pip install 'gam-kg[report]'")
    write_page(task.folder / "report.html", report_page(data, charts))
    return {}


def _data(task: Task) -> "ReportData":
    """All that the page shows."""
    import pyarrow.parquet as pq

    from gam_kg.inference.report_data import (
        ReportData,
        changed_settings,
        read_profile,
        relation_rows,
        this_machine,
        without_places,
    )
    from gam_kg.inference.update import over_time

    config, graph, checkpoint = task.config, task.read["graph"], task.read["checkpoint"]
    evaluation, metrics = config.run_path / "evaluation", read_metrics(config)
    log = config.run_path / "checkpoint" / "metrics.jsonl"
    ranks = pq.read_table(evaluation / "ranks.parquet")  # verified by the stage, as the log is
    look, note = _look(task, metrics, ranks)
    return ReportData(
        name=config.name,
        metrics=metrics,
        epochs=[json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()],
        graph=graph.content,
        checkpoint=checkpoint.content,
        versions={name: number for name, number in checkpoint.versions.items() if number != "none"},
        profile=read_profile(task.paths["graph"], graph.content),
        relations=relation_rows(ranks, metrics),
        over_time=over_time(task.updates).to_pylist(),
        settings=changed_settings(config),
        seed=config.seed,
        notices=[without_places(notice, config) for notice in (*_notices(task), *note)],
        look=look,
        machine=this_machine(),
    )


def _look(task: Task, metrics: dict[str, Any], ranks: Any) -> tuple[Any, list[str]]:
    """What the model itself says, and notes on what is left out."""
    import torch

    from gam_kg.inference.report_examples import MOST_ENTITIES, MOST_FACTS, look_at, no_examples
    from gam_kg.inference.report_verdict import primary
    from gam_kg.inference.trained_run import TrainedRun
    from gam_kg.training.run import threads

    graph = task.read["graph"].content
    if graph["num_facts"] > MOST_FACTS or graph["num_entities"] > MOST_ENTITIES:
        return None, ["Examples, neighbours and the map are left out, as the graph is large."]
    torch.set_num_threads(threads(task.config))
    run = TrainedRun.load(task.config.run_path, verified=True, updated=False)
    note = no_examples(graph["num_facts"], ranks)
    return look_at(run, ranks, primary(metrics)[0], task.config.seed), [note] if note else []


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
