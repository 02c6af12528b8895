"""The embed stage: `graph/` + `checkpoint/` → `embeddings/` as of a moment, in Parquet."""

import logging
from pathlib import Path
from typing import Any

from gam_kg.artifacts import Manifest, read_manifest, stage_key, write_manifest, writing
from gam_kg.config import Config
from gam_kg.data.time_axis import TimeAxis
from gam_kg.inference.embed import write_embeddings
from gam_kg.inference.search import moment
from gam_kg.inference.trained_run import TrainedRun
from pipelines.progress import counted
from pipelines.stages import artifact_path, is_current
from pipelines.workers import Tell, on_ranks

logger = logging.getLogger("gam_kg")


def embed(config: Config, *, force: bool = False) -> Path:
    """Write the embeddings as of `embed.at`, the facts of that snapshot included; by default after the last fact.

    Args:
        config: The run's configuration; `embed` matters here.
        force: Do it anew in any case, and from the first fact.

    Returns:
        The folder of the artifact: entities.parquet, relations.parquet, and the memory that later questions start from.

    Raises:
        ArtifactError: `graph/` or `checkpoint/` is missing, or they do not belong together.
        ConfigError: `embed.at` is no timestamp of the graph's time.
    """
    path = artifact_path(config, "embeddings")
    inputs = {name: read_manifest(artifact_path(config, name), name).id for name in ("graph", "checkpoint")}
    settings = {"embed": config.embed.model_dump(mode="json")}
    key = stage_key("embeddings", inputs, settings)
    if is_current(path, "embeddings", key, force=force):
        return path
    graph = read_manifest(artifact_path(config, "graph"), "graph").content
    checkpoint = read_manifest(artifact_path(config, "checkpoint"), "checkpoint")
    axis = TimeAxis.from_dict(graph["time"])
    last = moment(axis, config.embed.at, graph["last_snapshot"])
    with writing(path) as staging:
        on_ranks(config, embed_worker, {"last": last, "folder": str(staging), "anew": force}, "embed")
        content = {
            "as_of": axis.label(last),
            "as_of_snapshot": last,
            "dim": checkpoint.config["model"]["dim"],
            "num_entities": graph["num_entities"],
            "num_relations": graph["num_relations"],
            "vocabulary": graph["vocabulary"],
        }
        write_manifest(staging, Manifest("embeddings", key, inputs, settings, content))
    logger.info("embeddings: %d entities as of %s", content["num_entities"], content["as_of"])
    return path


def embed_worker(run: TrainedRun, settings: dict[str, Any], tell: Tell) -> None:
    """What each rank does: its rows, and on rank 0 the relations.

    Args:
        run: The run, as the rank has it.
        settings: `last`, the snapshot; `folder`, where to write; `anew`, whether not to start from a stored memory.
        tell: Told of progress: steps done, of how many.
    """
    total = len([time for time in run.graph.times if time <= settings["last"]])
    tick, folder = counted(lambda done: tell((done, total))), Path(settings["folder"])
    write_embeddings(run, settings["last"], folder, tick, anew=settings["anew"])
