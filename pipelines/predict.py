"""The predict stage: files of queries → `predictions/`, from the run's artifacts alone."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import Content
from gam_kg.config import Config
from gam_kg.errors import DataError
from gam_kg.inference.answers import answer_queries
from gam_kg.inference.predict import prediction_table
from gam_kg.inference.queries import EncodedQueries, QueryRows, read_queries
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.parquet import write_table
from gam_kg.schemas import STATUSES
from gam_kg.workflow.prediction_file import NAME, write_out
from gam_kg.workflow.situation import PREDICTIONS
from gam_kg.workflow.stage import Stage, Task
from .progress import counted, progress
from .query_files import read_query_files
from .ranks import open_run

logger = logging.getLogger("gam_kg")

_MOST_ACTIVE, _MOST_SCORES = 10_000, 250_000_000
_SHOWN = 5


def _write(task: Task) -> Content:
    """predictions.parquet: `top_k` answers to each query; by default what comes next for the active pairs.

    Raises:
        DataError: The queries cannot be read, none of them can be answered, or one cannot and `predict.strict` is set.
    """
    config = task.config
    if not task.sources:
        run = task.opened or open_run(config)
        rows = QueryRows.of(run, _next_of_active(run))
    else:
        (sources,) = task.sources
        tables = read_query_files(sources, config.data)  # before the slow part: a mistake is reported at once
        run = task.opened or open_run(config)
        rows = read_queries(run, pa.concat_tables(tables), config.data.columns)
        _check(rows, [(name, len(table)) for name, table in zip(sources.names, tables, strict=True)], config)
    queries = rows.encoded
    _log_beyond(run, queries)
    steps = len(run.graph.times) + len(np.unique(queries.snapshot))
    with progress("predict", steps) as advance:
        answers = answer_queries(run, queries, config.predict.top_k, tick=counted(advance))
    write_table(prediction_table(run, rows, answers), task.folder / NAME)
    return {"num_queries": len(rows), "status": rows.counts}


def _next_of_active(run: TrainedRun) -> EncodedQueries:
    """(s, r, ?) in the snapshot after the last fact, for the pairs that have a fact in the last snapshot."""
    last, end = run.graph.snapshot(run.graph.end - 1).queries, run.graph.end
    subject, relation = (column.cpu().numpy() for column in (last.subject, last.relation))
    pairs = np.flatnonzero(relation < len(run.relations))
    active = f"{len(pairs):,}", run.axis.label(end - 1)
    logger.info(
        "predict: what comes in %s, for the %s pairs of subject and relation with a fact in %s",
        run.axis.label(end),
        *active,
    )
    most = max(1, min(_MOST_ACTIVE, _MOST_SCORES // len(run.entities)))
    if len(pairs) > most:
        logger.warning(
            "predict: only for the first %s of them, whose subjects have most facts in the prepared graph; "
            "predict.queries names others",
            f"{most:,}",
        )
        pairs = pairs[:most]  # ids descend by the number of facts, and queries are sorted by them
    return EncodedQueries(subject[pairs], relation[pairs], np.full(len(pairs), end))


def _log_beyond(run: TrainedRun, queries: EncodedQueries) -> None:
    beyond = queries.snapshot - (run.graph.end - 1)
    if (beyond > 1).any():
        logger.info(
            "predict: queries more than one snapshot beyond the last fact (%s): %s; the farthest is about %s, %s "
            "beyond it; nothing is known of the time between",
            *(run.axis.label(run.graph.end - 1), f"{(beyond > 1).sum():,}"),
            *(run.axis.label(int(queries.snapshot.max())), f"{beyond.max():,}"),
        )


def _check(rows: QueryRows, files: list[tuple[str, int]], config: Config) -> None:
    """Refuse queries of which none can be answered; where `predict.strict` is set, also if one cannot."""
    bad = np.flatnonzero(~rows.answered)
    if not len(rows):
        raise DataError(f"predict.queries={config.predict.queries}: there are no rows")
    if not len(bad) or (len(bad) < len(rows) and not config.predict.strict):
        return
    ends = np.cumsum([length for _, length in files])
    lines = []
    for row in bad[:_SHOWN].tolist():
        file = int(np.searchsorted(ends, row, side="right"))
        name, length = files[file]
        lines.append(f"  {name}, row {row - ends[file] + length}: {rows.reason[row]} ({STATUSES[rows.status[row]]})")
    if len(bad) > _SHOWN:
        lines.append(f"  and {len(bad) - _SHOWN:,} more")
    if len(bad) == len(rows):
        found = f"none of the {len(rows):,} queries can be answered"
    else:
        found = f"{len(bad):,} of the {len(rows):,} queries cannot be answered, and predict.strict allows none such"
    raise DataError("\n".join([f"{found}; rows are counted from 0:", *lines]))


def _summary(_: Path, content: Content) -> str:
    counts = dict(content["status"])
    answered = counts.pop(STATUSES[0], 0)
    left = "".join(f", {count:,} {name}" for name, count in counts.items())
    return f"{answered:,} of {content['num_queries']:,} queries answered{left}"


predict = Stage(PREDICTIONS, write=_write, summary=_summary, deliver=write_out)
