"""The embed stage: `graph/` + `checkpoint/` → a version in `embeddings/` after the facts of a timestamp, in Parquet."""

import logging
from pathlib import Path
from typing import Any

from gam_kg.artifacts import Content
from gam_kg.inference.embed import find_base, write_embeddings
from gam_kg.inference.state import start_before
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.versions import base_of
from gam_kg.workflow.situation import EMBEDDINGS
from gam_kg.workflow.stage import Stage, Task
from .progress import counted
from .ranks import OnEvent, on_ranks

logger = logging.getLogger("gam_kg")


def _write(task: Task) -> Content:
    """entities.parquet and relations.parquet. With `force`, memory starts from the first fact."""
    graph, moment, at = task.read["graph"].content, task.moment, task.config.embed.at
    assert moment is not None, "embeddings have versions"
    if TimeAxis(**graph["time"]).snapshot_at(at, moment.snapshot) > moment.snapshot:
        logger.warning("embed.at=%s is after the last fact: the version is that after %s", at, moment.label)
    named = task.updates[-1].content if task.updates else graph
    base = None
    if task.config.publish.embeddings == "delta" and not task.force:
        base = find_base(task.config.run_path / "embeddings", task.manifest, task.updates, moment.snapshot)
    settings = {"last": moment.snapshot, "folder": str(task.folder), "anew": task.force, "base": base and str(base)}
    on_ranks(task.config, embed_worker, settings, "embed", opened=task.opened)
    based = base_of(task.folder)
    return {
        **({"base": based} if based else {}),
        "dim": task.read["checkpoint"].config["model"]["dim"],
        **{name: named[name] for name in ("num_entities", "num_relations", "vocabulary")},
    }


def embed_worker(run: TrainedRun, settings: dict[str, Any], on_event: OnEvent) -> None:
    """Write a rank's rows, and on rank 0 the relations.

    Args:
        run: The run, as the rank has it.
        settings: `last`, the last snapshot before the embeddings; `folder`, where to write; `anew`, whether not to
            start from a stored memory; `base`, a version to write the changed rows of, or None.
        on_event: Receives progress: snapshots done, of how many.
    """
    last = settings["last"]
    after = -1 if settings["anew"] else start_before(run.states, last + 1)
    total = len([time for time in run.graph.times if after < time <= last])
    tick, folder = counted(lambda done: on_event((done, total))), Path(settings["folder"])
    base = Path(settings["base"]) if settings["base"] else None
    write_embeddings(run, last, folder, tick, anew=settings["anew"], base=base)


embed = Stage(
    EMBEDDINGS,
    write=_write,
    summary=lambda _, content: (
        f"{content['num_entities']:,} entities and {content['num_relations']:,} relations, after {content['after']}"
    ),
)
