"""The field's folder format: train.txt, valid.txt, test.txt with ids, entity2id.txt and relation2id.txt with names."""

import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from gam_kg.errors import DataError
from gam_kg.importers.fact_file import ImportSummary, facts_schema, writing_facts
from gam_kg.importers.id_names import read_id_names
from gam_kg.importers.text_file import INTEGER, numbered_lines, parse_lines
from gam_kg.schemas import SPLITS

ROWS_PER_GROUP = 1 << 18
FACT = ("subject", "relation", "object", "timestamp")
COLUMNS = f"{', '.join(FACT)}, and any further columns, which are ignored"
TIMESTAMPS = "an integer, an ISO date (2014-01-31) or an ISO date and time (2014-01-31T12:00:00)"
FILES = "a folder to import has train.txt and optionally valid.txt, test.txt, entity2id.txt and relation2id.txt"
CLOCK = re.compile(r"\d{2}:\d{2}")


class Codes(dict[str, int]):
    """Text → code of the value it means. Each text is parsed once; texts that mean the same value share a code.

    Args:
        parse: The value that a text means; raises DataError where the text is not allowed.
    """

    def __init__(self, parse: Callable[[str], object]) -> None:
        super().__init__()
        self.distinct: dict[object, int] = {}
        self._parse = parse

    def __missing__(self, text: str) -> int:
        code = self[text] = self.distinct.setdefault(self._parse(text), len(self.distinct))
        return code


def import_folder(folder: Path, out: Path) -> ImportSummary:
    """Import train.txt, valid.txt and test.txt in their order.

    A file has at least four columns, separated by tabs or, in lines without a tab, by spaces: subject, relation,
    object, timestamp. Ids get their names from entity2id.txt and relation2id.txt (name and id, in either order, with
    or without a first line that has the count); where such a file is absent, the ids are the names. Timestamps with
    a time zone become UTC. Rows that repeat a fact of the same split are dropped and counted.

    Args:
        folder: Folder that has train.txt; the other files are optional.
        out: Parquet file to write: subject, relation, object, timestamp (int64, date32 or timestamp[us]), and split
            unless there is only train.txt.

    Raises:
        DataError: A file is missing or a line is malformed.
    """
    if not (folder / "train.txt").is_file():
        raise DataError(f"{folder}: no train.txt here; {FILES}")
    paths = {split: path for split in SPLITS if (path := folder / f"{split}.txt").is_file()}
    names = [read_id_names(folder / f"{kind}2id.txt", kind) for kind in ("entity", "relation")]
    entities, relations = (Codes(found.name) for found in names)
    timestamps = Codes(_timestamp_parser(folder, list(paths.values())))
    codes = (entities, relations, entities, timestamps)
    facts = _read_facts(list(paths.values()), codes)
    distinct = facts.drop_duplicates()
    table = _encoded_table(distinct, codes, list(paths))
    if len(paths) == 1:
        table = table.drop_columns("split")
    types = {column.name: column.type.value_type for column in table.schema}
    schema = facts_schema({"source": "folder", "import_from": str(folder)}, types)
    with writing_facts(out, schema) as writer:
        for start in range(0, len(table), ROWS_PER_GROUP):
            writer.write_table(table.slice(start, ROWS_PER_GROUP).cast(schema))
    return ImportSummary(
        source=str(folder),
        out=out,
        num_facts=len(distinct),
        splits={split: int((distinct["split"] == code).sum()) for code, split in enumerate(paths) if len(paths) > 1},
        num_entities=len(entities.distinct),
        num_relations=len(relations.distinct),
        num_duplicates=len(facts) - len(distinct),
        num_in_two_splits=len(distinct[distinct.duplicated([*FACT])].drop_duplicates([*FACT])),
        renamed=names[0].renamed + names[1].renamed,
    )


def _read_facts(paths: list[Path], codes: tuple[Codes, ...]) -> pd.DataFrame:
    """The codes of each line's fact, and the position of its file as `split`."""

    def parse(text: str) -> tuple[int, ...]:
        return tuple(column[cell] for column, cell in zip(codes, _four_cells(text), strict=True))

    parts = [np.fromiter(parse_lines(path, parse), np.dtype((np.int32, len(FACT)))) for path in paths]
    split = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return pd.DataFrame(np.concatenate(parts), columns=[*FACT]).assign(split=split)


def _encoded_table(facts: pd.DataFrame, codes: tuple[Codes, ...], splits: list[str]) -> pa.Table:
    """Facts with dictionaries as columns: text would take more memory, and is made a row group at a time."""
    timestamps = codes[-1]
    integers = any(isinstance(value, int) for value in timestamps.distinct)
    dates = pa.timestamp("us") if any(len(text) > len("2014-01-31") for text in timestamps) else pa.date32()
    types = [*[pa.large_string()] * 3, pa.int64() if integers else dates, pa.string()]
    values = [*(column.distinct for column in codes), splits]
    columns = [
        pa.DictionaryArray.from_arrays(facts[name].to_numpy(), pa.array(list(distinct), data_type))
        for name, distinct, data_type in zip(facts, values, types, strict=True)
    ]
    return pa.table(columns, names=list(facts))


def _cells(text: str) -> list[str]:
    if "\t" in text:
        return [cell.strip() for cell in text.split("\t")]
    cells = text.split()
    if len(cells) > 4 and CLOCK.match(cells[4]):
        cells[3] += " " + cells[4]
    return cells


def _four_cells(text: str) -> list[str]:
    cells = _cells(text)
    if len(cells) < len(FACT):
        raise DataError(f"found {len(cells)} column(s) in {text!r}; allowed: {COLUMNS}")
    if "" in cells[: len(FACT)]:
        raise DataError(f"the {FACT[cells.index('')]} is empty in {text!r}; allowed: {COLUMNS}")
    return cells[: len(FACT)]


def _timestamp_parser(folder: Path, paths: list[Path]) -> Callable[[str], int | dt.datetime]:
    """Parser of timestamps of the first one's kind: integers, or dates with or without a time."""
    lines = ((path, line, _cells(text)) for path in paths for line, text in numbered_lines(path))
    found = next(lines, None)
    if found is None:
        raise DataError(f"{folder}: no facts in {', '.join(path.name for path in paths)}")
    path, line, cells = found
    first = "".join(cells[3:4])
    integers = INTEGER.fullmatch(first) is not None

    def parse(text: str) -> int | dt.datetime:
        if (INTEGER.fullmatch(text) is not None) != integers:
            raise DataError(
                f"timestamp {text!r}, but {path}, line {line} has {first!r}; allowed: integers throughout or dates "
                "throughout"
            )
        return _integer(text) if integers else _utc(text)

    return parse


def _integer(text: str) -> int:
    if not -(2**63) <= int(text) < 2**63:
        raise DataError(f"timestamp {text!r} is outside 64-bit integers")
    return int(text)


def _utc(text: str) -> dt.datetime:
    try:
        value = dt.datetime.fromisoformat(text)
        return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
    except (ValueError, OverflowError):
        raise DataError(f"timestamp {text!r}; allowed: {TIMESTAMPS}") from None
