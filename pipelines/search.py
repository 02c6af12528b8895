"""The search verb: exact look-ups in a finished run, shown as tables."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import torch

from gam_kg.artifacts import read_manifest
from gam_kg.config import Config
from gam_kg.errors import ArtifactError
from gam_kg.inference.search import nearest_entities, query_answers
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.training.run import threads
from gam_kg.workflow.inputs import notices_of_run
from .report import show_table

logger = logging.getLogger("gam_kg")


def search_like(run_path: Path, name: str, at: str | None, top_k: int) -> None:
    """Print the entities nearest to one after the facts of a timestamp.

    Raises:
        ArtifactError: The run cannot be read, or was replaced meanwhile.
        DataError: The name is unknown; the message has the closest names.
    """
    with opened(run_path) as run:
        found = nearest_entities(run, name, at, top_k).to_pylist()
        last = _label(run, run.axis.snapshot_at(at, run.graph.end - 1))
        spelt = run.spelt(pa.array([name]))[0]
    rows = [[str(row["entity"]), f"{row['cosine']:.3f}", row["last_seen"] or "never"] for row in found]
    show_table(f"nearest to {spelt} after {last}", ["entity", "cosine", "last seen"], rows)


def search_answers(run_path: Path, subject: str, relation: str, at: str | None, top_k: int) -> None:
    """Print the best answers to (subject, relation, ?) at a timestamp, from the facts before it.

    Raises:
        ArtifactError: The run cannot be read, or was replaced meanwhile.
        DataError: A name is unknown; the message has the closest names.
    """
    with opened(run_path) as run:
        found = query_answers(run, subject, relation, at, top_k).to_pylist()
        when = _label(run, run.axis.snapshot_at(at, run.graph.end))
    rows = [
        [
            str(row["answer"]),
            *(f"{100 * row['probability']:.1f}", f"{row['score']:.2f}"),
            *(str(row["times_seen"]), row["last_seen"] or "never"),
        ]
        for row in found
    ]
    title = f"({found[0]['subject']}, {found[0]['relation']}, ?) at {when}"
    show_table(title, ["answer", "probability, %", "score", "times seen", "last seen"], rows)


def _label(run: TrainedRun, snapshot: int) -> str:
    """A snapshot, and how far it is beyond the last fact if it is."""
    last = run.graph.end - 1
    beyond = f", {snapshot - last:,} snapshot(s) beyond the last fact ({run.axis.label(last)})"
    return run.axis.label(snapshot) + (beyond if snapshot > last else "")


@contextmanager
def opened(path: Path) -> Generator[TrainedRun]:
    """A run to read; what is read in the block is of one graph and one checkpoint.

    Raises:
        ArtifactError: It cannot be read, or was replaced meanwhile.
    """
    torch.set_num_threads(threads(Config()))
    run = TrainedRun.load(path)
    for notice in notices_of_run(path, run.graph_manifest):
        logger.warning("warning: %s", notice)
    try:
        yield run
    finally:
        for made in (run.graph_manifest, run.checkpoint_manifest):
            if read_manifest(path / made.kind, made.kind).id != made.id:
                raise ArtifactError(f"{path / made.kind} was replaced while it was read; give the command again")
