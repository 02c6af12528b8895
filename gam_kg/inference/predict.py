"""Answers to "(subject, relation, ?) at a time": the best candidates with scores, from the facts before it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries
from gam_kg.inference.queries import EncodedQueries, QueryRows
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ops.finite import require_finite
from gam_kg.schemas import PREDICTIONS, STATUSES
from gam_kg.train.evaluate import Tick, roll
from gam_kg.train.step_batch import divide_queries

logger = logging.getLogger("gam_kg")

_MAX_SCORES = 32_000_000


@dataclass(frozen=True)
class Answers:
    """The best answers to queries, best first; all of shape (num_queries, num_answers).

    Attributes:
        entity: int64.
        score, probability: float32; the probability is a softmax over all candidates, calibrated by horizon.
        times_seen: In how many snapshots before the query the answer was a fact, int64.
        last_seen: In which of them last, int64; -1: never.
    """

    entity: np.ndarray
    score: np.ndarray
    probability: np.ndarray
    times_seen: np.ndarray
    last_seen: np.ndarray


def answer_queries(run: TrainedRun, queries: EncodedQueries, top_k: int, tick: Tick = lambda: None) -> Answers:
    """Score all candidates of each query and return the best.

    Args:
        run: The run that answers.
        queries: The queries, of any times; each sees only the facts before its own time.
        top_k: Answers to each query; fewer where there are fewer entities.
        tick: Called after each snapshot.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    _warn_beyond_training(run, queries)
    shape = len(queries), min(top_k, len(run.entities))
    answers = Answers(*(np.zeros(shape, kind) for kind in (np.int64, np.float32, np.float32, np.int64, np.int64)))
    for rows, block, scores in _scores(run, queries, tick):
        require_finite(scores, "scores of the answers")
        best = torch.topk(scores, shape[1], dim=1)
        temperature = run.temperature(block.horizon)
        # In place, as the scores of a block are many.
        total = scores.sub_(best.values[:, :1]).div_(temperature).exp_().sum(1, keepdim=True)
        probability = ((best.values - best.values[:, :1]) / temperature).exp() / total
        known = (column.repeat_interleave(shape[1]) for column in (block.subject, block.relation))
        seen = run.history.times_seen(*known, run.graph.partition.rows(best.indices.cpu().flatten()))
        found = best.indices, best.values, probability, *(column.view(-1, shape[1]) for column in seen)
        for column, values in zip(vars(answers).values(), found, strict=True):
            column[rows] = values.cpu().numpy()
    return answers


def _warn_beyond_training(run: TrainedRun, queries: EncodedQueries) -> None:
    horizon = queries.snapshot - (run.graph.end - 1)
    far, last = horizon > run.trained_horizon, run.axis.label(run.graph.end - 1)
    if far.any():
        logger.warning(
            "warning: training looked ahead %s snapshots at most (train.max_horizon); answers to %s of %s queries lie "
            "beyond that, up to %s snapshots after the last fact (%s), and extrapolate",
            *(f"{run.trained_horizon:,}", f"{far.sum():,}", f"{len(far):,}", f"{horizon.max():,}", last),
        )


def prediction_table(run: TrainedRun, rows: QueryRows, answers: Answers) -> pa.Table:
    """Queries and answers as `schemas.PREDICTIONS`, followed by the extra columns of the queries.

    Args:
        run: The run that answered.
        rows: The queries.
        answers: Answers to those that could be answered, in their order.

    Returns:
        One row per answer, query by query and best first; a query that could not be answered has one row.
    """
    num_answers = answers.entity.shape[1]
    query = np.repeat(np.arange(len(rows)), np.where(rows.answered, num_answers, 1))
    is_answer = rows.answered[query]
    place = np.cumsum(is_answer) - 1
    beyond = np.maximum(rows.encoded.snapshot - (run.graph.end - 1), 0)
    flat = {
        "snapshots_beyond_last_fact": np.repeat(beyond, num_answers),
        "position": np.tile(np.arange(1, num_answers + 1, dtype=np.int32), len(answers.entity)),
        "answer_id": answers.entity.ravel(),
        "answer": run.entities.decode(answers.entity.ravel()),
        "score": answers.score.ravel(),
        "probability": answers.probability.ravel(),
        "times_seen": answers.times_seen.ravel(),
        "last_seen": run.labels(answers.last_seen.ravel()),
    }
    of_query = {**rows.columns, "status": pa.array(STATUSES).take(pa.array(rows.status)), "reason": rows.reason}
    repeated = {"query_id": query} | {name: column.take(pa.array(query)) for name, column in of_query.items()}
    answered = pa.table(flat).take(pa.array(place, mask=~is_answer))
    table = pa.Table.from_pydict(repeated | dict(zip(flat, answered.columns, strict=True)), schema=PREDICTIONS)
    table = _as_given(run, table).replace_schema_metadata(run.provenance(run.graph.end - 1))
    for field, column in zip(rows.extra.schema, rows.extra.columns, strict=True):
        table = table.append_column(field, column.take(pa.array(query)))
    return table


def _as_given(run: TrainedRun, table: pa.Table) -> pa.Table:
    """Predictions with integers where names are integers in the facts; null where a query has another name."""
    for role in ("subject", "relation", "object", "answer"):
        kind = "relation" if role == "relation" else "entity"
        if pa.types.is_integer(run.given_names[kind].type):
            names = table[role].combine_chunks().dictionary_encode()
            numbers = pa.array(map(_int64, names.dictionary.to_pylist()), pa.int64()).take(names.indices)
            table = table.set_column(table.column_names.index(role), pa.field(role, pa.int64()), numbers)
    return table


def _int64(name: str) -> int | None:
    """The integer that a name is, if it is written as that is and fits."""
    try:
        number = int(name)
    except ValueError:
        return None
    return number if str(number) == name and -(2**63) <= number < 2**63 else None


def _scores(run: TrainedRun, queries: EncodedQueries, tick: Tick) -> Iterator[tuple[np.ndarray, Queries, Tensor]]:
    """Positions of some queries, these queries, and their scores of all candidates, until all queries are scored."""
    times = np.unique(queries.snapshot).tolist()
    if not times:
        return
    scorer = run.scorer_before(times[0], tick)
    snapshots = run.snapshots(times[0], times[-1])
    following = next(snapshots, None)
    for time in times:
        while following is not None and following.time < time:
            roll([scorer], run.history, [following], tick)
            following = next(snapshots, None)
        rows = np.flatnonzero(queries.snapshot == time)
        subject, relation = (torch.from_numpy(column[rows]) for column in (queries.subject, queries.relation))
        nothing = torch.zeros(0, dtype=torch.int64)
        of_time = Queries(time, subject, relation, nothing, nothing).seen_from(min(time, run.graph.end))
        for block in divide_queries(of_time, len(run.entities), _MAX_SCORES):
            yield rows[: len(block)], block, scorer.table(block)
            rows = rows[len(block) :]
        tick()
