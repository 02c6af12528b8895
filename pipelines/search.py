"""The search verb: exact look-ups in a finished run, shown as tables, JSON or CSV."""

import csv
import json
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch

from gam_kg.config import Config
from gam_kg.inference.answers import find_name
from gam_kg.inference.one_version import one_version
from gam_kg.inference.search import nearest_entities, query_answers
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.training.run import threads
from gam_kg.workflow.inputs import notices_of_run
from .report import show_table

logger = logging.getLogger("gam_kg")
Form = Literal["table", "json", "csv"]
_OF_ANSWER = ("position", "answer_id", "answer", "score", "probability", "times_seen", "last_seen")


@dataclass(frozen=True)
class Question:
    """What is looked up.

    Attributes:
        like: The entity whose nearest entities are looked up; None for a query.
        subject, relation, object: The query; None for what is to be found, and for all without one.
        at: Timestamp; None: that of the last fact with `like`, of the snapshot after it with a query.
        top_k: Rows, at most.
        among: FILE or TYPE of candidates; None: all entities.
    """

    like: str | None = None
    subject: str | None = None
    relation: str | None = None
    object: str | None = None
    at: str | None = None
    top_k: int = 10
    among: str | None = None


@dataclass(frozen=True)
class Found:
    """What was found: the question as the graph has it, by column name, and one row an answer."""

    question: dict[str, str | int | None]
    rows: pa.Table
    title: str

    def show(self, form: Form) -> None:
        """Write it to standard output."""
        rows = self.rows.to_pylist()
        if form == "json":
            sys.stdout.write(json.dumps({**self.question, "answers": rows}, ensure_ascii=False) + "\n")
        elif form == "csv":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(self.rows.column_names)
            writer.writerows(row.values() for row in rows)
        elif "cosine" in self.rows.column_names:
            texts = [[str(row["entity"]), f"{row['cosine']:.3f}", row["last_seen"] or "never"] for row in rows]
            show_table(self.title, ["entity", "cosine", "last seen"], texts)
        else:
            texts = [
                [
                    str(row["answer"]),
                    *(f"{100 * row['probability']:.1f}", f"{row['score']:.2f}"),
                    *(str(row["times_seen"]), row["last_seen"] or "never"),
                ]
                for row in rows
            ]
            show_table(self.title, ["answer", "probability, %", "score", "times seen", "last seen"], texts)


def look_up(run: TrainedRun, question: Question) -> Found:
    """Answer a question; raises what `nearest_entities` and `query_answers` raise."""
    among = "" if question.among is None else f" among {question.among}"
    if question.like is not None:
        name = run.given_names["entity"][find_name(run, run.entities, question.like)].as_py()
        rows = nearest_entities(run, name, question.at, question.top_k, among=question.among)
        last = run.axis.snapshot_at(question.at, run.graph.end - 1)
        title = f"nearest to {name}{among} after {_label(run, last)}"
        return Found({"like": name, "timestamp": run.axis.label(last)}, rows, title)
    assert question.relation is not None
    rows = query_answers(
        *(run, question.subject, question.relation, question.at, question.top_k),
        object=question.object,
        among=question.among,
    )
    query = rows.select(["subject", "relation", "object", "timestamp"]).slice(0, 1).to_pylist()[0]
    parts = ", ".join("?" if query[role] is None else str(query[role]) for role in ("subject", "relation", "object"))
    when = _label(run, run.axis.snapshot_at(question.at, run.graph.end))
    return Found(query, rows.select(_OF_ANSWER), f"({parts}){among} at {when}")


def search(run_path: Path, question: Question, form: Form = "table") -> None:
    """Write what a finished run answers to a question.

    Raises:
        ArtifactError: The run cannot be read, or was replaced meanwhile.
        DataError: A name is unknown; the message has the closest names.
    """
    with opened(run_path) as run:
        found = look_up(run, question)
    found.show(form)


def _label(run: TrainedRun, snapshot: int) -> str:
    """A snapshot, and how far it is beyond the last fact if it is."""
    last = run.graph.end - 1
    beyond = f", {snapshot - last:,} snapshot(s) beyond the last fact ({run.axis.label(last)})"
    return run.axis.label(snapshot) + (beyond if snapshot > last else "")


def load(path: Path) -> TrainedRun:
    """Open a run to read, and say what there is to know of it; raises ArtifactError where it cannot be read."""
    torch.set_num_threads(threads(Config()))
    run = TrainedRun.load(path)
    for notice in notices_of_run(path, run.graph_manifest):
        logger.warning("warning: %s", notice)
    return run


@contextmanager
def opened(path: Path) -> Generator[TrainedRun]:
    """A run to read; what is read in the block is of one graph and one checkpoint.

    Raises:
        ArtifactError: It cannot be read, or was replaced meanwhile.
    """
    run = load(path)
    with one_version(run):
        yield run
