"""Answers to "(subject, relation, ?) at a time": the best candidates with scores, from the facts before it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gam_kg.data.snapshot import Queries
from gam_kg.errors import DataError, GamKGError
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import PREDICTIONS
from gam_kg.train.evaluate import Tick, roll
from gam_kg.train.step import query_blocks

_MAX_SCORES = 32_000_000


@dataclass(frozen=True)
class Asked:
    """Queries by id, one row each.

    Attributes:
        subject: The known entity, int64 (num_queries,).
        relation: int64 (num_queries,); `>= num_relations` where the subject is asked for and the object known.
        snapshot: When, int64 (num_queries,); facts before it are visible.
    """

    subject: np.ndarray
    relation: np.ndarray
    snapshot: np.ndarray

    def __len__(self) -> int:
        return len(self.subject)


@dataclass(frozen=True)
class Answers:
    """The best candidates of each query, best first.

    Attributes:
        answer: Entity ids, int64 (num_queries, top_k).
        score: float32 (num_queries, top_k).
        probability: Softmax over all candidates, float32 (num_queries, top_k).
    """

    answer: np.ndarray
    score: np.ndarray
    probability: np.ndarray


def encode_queries(run: TrainedRun, table: pa.Table) -> Asked:
    """Read a table of queries.

    Args:
        run: The run to ask.
        table: `relation`, and `subject` or `object` (one of them null or absent), optionally
            `timestamp`; a null timestamp asks for what comes after the last fact.

    Raises:
        DataError: A column is missing or of a wrong type, both or neither of subject and object are given, or a name
            or timestamp is unknown.
    """
    names = {name: _names(table, name) for name in ("subject", "relation", "object")}
    if names["relation"].null_count:
        raise DataError(f"queries: row {_first(pc.is_null(names['relation']))}: 'relation' is null; give a relation")
    has_subject, has_object = (np.asarray(pc.is_valid(names[name])) for name in ("subject", "object"))
    if (has_subject == has_object).any():
        row = int(np.flatnonzero(has_subject == has_object)[0])
        found = "both are given" if has_subject[row] else "neither is given"
        raise DataError(f"queries: row {row}: give either subject or object, the other is asked for; {found}")
    known = run.entities.encode(pc.coalesce(names["subject"], names["object"]))
    relation = run.relations.encode(names["relation"])
    relation = np.where(has_subject, relation, relation + len(run.relations))
    return Asked(known, relation, _snapshots(run, table))


def answer_queries(run: TrainedRun, asked: Asked, top_k: int, tick: Tick = lambda: None) -> Answers:
    """Score all candidates of each query and keep the best.

    Args:
        run: The run to ask.
        asked: The queries; any number of times, each seeing only the facts before its own.
        top_k: Answers a query; fewer where there are fewer entities.
        tick: Called after each snapshot rolled or asked.
    """
    top_k = min(top_k, len(run.entities))
    shape = (len(asked), top_k)
    answers = Answers(np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    if not len(asked):
        return answers
    times = np.unique(asked.snapshot).tolist()
    scorer = run.scorer_before(times[0], tick)
    moments = run.moments(times[0], times[-1])
    following = next(moments, None)
    for time in times:
        while following is not None and following.time < time:
            roll([scorer], run.history, [following], tick)
            following = next(moments, None)
        rows = np.flatnonzero(asked.snapshot == time)
        columns = [torch.from_numpy(column[rows]).to(run.graph.device) for column in (asked.subject, asked.relation)]
        nothing = torch.zeros(0, dtype=torch.int64, device=run.graph.device)
        first = 0
        for block in query_blocks(Queries(time, *columns, nothing, nothing), len(run.entities), _MAX_SCORES):
            scores = scorer.table(block)
            best = torch.topk(scores, top_k, dim=1)
            probability = (best.values - torch.logsumexp(scores, 1, keepdim=True)).exp()
            part = rows[first : first + len(block)]
            answers.answer[part] = best.indices.cpu().numpy()
            answers.score[part] = best.values.cpu().numpy()
            answers.probability[part] = probability.cpu().numpy()
            first += len(block)
        tick()
    return answers


def prediction_table(run: TrainedRun, asked: Asked, answers: Answers) -> pa.Table:
    """Queries and answers by name, one row an answer (`schemas.PREDICTIONS`)."""
    top_k = answers.answer.shape[1]
    query = np.repeat(np.arange(len(asked)), top_k)
    inverse = asked.relation >= len(run.relations)
    known = pa.array(run.entities.decode(asked.subject))
    nothing = pa.nulls(len(asked), pa.large_string())
    columns = {
        "query_id": pa.array(np.arange(len(asked))),
        "subject": pc.if_else(pa.array(inverse), nothing, known),
        "relation": run.relations.decode(asked.relation % len(run.relations)),
        "object": pc.if_else(pa.array(inverse), known, nothing),
        "timestamp": run.labels(asked.snapshot),
    }
    repeated = {name: column.take(pa.array(query)) for name, column in columns.items()}
    flat = answers.answer.ravel()
    repeated["position"] = pa.array(np.tile(np.arange(1, top_k + 1, dtype=np.int32), len(asked)))
    repeated["answer_id"] = pa.array(flat)
    repeated["answer"] = run.entities.decode(flat)
    repeated["score"] = pa.array(answers.score.ravel())
    repeated["probability"] = pa.array(answers.probability.ravel())
    return pa.Table.from_pydict(repeated, schema=PREDICTIONS)


def _names(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        if name == "relation":
            raise DataError(f"queries: no column 'relation'; found {', '.join(table.column_names)}")
        return pa.chunked_array([pa.nulls(len(table), pa.large_string())])
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (
        pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_integer(column.type)
    ):
        if pa.types.is_null(column.type):
            return column.cast(pa.large_string())
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
        row = _first(pa.array(snapshots < 0))
        first = run.axis.label(0)
        raise DataError(f"queries: row {row}: timestamp is before the first fact ({first}), so nothing is known of it")
    return snapshots


def _first(mask: pa.Array) -> int:
    return int(pc.index(mask, True).as_py())
