"""The search verb: exact look-ups in a finished run, shown as tables."""

import os
from pathlib import Path

import numpy as np
import torch

from gam_kg.errors import ConfigError
from gam_kg.inference.predict import Asked, answer_queries
from gam_kg.inference.search import nearest
from gam_kg.inference.trained_run import TrainedRun
from pipelines.report import show_table


def search_like(run_path: Path, name: str, at: str | None, top_k: int) -> None:
    """Print the entities nearest to one, as of a moment (its facts included).

    Raises:
        DataError: The name is unknown; the message has the closest names.
    """
    run = _open(run_path)
    entity = int(run.entities.encode([name])[0])
    last = run.graph.end - 1 if at is None else _snapshot(run, at)
    scorer = run.scorer_before(last + 1)
    found = nearest(scorer.vectors(), entity, top_k)
    last_seen = run.labels(scorer.memory.last_seen.cpu().numpy()).to_pylist()
    rows = [
        [name, f"{similarity:.3f}", last_seen[other] or "never"]
        for name, similarity, other in zip(
            run.entities.decode(found.entity).to_pylist(), found.similarity, found.entity, strict=True
        )
    ]
    show_table(f"nearest to {name} as of {run.axis.label(last)}", ["entity", "cosine", "last seen"], rows)


def search_answers(run_path: Path, subject: str, relation: str, at: str | None, top_k: int) -> None:
    """Print the best answers to (subject, relation, ?) at a moment, from the facts before it.

    Without a moment, it is the snapshot after the last fact.

    Raises:
        DataError: A name is unknown; the message has the closest names.
    """
    run = _open(run_path)
    time = run.graph.end if at is None else _snapshot(run, at)
    ids = run.entities.encode([subject]), run.relations.encode([relation])
    answers = answer_queries(run, Asked(*ids, np.array([time])), top_k)
    names = run.entities.decode(answers.answer[0]).to_pylist()
    rows = [
        [name, f"{100 * probability:.1f}", f"{score:.2f}"]
        for name, probability, score in zip(names, answers.probability[0], answers.score[0], strict=True)
    ]
    title = f"({subject}, {relation}, ?) at {run.axis.label(time)}"
    show_table(title, ["answer", "probability, %", "score"], rows)


def _open(path: Path) -> TrainedRun:
    torch.set_num_threads(os.cpu_count() or 1)
    return TrainedRun.load(path)


def _snapshot(run: TrainedRun, at: str) -> int:
    snapshot = run.axis.parse(at)
    if snapshot < 0:
        raise ConfigError(f"--at {at}: before the first fact ({run.axis.label(0)}), when nothing is known")
    return snapshot
