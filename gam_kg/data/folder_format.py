"""The field's folder format: train.txt, valid.txt, test.txt with ids, entity2id.txt and relation2id.txt with names."""

import datetime as dt
import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from gam_kg.data.fact_file import ImportSummary, facts_schema, writing_facts
from gam_kg.data.id_names import read_id_names
from gam_kg.data.text_file import INTEGER, numbered_lines
from gam_kg.errors import DataError
from gam_kg.schemas import SPLITS

ROWS_PER_GROUP = 1 << 18
COLUMNS = "subject, relation, object, timestamp, and any further columns, which are ignored"
TIMESTAMPS = "an integer, an ISO date (2014-01-31) or an ISO date and time (2014-01-31T12:00:00)"
CLOCK = re.compile(r"\d{2}:\d{2}")
INT64 = np.iinfo(np.int64)

Parse = Callable[[str, Path, int], object]


class Tokens:
    """Distinct texts of one column, each checked where it first stands, then only counted off by position."""

    def __init__(self, parse: Parse) -> None:
        self.values: list[object] = []
        self._parse = parse
        self._positions: dict[str, int] = {}
        self._of_value: dict[object, int] = {}

    def position(self, text: str, path: Path, line: int) -> int:
        """Position of the text's value in `values`.

        Raises:
            DataError: The text is not allowed here.
        """
        found = self._positions.get(text)
        if found is None:
            value = self._parse(text, path, line)
            found = self._of_value.setdefault(value, len(self.values))
            if found == len(self.values):
                self.values.append(value)
            self._positions[text] = found
        return found


