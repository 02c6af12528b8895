"""The predict stage: a Parquet of queries → `predictions/`, from the run's artifacts alone."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gam_kg.artifacts import Content
from gam_kg.config import Config
from gam_kg.errors import DataError
from gam_kg.inference.predict import EncodedQueries, answer_queries, encode_queries
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.parquet import write_table
from pipelines.progress import counted, progress
from pipelines.sources import Sources
from pipelines.stages import Stage, Task
from pipelines.workers import open_run


def _write(task: Task) -> Content:
    """predictions.parquet: `top_k` answers to each query; by default to those of the last snapshot, from before it.

    Raises:
        DataError: The queries cannot be read, or have names that are not in the graph.
    """
    table = _read(task.sources) if task.sources else None
    run = open_run(task.config)
    queries = _last_queries(run) if table is None else encode_queries(run, table)
    steps = len(run.graph.times) + len(np.unique(queries.snapshot))
    with progress("predict", steps) as advance:
        answers = answer_queries(run, queries, task.config.predict.top_k, counted(advance))
    write_table(answers, task.folder / "predictions.parquet")
    return {"num_queries": len(queries)}


def _last_queries(run: TrainedRun) -> EncodedQueries:
    queries = run.graph.snapshot(run.graph.end - 1).queries
    times = np.full(len(queries), queries.time)
    return EncodedQueries(queries.subject.cpu().numpy(), queries.relation.cpu().numpy(), times)


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


def _sources(config: Config) -> Sources | None:
    queries = config.predict.queries
    return None if queries is None else Sources.find(queries, "predict.queries")


predict = Stage(
    "predictions",
    settings=lambda config: {"predict": {"top_k": config.predict.top_k}},
    files=_sources,
    write=_write,
    summary=lambda _, content: f"{content['num_queries']} queries answered",
)
