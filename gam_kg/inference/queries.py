"""Tables of queries: which column is what, which rows can be answered, and why the others cannot."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import DataError
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ingest.column_names import looks_like, respelt
from gam_kg.ingest.names import strip_cells
from gam_kg.ingest.text_columns import is_text, text_of
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.schemas import EXPLAINED, PREDICTIONS, STATUSES
from gam_kg.text import quoted

QUERY_COLUMNS = ("subject", "relation", "object", "timestamp")

_TEXT = pa.large_string()
# How many unknown names get the closest known ones, which takes about ten seconds; fewer where there are many names.
_MOST_HINTS, _FEWEST_HINTS, _MOST_COMPARED = 400, 10, 10_000_000


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


@dataclass(frozen=True)
class QueryRows:
    """A table of queries: what can be answered of it, and the rest with reasons.

    Attributes:
        columns: subject, relation, object and timestamp, large_string (num_rows,) each: as the graph writes them where
            the row can be answered, else as the table has them.
        status: Index into `schemas.STATUSES`, int64 (num_rows,).
        reason: Why a row cannot be answered, large_string (num_rows,); null where it can.
        encoded: The rows that can be answered, in their order.
        extra: The other columns of the table, as they are.
    """

    columns: dict[str, pa.Array]
    status: np.ndarray
    reason: pa.Array
    encoded: EncodedQueries
    extra: pa.Table

    def __len__(self) -> int:
        return len(self.status)

    def slice(self, start: int, stop: int) -> "QueryRows":
        """The rows in `[start, stop)`."""
        before, through = (int(self.answered[:row].sum()) for row in (start, stop))
        return QueryRows(
            {role: column.slice(start, stop - start) for role, column in self.columns.items()},
            self.status[start:stop],
            self.reason.slice(start, stop - start),
            EncodedQueries(*(column[before:through] for column in vars(self.encoded).values())),
            self.extra.slice(start, stop - start),
        )

    @property
    def answered(self) -> np.ndarray:
        """Whether each row can be answered, bool (num_rows,)."""
        return self.status == 0

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status, without those that no row has."""
        found = Counter(self.status.tolist())
        return {name: found[code] for code, name in enumerate(STATUSES) if found[code]}

    @classmethod
    def of(cls, run: TrainedRun, queries: EncodedQueries) -> "QueryRows":
        """Rows of queries that can all be answered."""
        is_object = pa.array(queries.relation >= len(run.relations))
        known, nothing = run.entities.decode(queries.subject), pa.nulls(len(queries), _TEXT)
        columns = {
            "subject": pc.if_else(is_object, nothing, known),
            "relation": run.relations.decode(queries.relation % len(run.relations)),
            "object": pc.if_else(is_object, known, nothing),
            "timestamp": run.labels(queries.snapshot),
        }
        return cls(columns, np.zeros(len(queries), np.int64), nothing, queries, pa.table({}))


def read_queries(run: TrainedRun, table: pa.Table, columns: ColumnsConfig) -> QueryRows:
    """Read a table of queries; a row that cannot be answered gets a status and a reason.

    Args:
        run: The run that answers.
        table: A relation, and a subject or an object, the other missing (null, empty, or no column); optionally a
            timestamp, where missing means the snapshot after the last fact. Other columns are extra.
        columns: The table's names of these columns; our own names will do where it does not have them.

    Raises:
        DataError: A column is missing, of a wrong type or there twice, or one that is not read looks like one of ours.
    """
    found = find_columns(table.column_names, columns)
    raw = {
        role: table[found[role]].combine_chunks() if role in found else pa.nulls(len(table)) for role in QUERY_COLUMNS
    }
    raw = {role: _decoded(values) for role, values in raw.items()}
    texts = {
        role: text_column(values, f"predict.queries: column {found.get(role)!r}", times=role == "timestamp")
        for role, values in raw.items()
    }
    names = {role: strip_cells(run.spelt(texts[role])) for role in ("subject", "relation", "object")}
    has_subject, has_relation, has_object = (np.asarray(values.is_valid()) for values in names.values())
    known = pc.coalesce(names["subject"], names["object"])
    entity, relation = run.entities.find(known), run.relations.find(names["relation"])
    snapshot, trouble = _snapshots(run, raw["timestamp"], strip_cells(texts["timestamp"]))
    # In the order of schemas.STATUSES; the first that holds is the status.
    checks = (
        ~has_relation | ~(has_subject | has_object),
        has_subject & has_object,
        (entity < 0) | (relation < 0),
        np.asarray(trouble.is_valid()),
        snapshot < 0,
    )
    status = np.select(checks, range(1, len(STATUSES)), default=0)
    unknown = _unknown(run.entities, known, entity), _unknown(run.relations, names["relation"], relation)
    before = f" is before the first fact ({run.axis.label(0)}), when nothing is known"
    reason = pc.choose(
        pa.array(status),
        pa.nulls(len(table), _TEXT),
        pc.if_else(pa.array(has_relation), _text("neither subject nor object is given"), _text("no relation is given")),
        _text("subject and object are both given; leave the one that is to be predicted empty"),
        pc.coalesce(pc.binary_join_element_wise(*unknown, _text("; ")), *unknown),
        trouble,
        pc.binary_join_element_wise(texts["timestamp"], _text(before), _text("")),
    )
    good = status == 0
    relation = np.where(has_subject, relation, relation + len(run.relations))
    encoded = EncodedQueries(entity[good], relation[good], snapshot[good])
    shown = {
        **{role: pc.if_else(pa.array(good), names[role], texts[role]) for role in names},
        "timestamp": pc.if_else(pa.array(good), run.labels(np.maximum(snapshot, 0)), texts["timestamp"]),
    }
    return QueryRows(shown, status, reason, encoded, _extra(table.drop_columns(list(found.values()))))