def import_folder(folder: Path, out: Path) -> ImportSummary:
    """Import train.txt, valid.txt and test.txt, keeping their order.

    A file has at least four columns, separated by tabs or, in lines without a tab, by spaces: subject, relation,
    object, timestamp. Ids get their names from entity2id.txt and relation2id.txt (name and id, in either order, with
    or without a first line that holds the count); where such a file is absent, the ids are the names. Timestamps with
    a time zone become UTC. Rows that repeat a fact of the same split are dropped and counted.

    Args:
        folder: Folder that holds train.txt; the other files are optional.
        out: Parquet file to write: subject, relation, object, timestamp (int64, date32 or timestamp[us]), and split
            unless train.txt stands alone.

    Raises:
        DataError: A file is missing or a line is malformed.
    """
    if not (folder / "train.txt").is_file():
        raise DataError(f"{folder}: no train.txt here; {_allowed_files()}")
    entities = read_id_names(folder / "entity2id.txt", "entity")
    relations = read_id_names(folder / "relation2id.txt", "relation")
    timestamps = _Timestamps()
    columns = (Tokens(entities.name), Tokens(relations.name), Tokens(timestamps.parse))
    paths = {split: path for split in SPLITS if (path := folder / f"{split}.txt").is_file()}
    parts = [_read_split(path, columns) for path in paths.values()]
    facts = np.concatenate([np.asarray(part, dtype=np.int32).reshape(-1, 4) for part in parts])
    if not len(facts):
        raise DataError(f"{folder}: no facts in {', '.join(path.name for path in paths.values())}")
    splits = np.repeat(np.arange(len(parts)), [len(part) // 4 for part in parts])
    facts, splits, duplicates, in_two = _drop_repeated(facts, splits)
    tables = _tables(facts, splits, columns, timestamps.type(), list(paths))
    schema = facts_schema(
        timestamps.type(), {"source": "folder", "import_from": str(folder)}, end=None, split=len(paths) > 1
    )
    with writing_facts(out, schema) as writer:
        for table in tables:
            writer.write_table(table.select(schema.names).cast(schema))
    return ImportSummary(
        source=str(folder),
        format="folder",
        out=out,
        num_facts=len(facts),
        splits={split: int((splits == code).sum()) for code, split in enumerate(paths)} if len(paths) > 1 else {},
        num_entities=len(columns[0].values),
        num_relations=len(columns[1].values),
        num_duplicates=duplicates,
        num_in_two_splits=in_two,
        renamed=entities.renamed + relations.renamed,
    )


def _allowed_files() -> str:
    return "a folder to import holds train.txt and optionally valid.txt, test.txt, entity2id.txt and relation2id.txt"


def _read_split(path: Path, columns: tuple[Tokens, Tokens, Tokens]) -> array:
    """Positions of subject, relation, object and timestamp, one fact after the other."""
    entities, relations, timestamps = columns
    found = array("i")
    for line, text in numbered_lines(path):
        subject, relation, object_, timestamp = _four_columns(text, path, line)
        found.append(entities.position(subject, path, line))
        found.append(relations.position(relation, path, line))
        found.append(entities.position(object_, path, line))
        found.append(timestamps.position(timestamp, path, line))
    return found


def _four_columns(text: str, path: Path, line: int) -> list[str]:
    if "\t" in text:
        cells = [cell.strip() for cell in text.split("\t")]
    else:
        cells = text.split()
        if len(cells) > 4 and CLOCK.match(cells[4]):
            cells[3] += " " + cells[4]
    if len(cells) < 4:
        raise DataError(f"{path}, line {line}: found {len(cells)} column(s) in {text!r}; allowed: {COLUMNS}")
    if "" in cells[:4]:
        name = COLUMNS.split(", ")[cells.index("")]
        raise DataError(f"{path}, line {line}: the {name} is empty in {text!r}; allowed: {COLUMNS}")
    return cells[:4]


class _Timestamps:
    """Reads timestamps and holds them to one kind: integers, or dates with or without a time."""

    def __init__(self) -> None:
        self._first: tuple[str, Path, int] | None = None
        self._integers = False
        self._clock = False

    def parse(self, text: str, path: Path, line: int) -> int | dt.datetime:
        integers = INTEGER.fullmatch(text) is not None
        value = int(text) if integers else _moment(text, path, line)
        if isinstance(value, int) and not INT64.min <= value <= INT64.max:
            raise DataError(f"{path}, line {line}: timestamp {text!r} is outside 64-bit integers")
        if self._first is None:
            self._first, self._integers = (text, path, line), integers
        elif integers != self._integers:
            first, at, number = self._first
            raise DataError(
                f"{path}, line {line}: timestamp {text!r}, but {at}, line {number} has {first!r}; "
                "allowed: integers throughout or dates throughout"
            )
        self._clock |= len(text) > 10
        return value

    def type(self) -> pa.DataType:
        if self._integers:
            return pa.int64()
        return pa.timestamp("us") if self._clock else pa.date32()


def _moment(text: str, path: Path, line: int) -> dt.datetime:
    try:
        value = dt.datetime.fromisoformat(text)
    except ValueError:
        raise DataError(f"{path}, line {line}: timestamp {text!r}; allowed: {TIMESTAMPS}") from None
    return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value


def _drop_repeated(facts: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Drop facts that repeat within their split.

    Returns:
        The facts and splits that stay, how many were dropped, and how many facts stand in more than one split.
    """
    frame = pd.DataFrame(facts, columns=["subject", "relation", "object", "timestamp"]).assign(split=splits)
    repeated = frame.duplicated().to_numpy()
    frame = frame[~repeated]
    again = frame[frame.duplicated(["subject", "relation", "object", "timestamp"])]
    in_two = len(again.drop_duplicates(["subject", "relation", "object", "timestamp"]))
    return facts[~repeated], splits[~repeated], int(repeated.sum()), in_two


def _tables(
    facts: np.ndarray, splits: np.ndarray, columns: tuple[Tokens, Tokens, Tokens], timestamp: pa.DataType, names: list
) -> Iterator[pa.Table]:
    entity, relation = (pa.array(tokens.values, pa.large_string()) for tokens in columns[:2])
    moments = columns[2].values
    if pa.types.is_date32(timestamp):
        moments = [moment.date() for moment in moments if isinstance(moment, dt.datetime)]
    moment, split = pa.array(moments, timestamp), pa.array(names, pa.string())
    for start in range(0, len(facts), ROWS_PER_GROUP):
        rows = slice(start, start + ROWS_PER_GROUP)
        subject, predicate, object_, when = (pa.array(column) for column in facts[rows].T)
        yield pa.table(
            {
                "subject": entity.take(subject),
                "relation": relation.take(predicate),
                "object": entity.take(object_),
                "timestamp": moment.take(when),
                "split": split.take(pa.array(splits[rows])),
            }
        )
