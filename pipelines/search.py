"""The search verb: exact look-ups in a finished run, shown as tables."""

from pathlib import Path

import torch

from gam_kg.config import Config
from gam_kg.inference.search import nearest_entities, query_answers, snapshot_at
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.train.run import threads
from pipelines.report import show_table


def search_like(run_path: Path, name: str, at: str | None, top_k: int) -> None:
    """Print the entities nearest to one, as of a timestamp.

    Raises:
        DataError: The name is unknown; the message has the closest names.
    """
    run = _open(run_path)
    found = nearest_entities(run, name, at, top_k).to_pylist()
    rows = [[row["entity"], f"{row['cosine']:.3f}", row["last_seen"] or "never"] for row in found]
    last = run.axis.label(snapshot_at(run.axis, at, run.graph.end - 1))
    show_table(f"nearest to {name} as of {last}", ["entity", "cosine", "last seen"], rows)


def search_answers(run_path: Path, subject: str, relation: str, at: str | None, top_k: int) -> None:
    """Print the best answers to (subject, relation, ?) at a timestamp, from the facts before it.

    Raises:
        DataError: A name is unknown; the message has the closest names.
    """
    run = _open(run_path)
    found = query_answers(run, subject, relation, at, top_k).to_pylist()
    rows = [[row["answer"], f"{100 * row['probability']:.1f}", f"{row['score']:.2f}"] for row in found]
    title = f"({subject}, {relation}, ?) at {found[0]['timestamp']}"
    show_table(title, ["answer", "probability, %", "score"], rows)


def _open(path: Path) -> TrainedRun:
    torch.set_num_threads(threads(Config()))
    return TrainedRun.load(path)
