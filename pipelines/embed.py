"""The embed stage: `graph/` + `checkpoint/` → `embeddings/` after the facts of a timestamp, in Parquet."""

from pathlib import Path
from typing import Any

from gam_kg.artifacts import Content
from gam_kg.inference.embed import write_embeddings
from gam_kg.inference.search import snapshot_at
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ingest.time_axis import TimeAxis
from pipelines.progress import counted
from pipelines.stages import Stage, Task
from pipelines.workers import OnEvent, on_ranks
from pipelines.workflow import EMBEDDINGS


def _write(task: Task) -> Content:
    """entities.parquet, relations.parquet, and the memory that later queries start from.

    With `force`, memory starts from the first fact.

    Raises:
        ConfigError: `embed.at` is no timestamp of the graph's time.
    """
    config, graph = task.config, task.read["graph"].content
    axis = TimeAxis(**graph["time"])
    last = snapshot_at(axis, config.embed.at, graph["last_snapshot"])
    on_ranks(config, embed_worker, {"last": last, "folder": str(task.folder), "anew": task.force}, "embed")
    return {
        "after": axis.label(last),
        "after_snapshot": last,
        "dim": task.read["checkpoint"].config["model"]["dim"],
        "num_entities": graph["num_entities"],
        "num_relations": graph["num_relations"],
        "vocabulary": graph["vocabulary"],
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
