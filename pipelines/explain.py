"""The explain verb: why a run gives answers the scores that they have, as tables or JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gam_kg.inference.answers import answer_queries, encode_query, find_name
from gam_kg.inference.explain import PARTS, Explanation, explain
from gam_kg.inference.memory_attention import memory_attention
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.trained_run import TrainedRun
from .progress import results
from .report import show_table
from .search import opened

_BAR = 20


def explain_query(
    run_path: Path,
    subject: str | None,
    relation: str,
    object_: str | None,
    *,
    at: str | None,
    answer: str | None,
    answers: int,
    top: int,
    memory: bool,
    as_json: bool,
) -> None:
    """Explain answers to a query, as text or as JSON.

    Args:
        run_path: Folder of the run.
        subject: Name of the subject; None where it is what the query asks for.
        relation: Name of the relation.
        object_: Name of the object, likewise.
        at: Timestamp of the query; None: the snapshot after the last fact.
        answer: Name of the answer; None: the best ones.
        answers: How many of the best ones.
        top: Reasons of each.
        memory: Also show what the memory of the known entity attended to at its last update.
        as_json: Print a list of objects.

    Raises:
        ArtifactError: The run cannot be read, or was replaced meanwhile.
        DataError: A name is unknown; the message has the closest names.
    """
    with opened(run_path) as run:
        query = encode_query(run, subject, relation, object_, at)
        entity, places = _answers(run, query, answer, answers)
        repeated = EncodedQueries(*(column.repeat(len(entity)) for column in vars(query).values()))
        found = explain(run, repeated, entity, top)
        of_memory = memory_attention(run, int(query.subject[0]), int(query.snapshot[0])) if memory else []
    if as_json:
        attended = {"memory": [asdict(fact) | {"weight": weight} for fact, weight in of_memory]} if memory else {}
        rows = [place | one.to_dict() | attended for place, one in zip(places, found, strict=True)]
        print(json.dumps(rows, ensure_ascii=False, indent=1))  # noqa: T201 -- rich would wrap it
        return
    for place, one in zip(places, found, strict=True):
        _show(place, one)
    if memory:
        rows = [[str(fact), fact.timestamp, str(fact.times_seen), f"{weight:.2f}"] for fact, weight in of_memory[:top]]
        title = f"what the memory of {subject or object_} attended to at its last update, no part of the sum"
        show_table(title, ["fact", "at", "times seen", "attention"], rows)


def _answers(
    run: TrainedRun, query: EncodedQueries, answer: str | None, number: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Entities whose scores to explain, and the rank and probability of each."""
    named = None if answer is None else find_name(run, run.entities, answer)
    found = answer_queries(run, query, number if named is None else len(run.entities))
    (entity,), (score,), (probability,) = found.entity, found.score, found.probability
    at = np.arange(len(entity)) if named is None else np.flatnonzero(entity == named)
    ranks = [1 + int((score > score[one]).sum()) for one in at]
    return entity[at], [
        {"rank": rank, "probability": float(probability[one])} for rank, one in zip(ranks, at, strict=True)
    ]


def _show(place: dict[str, Any], one: Explanation) -> None:
    query = ", ".join("?" if name is None else str(name) for name in (one.subject, one.relation, one.object))
    title = f"({query}) at {one.timestamp}: {one.answer}, rank {place['rank']:,}"
    percent = one.percent
    rows = [
        [f"{part}: {PARTS[part]}", f"{value:+.2f}", f"{one.mean[part]:+.2f}", _bar(percent[part])]
        for part, value in one.parts.items()
        if value or one.mean[part]
    ]
    rows.append(["score", f"{one.score:+.2f}", f"{sum(one.mean.values()):+.2f}", ""])
    show_table(
        f"{title}, probability {100 * place['probability']:.1f} %",
        ["what adds to the score", "adds", "on average", "counts, %"],
        rows,
    )
    reasons = [
        [
            reason.text,
            reason.kind,
            *("" if reason.weight is None else f"{reason.weight:.2f}", f"{reason.share:+.2f}"),
            _bar(one.percent_of(reason)),
        ]
        for reason in one.reasons
    ]
    if not reasons:
        results.print("nothing of the past carries it; the vectors alone do", soft_wrap=True, markup=False)
        return
    show_table("what carries it", ["reason", "part", "attention", "share", "counts, %"], reasons)


def _bar(percent: float) -> str:
    return f"{'█' * round(abs(percent) / 100 * _BAR)} {round(percent):+4d}"
