"""Answers to "(subject, relation, ?) at a time": the best candidates with scores, from the facts before it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from gam_kg.errors import DataError, GamKGError
from gam_kg.graph.snapshot import Queries
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import PREDICTIONS
from gam_kg.train.evaluate import Tick, roll
from gam_kg.train.step_batch import divide_queries

_MAX_SCORES = 32_000_000


@dataclass(frozen=True)
class EncodedQueries:
    """Queries by id, one row each.

    Attributes:
        subject: The known entity, int64 (num_queries,).
        relation: int64 (num_queries,); `>= num_relations` to predict the subject of an object.
        snapshot: When, int64 (num_queries,); facts before it are visible.
    """

    subject: np.ndarray
    relation: np.ndarray
    snapshot: np.ndarray

    def __len__(self) -> int:
        return len(self.subject)


def encode_queries(run: TrainedRun, table: pa.Table) -> EncodedQueries:
    """Read a table of queries.

    Args:
        run: The run that answers.
        table: `relation`, and `subject` or `object` (one of them null or absent), optionally
            `timestamp`; a null timestamp means the snapshot after the last fact.

    Raises:
        DataError: A column is missing or of a wrong type, both or neither of subject and object are given, or a name
            or timestamp is unknown.
    """
    names = {name: _names(table, name) for name in ("subject", "relation", "object")}
    has_subject, has_relation, has_object = (np.asarray(pc.is_valid(column)) for column in names.values())
    if not has_relation.all():
        raise DataError(f"queries: row {has_relation.argmin()}: 'relation' is null; give a relation")
    if (has_subject == has_object).any():
        row = (has_subject == has_object).argmax()
        found = "both are given" if has_subject[row] else "neither is given"
        raise DataError(f"queries: row {row}: give either subject or object, the other is predicted; {found}")
    known = run.entities.encode(pc.coalesce(names["subject"], names["object"]))
    relation = run.relations.encode(names["relation"])
    relation = np.where(has_subject, relation, relation + len(run.relations))
    return EncodedQueries(known, relation, _snapshots(run, table))


def answer_queries(run: TrainedRun, queries: EncodedQueries, top_k: int, tick: Tick = lambda: None) -> pa.Table:
    """Score all candidates of each query and return the best, `schemas.PREDICTIONS`.

    Args:
        run: The run that answers.
        queries: The queries, of any times; each sees only the facts before its own time.
        top_k: Answers a query; fewer where there are fewer entities.
        tick: Called after each snapshot.

    Returns:
        One row per answer, query by query and best first; `probability` is a softmax over all candidates.
    """
    shape = len(queries), min(top_k, len(run.entities))
    answer, score, probability = np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for rows, scores in _scores(run, queries, tick):
        best = torch.topk(scores, shape[1], dim=1)
        answer[rows], score[rows] = best.indices.cpu().numpy(), best.values.cpu().numpy()
        probability[rows] = (best.values - torch.logsumexp(scores, 1, keepdim=True)).exp().cpu().numpy()
    return _table(run, queries, answer, score, probability)


def _scores(run: TrainedRun, queries: EncodedQueries, tick: Tick) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Positions of some queries, and their scores of all candidates, until all queries are scored."""
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
        columns = [torch.from_numpy(column[rows]) for column in (queries.subject, queries.relation)]
        nothing = torch.zeros(0, dtype=torch.int64)
        for block in divide_queries(Queries(time, *columns, nothing, nothing), len(run.entities), _MAX_SCORES):
            yield rows[: len(block)], scorer.table(block)
            rows = rows[len(block) :]
        tick()


def _table(
    run: TrainedRun, queries: EncodedQueries, answer: np.ndarray, score: np.ndarray, probability: np.ndarray
) -> pa.Table:
    num_queries, top_k = answer.shape
    inverse = queries.relation >= len(run.relations)
    known = pa.array(run.entities.decode(queries.subject))
    nothing = pa.nulls(num_queries, pa.large_string())
    columns = {
        "query_id": pa.array(np.arange(num_queries)),
        "subject": pc.if_else(pa.array(inverse), nothing, known),
        "relation": run.relations.decode(queries.relation % len(run.relations)),
        "object": pc.if_else(pa.array(inverse), known, nothing),
        "timestamp": run.labels(queries.snapshot),
    }
    query = pa.array(np.repeat(np.arange(num_queries), top_k))
    repeated = {name: column.take(query) for name, column in columns.items()}
    flat = {
        "position": np.tile(np.arange(1, top_k + 1, dtype=np.int32), num_queries),
        "answer_id": answer.ravel(),
        "answer": run.entities.decode(answer.ravel()),
        "score": score.ravel(),
        "probability": probability.ravel(),
    }
    return pa.Table.from_pydict(repeated | flat, schema=PREDICTIONS)


def _names(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        if name == "relation":
            raise DataError(f"queries: no column 'relation'; found {', '.join(table.column_names)}")
        return pa.chunked_array([pa.nulls(len(table), pa.large_string())])
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    allowed = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_null)
    if not any(is_allowed(column.type) for is_allowed in allowed):
        raise DataError(f"queries: column {name!r} is {column.type}; expected strings or integers")
    return column.cast(pa.large_string())


def _snapshots(run: TrainedRun, table: pa.Table) -> np.ndarray:
    snapshots = np.full(len(table), run.graph.end, dtype=np.int64)
    if "timestamp" not in table.column_names:
        return snapshots
    parsed: dict[object, int] = {None: run.graph.end}
    for row, value in enumerate(table["timestamp"].to_pylist()):
        if value not in parsed:
            try:
                parsed[value] = run.axis.parse(value)
            except GamKGError as error:
                raise DataError(f"queries: row {row}: timestamp {value!r}: {error}") from None
        snapshots[row] = parsed[value]
    if (snapshots < 0).any():
        row, first = (snapshots < 0).argmax(), run.axis.label(0)
        raise DataError(f"queries: row {row}: timestamp is before the first fact ({first}), so nothing is known of it")
    return snapshots