def find_columns(names: Sequence[str], columns: ColumnsConfig) -> dict[str, str]:
    """Column of each of `QUERY_COLUMNS` that a table of queries has.

    Args:
        names: All columns of the table.
        columns: The names that ours should have; where the table has none of such a name, our own.

    Raises:
        DataError: See `read_queries`.
    """
    configured = {role: getattr(columns, role) for role in QUERY_COLUMNS}
    there = f"; it has {', '.join(map(repr, names))}"
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"predict.queries: column {twice[0]!r} is there twice; rename one of the two{there}")
    found = {}
    for role, name in configured.items():
        default = role in names and role not in configured.values()
        if default and name in names:
            raise DataError(
                f"predict.queries: columns {name!r} and {role!r} are both there, and either may be the {role} "
                f"(data.columns.{role}={name}); remove or rename one{there}"
            )
        if default or name in names:
            found[role] = role if default else name
    for name in set(names) - set(found.values()):
        _refuse_misnamed(name, found, columns, configured)
    for roles in (("relation",), ("subject", "object")):
        if not found.keys() & set(roles):
            named = " or ".join(repr(configured[role]) for role in roles)
            keys = ", ".join(f"data.columns.{role}={configured[role]}" for role in roles)
            raise DataError(f"predict.queries: no column {named} ({keys}){there}")
    return found


def names_beside(given: Sequence[str], ours: Sequence[str]) -> list[str]:
    """The names that columns which are given have in a result: `query_` before those that are among `ours`.

    Raises:
        DataError: A name is there already.
    """
    names = [f"query_{name}" if name in ours else name for name in given]
    for old, new in zip(given, names, strict=True):
        if names.count(new) > 1:
            raise DataError(
                f"predict.queries: column {old!r} would be {f'query_{old}'!r} in the result, which has a column "
                f"{old!r} of its own, and there is one of that name; rename one of them"
            )
    return names


def _extra(table: pa.Table) -> pa.Table:
    """The columns, by the names that they have in the predictions."""
    names = names_beside(table.column_names, (*PREDICTIONS.names, EXPLAINED))
    return pa.table(dict(zip(names, map(_repeatable, table.column_names, table.columns), strict=True)))


def _repeatable(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column, of a type whose values can be written once an answer."""
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    try:
        column.slice(0, 0).take(pa.array([], pa.int64()))
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"predict.queries: column {name!r} is {column.type}, which cannot be repeated beside each answer; remove "
            "it, or store it as strings or numbers"
        ) from None
    return column


def _refuse_misnamed(name: str, found: dict[str, str], columns: ColumnsConfig, configured: dict[str, str]) -> None:
    if name in (columns.end_timestamp, "end_timestamp"):
        raise DataError(
            f"predict.queries: column {name!r}: a query is about one timestamp and has no end; remove or rename it"
        )
    role = looks_like(name, configured)
    if role is not None and (role not in found or respelt(name, {role: found[role]})):
        raise DataError(
            f"predict.queries: column {name!r} looks like the {role}, which is read from {configured[role]!r} "
            f"(data.columns.{role}={configured[role]}); rename it to that, or to something else if it is not the {role}"
        )


def _decoded(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def text_column(values: pa.Array, what: str, *, times: bool = False) -> pa.Array:
    """A column of names or of timestamps as text, large_string.

    Args:
        values: Strings or integers; or a dictionary of them.
        what: Names it in messages.
        times: Whether dates and timestamps are allowed too.

    Raises:
        DataError: It is of a type that cannot be a name or a timestamp.
    """
    values = _decoded(values)
    kind = values.type
    temporal = pa.types.is_date(kind) or pa.types.is_timestamp(kind)
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind) or (times and temporal)):
        allowed = "strings, integers, dates or timestamps" if times else "strings or integers"
        hint = "; floats cannot hold ids or timestamps exactly, cast the column to integers (pandas: astype('Int64'))"
        raise DataError(f"{what} is {kind}; expected {allowed}{hint if pa.types.is_floating(kind) else ''}")
    return text_of(values)


def _text(value: str) -> pa.Scalar:
    return pa.scalar(value, _TEXT)


def _snapshots(run: TrainedRun, raw: pa.Array, texts: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Snapshots, int64 (num_rows,), and why a timestamp cannot be read, large_string (num_rows,), null where it can."""
    column = texts if is_text(raw.type) or pa.types.is_null(raw.type) else raw
    snapshots, readable = run.axis.read(column)
    missing = np.asarray(texts.is_null())
    form = f"ISO 8601 or {run.axis.format}" if run.axis.format else "ISO 8601"
    form = "integers" if run.axis.kind == "integer" else form
    form += "" if run.axis.zone or run.axis.kind == "integer" else " without a time zone"
    trouble = f" cannot be read, or can be read in two ways; timestamps here are {form}, as {run.axis.label(0)}"
    troubles = pc.binary_join_element_wise(texts, _text(trouble), _text(""))
    return np.where(missing, run.graph.end, snapshots), pc.if_else(pa.array(readable | missing), None, troubles)


def _unknown(vocabulary: Vocabulary, names: pa.Array, ids: np.ndarray) -> pa.Array:
    """What to say of unknown names, with the closest ones; large_string (num_rows,), null where known or missing."""
    coded = pc.if_else(pa.array(ids < 0), names, None).dictionary_encode()
    most = min(_MOST_HINTS, max(_FEWEST_HINTS, _MOST_COMPARED // len(vocabulary)))
    texts = [
        f"unknown {vocabulary.kind} {quoted(name)}{vocabulary.hint(name) if number < most else ''}"
        for number, name in enumerate(coded.dictionary.to_pylist())
    ]
    return pa.array(texts, _TEXT).take(coded.indices)
