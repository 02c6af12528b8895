"""The predict stage: a Parquet of queries → `predictions/`, from the run's artifacts alone."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gam_kg.artifacts import Manifest, read_manifest, stage_key, write_manifest, writing
from gam_kg.config import Config
from gam_kg.errors import DataError
from gam_kg.inference.predict import Asked, answer_queries, encode_queries, prediction_table
from gam_kg.inference.trained_run import TrainedRun
from pipelines.progress import counted, progress
from pipelines.sources import Sources
from pipelines.stages import artifact_path, is_current, open_run

logger = logging.getLogger("gam_kg")


def predict(config: Config, *, force: bool = False) -> Path:
    """Answer the queries of `predict.queries`; by default those of the last snapshot, as they were before it.

    Args:
        config: The run's configuration; `predict` matters here.
        force: Do it anew in any case.

    Returns:
        The folder of the artifact: predictions.parquet, `top_k` rows a query.

    Raises:
        ArtifactError: `graph/` or `checkpoint/` is missing, or they do not belong together.
        DataError: The queries cannot be read, or name what the graph does not know.
    """
    path = artifact_path(config, "predictions")
    inputs = {name: read_manifest(artifact_path(config, name), name).id for name in ("graph", "checkpoint")}
    sources = Sources.find(config.predict.queries, "predict.queries") if config.predict.queries else None
    if sources is not None:
        inputs |= {name.replace("facts", "queries"): found for name, found in sources.hashes().items()}
    settings = {"predict": {"top_k": config.predict.top_k}}
    key = stage_key("predictions", inputs, settings)
    if is_current(path, "predictions", key, force=force):
        return path
    table = None if sources is None else _read(sources)
    run = open_run(config)
    asked = _last_queries(run) if table is None else encode_queries(run, table)
    steps = len(run.graph.times) + len(np.unique(asked.snapshot))
    with progress("predict", steps) as advance:
        answers = answer_queries(run, asked, config.predict.top_k, counted(advance))
    with writing(path) as staging:
        pq.write_table(prediction_table(run, asked, answers), staging / "predictions.parquet", compression="zstd")
        write_manifest(staging, Manifest("predictions", key, inputs, settings, {"num_queries": len(asked)}))
    logger.info("predictions: %d queries answered", len(asked))
    return path


def _last_queries(run: TrainedRun) -> Asked:
    queries = run.graph.snapshot(run.graph.end - 1).queries
    times = np.full(len(queries), queries.time)
    return Asked(queries.subject.cpu().numpy(), queries.relation.cpu().numpy(), times)


def _read(sources: Sources) -> pa.Table:
    tables = []
    for path, name in zip(sources.paths, sources.names, strict=True):
        try:
            tables.append(pq.read_table(path, filesystem=sources.filesystem, partitioning=None))
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"predict.queries: {name} is no readable Parquet file ({error})") from None
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise DataError(f"predict.queries: the files differ in their columns ({error})") from None
