"""Predictions in parts: a file each, with the answers to a range of the queries, whole or absent."""

import os
import shutil
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gam_kg.config import PredictConfig
from gam_kg.inference.answers import answer_queries
from gam_kg.inference.explain import explanation_column
from gam_kg.inference.predict import prediction_tables
from gam_kg.inference.queries import QueryRows
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.output import remove, replacing
from gam_kg.parquet import open_writer
from gam_kg.schemas import STATUSES
from gam_kg.training.evaluate import Tick
from .prediction_file import PARTS, UNFINISHED

_MOST_ANSWERS = 5_000_000
_SHOWN = 5


@dataclass(frozen=True)
class Part:
    """The queries in `[start, stop)`, whose answers are one file.

    Attributes:
        number: Position among the parts.
        name: Of the file.
    """

    number: int
    name: str
    start: int
    stop: int


def divide(num_queries: int, num_answers: int, most_queries: int) -> list[Part]:
    """The parts of some queries, each of `most_queries` at most, and of 5 million answers at most (one query at least).

    They do not depend on who answers them, so that others can go on with them.

    Args:
        num_queries: Queries, at least one.
        num_answers: Answers to each, at most.
        most_queries: `predict.queries_per_file`.
    """
    size = max(1, min(most_queries, _MOST_ANSWERS // num_answers))
    starts = range(0, num_queries, size)
    last = len(starts)
    names = (
        ["predictions.parquet"] if last == 1 else [f"predictions-{n:05d}-of-{last:05d}.parquet" for n in range(last)]
    )
    return [
        Part(number, name, start, min(start + size, num_queries))
        for number, (name, start) in enumerate(zip(names, starts, strict=True))
    ]


@dataclass(frozen=True)
class Survey:
    """What is known of the queries of a part before they are answered.

    Attributes:
        counts: Status → rows.
        bad: Row, reason and status of the first rows that cannot be answered.
        snapshots: Snapshot → queries about it that can be answered.
    """

    counts: Counter[str]
    bad: tuple[tuple[int, str, str], ...]
    snapshots: Counter[int]

    @classmethod
    def of(cls, rows: QueryRows, start: int) -> "Survey":
        """Look at rows of which the first has the number `start`."""
        bad = [
            (start + row, rows.reason[row].as_py(), STATUSES[rows.status[row]])
            for row in np.flatnonzero(~rows.answered)[:_SHOWN].tolist()
        ]
        snapshots, counts = np.unique(rows.encoded.snapshot, return_counts=True)
        found = Counter(dict(zip(snapshots.tolist(), counts.tolist(), strict=True)))
        return cls(Counter(rows.counts), tuple(bad), found)

    @classmethod
    def total(cls, surveys: Sequence["Survey"]) -> "Survey":
        """That of all parts together."""
        counts, snapshots, bad = Counter[str](), Counter[int](), list[tuple[int, str, str]]()
        for one in surveys:
            counts.update(one.counts)
            snapshots.update(one.snapshots)
            bad += one.bad[: _SHOWN - len(bad)]
        return cls(counts, tuple(bad), snapshots)

    def num_rows(self, num_answers: int) -> int:
        """Rows of the predictions: one an answer, and one for each query without answers."""
        answered = self.counts[STATUSES[0]]
        return answered * num_answers + self.counts.total() - answered


def in_time_order(parts: Sequence[Part], surveys: Sequence[Survey]) -> list[Part]:
    """Parts in the order in which memory and history go back least: by the first snapshot that they are about."""
    return sorted(parts, key=lambda part: (min(surveys[part.number].snapshots, default=0), part.number))


def write_part(
    run: TrainedRun, rows: QueryRows, part: Part, folder: Path, config: PredictConfig, tick: Tick = lambda: None
) -> None:
    """Answer the queries of a part, those about earlier snapshots first, and write its file, or none.

    Args:
        run: The run that answers.
        rows: The queries.
        part: The part.
        folder: Where its file goes.
        config: How many answers to each query, and what explains them.
        tick: Called after each snapshot.

    Raises:
        EvaluationError: A score is NaN or infinite.
        OutputError: The file cannot be written.
    """
    answers, explanations = answer_queries(run, rows.encoded, config.top_k, tick=tick, warn=False), None
    if config.explain:
        explanations = explanation_column(run, rows.encoded, answers.entity, config.explain)
    with replacing(folder / part.name) as staging:
        tables = prediction_tables(run, rows, answers, part.start, explanations=explanations)
        first = next(tables)
        with open_writer(staging, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)


def is_written(path: Path, num_rows: int) -> bool:
    """Whether the file of a part is there, with as many rows as it must have."""
    try:
        return pq.read_metadata(path).num_rows == num_rows
    except (OSError, pa.ArrowException):
        return False


@contextmanager
def unfinished(run: Path, key: str, *, anew: bool) -> Generator[Path]:
    """A folder for finished parts, in which they stay until all are, whoever ends this process.

    Args:
        run: The run folder.
        key: Of what the parts belong to; those of others are removed.
        anew: Remove those of the same, too.
    """
    folder = run / UNFINISHED / key
    for other in (run / UNFINISHED).glob("*"):
        if anew or other != folder:
            remove(other)
    try:
        yield folder
    finally:
        if not any(folder.glob(PARTS)):
            remove(run / UNFINISHED)


def put_together(parts: Sequence[Part], folder: Path, to: Path) -> None:
    """Let the files of all parts be in another folder too, without a second copy where the storage can."""
    for part in parts:
        try:
            os.link(folder / part.name, to / part.name)
        except OSError:
            shutil.copy2(folder / part.name, to / part.name)
