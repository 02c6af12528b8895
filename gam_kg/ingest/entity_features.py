"""Features of entities that a user gives, checked and made into words: numbers, categories and text."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.errors import DataError
from gam_kg.ingest.feature_words import Strings, number_words
from gam_kg.ingest.names import clean_names, strip_cells
from gam_kg.ingest.parquet_rows import as_text, text_type
from gam_kg.ingest.text_columns import is_text, valid_utf8
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.schemas import ENTITY_FEATURES
from gam_kg.text import quoted

ENTITY = "entity"
_ALLOWED = "numbers, true or false, strings, or lists of strings"
_ROW_NUMBERS = re.compile(r"__index_level_\d+__")  # what pandas writes of an index without a name
_SHOWN = 5

logger = logging.getLogger("gam_kg")


@dataclass(frozen=True)
class EntityFeatures:
    """A checked table of features.

    Attributes:
        key: The configuration key that names the files, for messages.
        names: Name of each row's entity, stripped and folded; each is there once.
        numbers: Column → its numbers, float64 (num_rows,), NaN where missing.
        strings: Column → its strings.
    """

    key: str
    names: pa.Array
    numbers: dict[str, np.ndarray]
    strings: dict[str, Strings]

    @classmethod
    def of(cls, key: str, tables: Mapping[str, pa.Table], folds: Collection[str]) -> "EntityFeatures":
        """Check tables of features.

        Args:
            key: The configuration key that names the files.
            tables: File → its rows; all have the same columns, which `check_columns` passed.
            folds: `data.normalize_names`.

        Raises:
            DataError: A column is of a type that is no feature; a number is infinite, text is no UTF-8; a row names no
                entity, or one that another row names.
        """
        ends = [*accumulate(map(len, tables.values()))]
        rows = _Rows([*tables], np.array(ends))
        table = pa.concat_tables([*tables.values()])
        if not len(table):
            raise DataError(f"{key}: {len(tables)} file(s) without a single row")
        found = cls(key, _entities(table[ENTITY], rows, folds), {}, {})
        for column in table.column_names:
            if column != ENTITY and not _ROW_NUMBERS.fullmatch(column):
                found._add(column, _plain(table[column]), rows)
        return found

    def encode(self, entities: Vocabulary, trained: np.ndarray) -> tuple[pa.Table, dict[str, Any]]:
        """The features of the entities that facts name.

        Args:
            entities: The names of entities by id.
            trained: Whether each has facts in train, bool (num_entities,).

        Returns:
            ENTITY_FEATURES by entity and feature, and counts: rows used, rows of entities that no fact names, and what
            each column is used as.

        Raises:
            DataError: No row is of an entity that facts name.
        """
        ids = entities.find(self.names)
        known, num_named = np.append(trained, False)[ids], int((ids >= 0).sum())
        if not num_named:
            name = self.names[0].as_py()
            raise DataError(
                f"{self.key}: facts name none of its {len(ids)} entities, as {quoted(name)}{entities.hint(name)}; the "
                f"column {ENTITY!r} must have the names that facts have"
            )
        columns: dict[str, Any] = {}
        parts = [ENTITY_FEATURES.empty_table()]
        for column, numbers in self.numbers.items():
            words, columns[column] = number_words(column, numbers, known)
            parts.append(words)
        for column, strings in self.strings.items():
            words = strings.words(column, known)
            columns[column] = strings.kind(known) if len(words) else None
            parts.append(words)
        by_row = pa.concat_tables(parts)
        entity = pa.array(ids[by_row["entity_id"].to_numpy()])
        found = by_row.set_column(0, ENTITY_FEATURES.field("entity_id"), entity).filter(pc.field("entity_id") >= 0)
        content = {"rows": num_named, "unknown": len(ids) - num_named, "columns": columns}
        _log(self.key, content)
        return found.sort_by([("entity_id", "ascending"), ("feature", "ascending")]), content

    def _add(self, column: str, values: pa.Array, rows: "_Rows") -> None:
        kind, place = values.type, f"column {column!r}"
        if _is_number(kind):
            self.numbers[column] = _numbers(values, place, rows)
        elif is_text(kind) or pa.types.is_null(kind):
            self.strings[column] = _strings(np.arange(len(values)), values, place, rows, in_lists=False)
        elif _is_list(kind) and is_text(text_type(kind.value_type)):
            lengths = pc.list_value_length(values).fill_null(0).to_numpy()  # nulls may have values below them
            row, texts = np.repeat(np.arange(len(values)), lengths), as_text(pc.list_flatten(values))
            self.strings[column] = _strings(row, texts, place, rows, in_lists=True)
        else:
            hint = "; give a number, as the year or the age" if pa.types.is_temporal(kind) else ""
            hint = "; give each number a column of its own" if _is_list(kind) else hint
            raise DataError(f"{rows.names[0]}: {place} has type {kind}, allowed: {_ALLOWED}{hint}; or drop it")


def check_columns(names: Sequence[str], file: str) -> None:
    """Refuse a file whose columns are not those of features.

    Args:
        names: Its columns.
        file: For messages.

    Raises:
        DataError: A column is missing, or stands twice.
    """
    if ENTITY not in names:
        columns = ", ".join(map(repr, names))
        raise DataError(f"{file}: no column {ENTITY!r}, which names the entity of a row; it has {columns}")
    if twice := [column for column, number in Counter(names).items() if number > 1]:
        raise DataError(f"{file}: column {twice[0]!r} stands twice; rename one of them")
    if len(names) == 1:
        raise DataError(f"{file}: no column of features beside {ENTITY!r}")


@dataclass(frozen=True)
class _Rows:
    """Where the rows of several files are, for messages: the names of the files, and the end of each among all rows."""

    names: list[str]
    ends: np.ndarray

    def where(self, rows: np.ndarray) -> str:
        """Some rows in words, as "row 0 of a.parquet, row 3 of b.parquet and 2 more"."""
        files = np.searchsorted(self.ends, rows[:_SHOWN], side="right")
        first = np.append(0, self.ends)[files]
        some = zip((rows[:_SHOWN] - first).tolist(), files.tolist(), strict=True)
        text = ", ".join(f"row {row} of {self.names[file]}" for row, file in some)
        return text + (f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")


def _entities(values: pa.ChunkedArray, rows: _Rows, folds: Collection[str]) -> pa.Array:
    """The names of the rows' entities, as the graph has them."""
    plain = _plain(values)
    if not (is_text(plain.type) or pa.types.is_integer(plain.type) or pa.types.is_null(plain.type)):
        raise DataError(f"{rows.names[0]}: column {ENTITY!r} has type {values.type}, allowed: strings, or any integers")
    _require_utf8(plain, f"column {ENTITY!r}", rows)
    names = clean_names(plain.cast(pa.large_string()), folds)
    empty = np.flatnonzero(np.asarray(pc.equal(names.fill_null(""), "")))
    if len(empty):
        raise DataError(f"column {ENTITY!r} names no entity in {rows.where(empty)}; name it, or remove the row")
    code = names.dictionary_encode().indices.to_numpy()
    if (np.bincount(code) > 1).any():
        twice = np.flatnonzero(code == np.flatnonzero(np.bincount(code) > 1)[0])
        raise DataError(
            f"entity {quoted(names[int(twice[0])].as_py())} has several rows, {rows.where(twice)}; give each entity one"
        )
    return names


