"""The embed stage: `graph/` + `checkpoint/` → a version in `embeddings/` after the facts of a timestamp, in Parquet."""

import logging
from pathlib import Path
from typing import Any

from gam_kg.artifacts import Content
from gam_kg.inference.embed import write_embeddings
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ingest.time_axis import TimeAxis
from pipelines.progress import counted
from pipelines.ranks import OnEvent, on_ranks
from pipelines.stages import Stage, Task
from pipelines.workflow import EMBEDDINGS

logger = logging.getLogger("gam_kg")


def _write(task: Task) -> Content:
    """entities.parquet and relations.parquet. With `force`, memory starts from the first fact."""
    graph, moment, at = task.read["graph"].content, task.moment, task.config.embed.at
    assert moment is not None, "embeddings have versions"
    if TimeAxis(**graph["time"]).snapshot_at(at, moment.snapshot) > moment.snapshot:
        logger.warning("embed.at=%s is after the last fact: the version is that after %s", at, moment.label)
    named = task.updates[-1].content if task.updates else graph
    settings = {"last": moment.snapshot, "folder": str(task.folder), "anew": task.force}
    on_ranks(task.config, embed_worker, settings, "embed", opened=task.opened)
    return {
        "dim": task.read["checkpoint"].config["model"]["dim"],
        **{name: named[name] for name in ("num_entities", "num_relations", "vocabulary")},
    }


def embed_worker(run: TrainedRun, settings: dict[str, Any], on_event: OnEvent) -> None:
    """Write a rank's rows, and on rank 0 the relations.

    Args:
        run: The run, as the rank has it.
        settings: `last`, the last snapshot before the embeddings; `folder`, where to write; `anew`, whether not to
            start from a stored memory.
        on_event: Receives progress: snapshots done, of how many.
    """
    total = len([time for time in run.graph.times if time <= settings["last"]])
    tick, folder = counted(lambda done: on_event((done, total))), Path(settings["folder"])
    write_embeddings(run, settings["last"], folder, tick, anew=settings["anew"])


embed = Stage(
    EMBEDDINGS,
    write=_write,
    summary=lambda _, content: (
        f"{content['num_entities']:,} entities and {content['num_relations']:,} relations, after {content['after']}"
    ),
)
