"""The embed stage: `graph/` + `checkpoint/` → `embeddings/` as of a moment, in Parquet."""

import logging
from pathlib import Path

from gam_kg.artifacts import Manifest, read_manifest, stage_key, write_manifest, writing
from gam_kg.config import Config
from gam_kg.inference.embed import write_entity_embeddings, write_relation_embeddings
from gam_kg.inference.search import moment
from gam_kg.inference.trained_run import save_memory
from pipelines.progress import counted, progress
from pipelines.stages import artifact_path, is_current, open_run

logger = logging.getLogger("gam_kg")


def embed(config: Config, *, force: bool = False) -> Path:
    """Write the embeddings as of `embed.at`, the facts of that snapshot included; by default after the last fact.

    Args:
        config: The run's configuration; `embed` matters here.
        force: Do it anew in any case.

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
    run = open_run(config)
    last = moment(run, config.embed.at, run.graph.end - 1)
    with progress("embed", len([time for time in run.graph.times if time <= last])) as advance:
        scorer = run.scorer_before(last + 1, counted(advance))
    with writing(path) as staging:
        write_entity_embeddings(staging / "entities.parquet", run, scorer)
        write_relation_embeddings(staging / "relations.parquet", run)
        save_memory(scorer.memory, staging)
        content = {
            "as_of": run.axis.label(last),
            "as_of_snapshot": last,
            "dim": run.model.config.dim,
            "num_entities": len(run.entities),
            "num_relations": len(run.relations),
            "vocabulary": run.graph_manifest.content["vocabulary"],
        }
        write_manifest(staging, Manifest("embeddings", key, inputs, settings, content))
    logger.info("embeddings: %d entities as of %s", len(run.entities), run.axis.label(last))
    return path