def _plain(values: pa.ChunkedArray) -> pa.Array:
    """A column in one piece without dictionary; bytes are text."""
    whole = values.combine_chunks()
    return as_text(whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole)


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _numbers(values: pa.Array, place: str, rows: _Rows) -> np.ndarray:
    values = values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values
    numbers = values.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
    if len(infinite := np.flatnonzero(np.isinf(numbers))):
        raise DataError(f"{place} is infinite in {rows.where(infinite)}; give a number, or a null where it is missing")
    return numbers


def _strings(row: np.ndarray, texts: pa.Array, place: str, rows: _Rows, *, in_lists: bool) -> Strings:
    _require_utf8(texts, place, rows, row)
    texts = strip_cells(texts.cast(pa.large_string()))
    return Strings(row[texts.is_valid().to_numpy(zero_copy_only=False)], texts.drop_null(), in_lists)


def _require_utf8(values: pa.Array, place: str, rows: _Rows, row: np.ndarray | None = None) -> None:
    bad = np.flatnonzero(~valid_utf8(values)) if is_text(values.type) else np.zeros(0, np.int64)
    if len(bad):
        raise DataError(f"{place} is no UTF-8 in {rows.where(bad if row is None else row[bad])}; write it anew")


def _log(key: str, content: dict[str, Any]) -> None:
    kinds = {name: "number" if isinstance(kind, dict) else kind for name, kind in content["columns"].items()}
    used = ", ".join(f"{name} ({kind})" for name, kind in kinds.items() if kind)
    logger.info("%s: %s entities with %s", key, f"{content['rows']:,}", used or "nothing that can be used")
    if unused := [name for name, kind in kinds.items() if not kind]:
        logger.warning(
            "%s: not used, as entities with facts in train share no value of it, or have all the same number: %s",
            key,
            unused,
        )
    if content["unknown"]:
        logger.warning("%s: left out %s row(s) of entities that no fact names", key, f"{content['unknown']:,}")
