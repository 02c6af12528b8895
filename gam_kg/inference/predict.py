"""The table of predictions: queries with their answers, by name."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from gam_kg.inference.answers import Answers
from gam_kg.inference.queries import QueryRows
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import EXPLAINED, PREDICTIONS, STATUSES, STRATA


def prediction_tables(
    run: TrainedRun,
    rows: QueryRows,
    answers: Answers,
    first: int = 0,
    most_rows: int = 100_000,
    explanations: pa.Array | None = None,
) -> Iterator[pa.Table]:
    """`prediction_table` in pieces, so that the names of all answers are never in memory together.

    Args:
        run: The run that answered.
        rows: The queries.
        answers: Answers to those that could be answered, in their order.
        first: Number of the first query.
        most_rows: Rows of a piece, at most, where a query has not more; one piece at least is made.
        explanations: See `prediction_table`.
    """
    num_answers = answers.entity.shape[1]
    at_once = max(1, most_rows // num_answers)
    place = np.concatenate([[0], np.cumsum(rows.answered)])
    for start in range(0, max(1, len(rows)), at_once):
        stop = min(start + at_once, len(rows))
        begin, end = int(place[start]), int(place[stop])
        piece = None if explanations is None else explanations[begin * num_answers : end * num_answers]
        yield prediction_table(run, rows.slice(start, stop), answers.slice(begin, end), first + start, piece)


def prediction_table(
    run: TrainedRun, rows: QueryRows, answers: Answers, first: int = 0, explanations: pa.Array | None = None
) -> pa.Table:
    """Queries and answers as `schemas.PREDICTIONS`, followed by the extra columns of the queries.

    Args:
        run: The run that answered.
        rows: The queries.
        answers: Answers to those that could be answered, in their order.
        first: Number of the first query.
        explanations: Of each answer, see `explanation_column`; None: the table gets no such column.

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
        "novelty": pa.array(STRATA).take(pa.array(answers.novelty.ravel())),
    }
    of_query = {**rows.columns, "status": pa.array(STATUSES).take(pa.array(rows.status)), "reason": rows.reason}
    repeated = {"query_id": query + first} | {name: column.take(pa.array(query)) for name, column in of_query.items()}
    answered = pa.table(flat).take(pa.array(place, mask=~is_answer))
    table = pa.Table.from_pydict(repeated | dict(zip(flat, answered.columns, strict=True)), schema=PREDICTIONS)
    table = _as_given(run, table).replace_schema_metadata(run.provenance(run.graph.end - 1))
    if explanations is not None:
        table = table.append_column(EXPLAINED, explanations.take(pa.array(place, mask=~is_answer)))
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
