"""The predict stage: files of queries → `predictions/`, from the run's artifacts alone.

The queries are divided into parts in their order, each with a file of its own, so that memory does not grow with their
number. All are read once before the first is answered: what is wrong with them is then said at once, and parts about
early snapshots go first. A part is answered in time order, and written as a whole or not at all.
"""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from gam_kg.artifacts import Content
from gam_kg.config import Config
from gam_kg.errors import DataError
from gam_kg.inference.answers import warn_beyond_training
from gam_kg.inference.queries import EncodedQueries, QueryRows, read_queries
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import STATUSES
from .prediction_file import deliver_predictions
from .prediction_parts import Part, Survey, divide, in_time_order, is_written, put_together, unfinished, write_part
from .progress import counted, progress
from .query_files import WholeFiles, open_query_files
from .ranks import open_run
from .stages import Stage, Task
from .workflow import PREDICTIONS

logger = logging.getLogger("gam_kg")

_MOST_ACTIVE, _MOST_SCORES = 10_000, 250_000_000

Read = Callable[[Part], QueryRows]


def _write(task: Task) -> Content:
    """Files with `top_k` answers to each query; by default what comes next for the active pairs.

    Parts that a process has finished before it was killed are used.

    Raises:
        ConfigError: Ray has too few CPUs or GPUs for `predict.num_workers`.
        DataError: The queries cannot be read, none of them can be answered, or one cannot and `predict.strict` is set.
        WorkerLostError: Processes were lost again and again while they answered the queries of a part.
    """
    config, size = task.config, task.config.predict.queries_per_file
    with unfinished(config.run_path, task.manifest.key, anew=task.force) as folder:
        # Before the run is opened: a mistake is reported at once.
        files = open_query_files(task.sources[0], config.data, folder) if task.sources else None
        on_actors = files is not None and config.predict.num_workers > 0 and len(files) > size
        run = task.opened or (TrainedRun.load(config.run_path, verified=True) if on_actors else open_run(config))
        num_queries, read = _queries(run, files, config)
        num_answers = min(config.predict.top_k, len(run.entities))
        parts = divide(num_queries, num_answers * (1 + 2 * config.predict.explain), size)  # reasons take room too
        surveys = [Survey.of(read(part), part.start) for part in parts]
        total = Survey.total(surveys)
        if files is not None:
            _check(total, files, config)
        _log_beyond(run, total)
        if len(parts) == 1:
            steps = len(run.graph.times) + len(total.snapshots)
            with progress("predict", steps) as advance:
                write_part(run, read(parts[0]), parts[0], task.folder, config.predict, counted(advance))
        else:
            num_rows = [survey.num_rows(num_answers) for survey in surveys]
            left = [
                part
                for part in in_time_order(parts, surveys)
                if not is_written(folder / part.name, num_rows[part.number])
            ]
            if len(left) < len(parts):
                logger.info("predict: %s of %s parts are finished already", len(parts) - len(left), len(parts))
            _write_parts(run, read, left, folder, config, files if on_actors else None)
            assert all(is_written(folder / part.name, num_rows[part.number]) for part in parts)
            put_together(parts, folder, task.folder)
        return {"num_queries": num_queries, "status": dict(total.counts)}


def _queries(run: TrainedRun, files: WholeFiles | None, config: Config) -> tuple[int, Read]:
    """How many queries there are, and a function that reads a part of them."""
    if files is None:
        rows = QueryRows.of(run, _next_of_active(run))
        return len(rows), lambda part: rows.slice(part.start, part.stop)
    if not len(files):
        raise DataError(f"predict.queries={config.predict.queries}: there are no rows")

    @lru_cache(maxsize=1)  # where there is one part, it is read once
    def read(part: Part) -> QueryRows:
        return read_queries(run, files.read(part.start, part.stop), config.data.columns)

    return len(files), read


def _write_parts(
    run: TrainedRun, read: Read, parts: Sequence[Part], folder: Path, config: Config, files: WholeFiles | None
) -> None:
    """Write the files of parts in this order, with actors where there are `files` for them."""
    with progress("predict", sum(part.stop - part.start for part in parts), "queries") as advance:
        done = 0

        def on_part(part: Part) -> None:
            nonlocal done
            done += part.stop - part.start
            advance(done)

        if files is not None and parts:
            from .prediction_workers import answer_on_actors

            answer_on_actors(config, files, parts, folder, on_part)
            return
        for part in parts:
            write_part(run, read(part), part, folder, config.predict)
            on_part(part)


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


def _log_beyond(run: TrainedRun, total: Survey) -> None:
    snapshots, counts = (np.array(list(values), np.int64) for values in (total.snapshots, total.snapshots.values()))
    beyond = snapshots - (run.graph.end - 1)
    if (beyond > 1).any():
        logger.info(
            "predict: queries more than one snapshot beyond the last fact (%s): %s; the farthest is about %s, %s "
            "beyond it; nothing is known of the time between",
            *(run.axis.label(run.graph.end - 1), f"{counts[beyond > 1].sum():,}"),
            *(run.axis.label(int(snapshots.max())), f"{beyond.max():,}"),
        )
    warn_beyond_training(run, snapshots, counts)


def _check(total: Survey, files: WholeFiles, config: Config) -> None:
    """Refuse queries of which none can be answered; where `predict.strict` is set, also if one cannot."""
    num_bad = len(files) - total.counts[STATUSES[0]]
    if not num_bad or (num_bad < len(files) and not config.predict.strict):
        return
    lines = [f"  {files.place(row)}: {reason} ({status})" for row, reason, status in total.bad]
    if num_bad > len(lines):
        lines.append(f"  and {num_bad - len(lines):,} more")
    if num_bad == len(files):
        found = f"none of the {len(files):,} queries can be answered"
    else:
        found = f"{num_bad:,} of the {len(files):,} queries cannot be answered, and predict.strict allows none such"
    raise DataError("\n".join([f"{found}; rows are counted from 0:", *lines]))


def _summary(_: Path, content: Content) -> str:
    counts = dict(content["status"])
    answered = counts.pop(STATUSES[0], 0)
    left = "".join(f", {count:,} {name}" for name, count in counts.items())
    return f"{answered:,} of {content['num_queries']:,} queries answered{left}"


predict = Stage(PREDICTIONS, write=_write, summary=_summary, deliver=deliver_predictions)
