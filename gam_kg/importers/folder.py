"""The field's folder format: train.txt, valid.txt, test.txt with ids, entity2id.txt and relation2id.txt with names."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from gam_kg.data_config import DataConfig
from gam_kg.errors import DataError
from gam_kg.importers.csv_table import setting
from gam_kg.importers.fact_file import ImportSummary, facts_schema, writing_facts
from gam_kg.importers.folder_times import read_times
from gam_kg.importers.id_names import read_id_names
from gam_kg.importers.source import Source
from gam_kg.importers.text_file import Opening, numbered_lines, parse_lines
from gam_kg.ingest.names import strip_names
from gam_kg.schemas import SPLITS

ROWS_PER_GROUP = 1 << 18
FACT = ("subject", "relation", "object", "timestamp")
COLUMNS = f"{', '.join(FACT)}, and any further columns, which are ignored; separated by tabs or blanks"
CLOCK = re.compile(r"\d{2}:\d{2}")


class Texts(dict[str, int]):
    """Text → its number in the order of first appearance, of one or two columns of the files of facts.

    Args:
        paths: The files.
        opening: How they are opened.
        columns: Positions of the columns in a line.
    """

    def __init__(self, paths: Sequence[Path], opening: Opening, columns: tuple[int, ...]) -> None:
        super().__init__()
        self._paths, self._opening, self._columns = paths, opening, columns

    def __missing__(self, text: str) -> int:
        code = self[text] = len(self)
        return code

    def stripped(self) -> pa.Array:
        """The texts in their order, without white space and control characters around them.

        Raises:
            DataError: Nothing is left of a text.
        """
        texts = strip_names(pa.array([*self], pa.large_string()))
        empty = texts.index("").as_py()
        if empty >= 0:
            raise DataError(
                f"{self.place(empty)}: {[*self][empty]!r} has nothing but white space and control characters"
            )
        return texts

    def place(self, position: int) -> str:
        """File and line where a text is first; it is searched for, since only a message needs it."""
        text = [*self][position]
        for path in self._paths:
            for line, found in numbered_lines(path, self._opening):
                cells = _cells(found)
                if text in (cells[column] for column in self._columns):
                    return f"{path}, line {line}"
        raise DataError(f"{self._paths[0].parent} changed while it was read; import it again")


def import_folder(source: Source, out: Path, data: DataConfig, prefix: str, recorded: dict[str, str]) -> ImportSummary:
    """Import train.txt, valid.txt and test.txt in their order.

    A file has at least four columns, separated by tabs or, in lines without a tab, by spaces: subject, relation,
    object, timestamp. Ids get their names from entity2id.txt and relation2id.txt (name and id, in either order, with
    or without a first line that has the count); where such a file is absent, the texts are the names. Whether texts
    are ids or names is decided once for all files. Timestamps with a time zone become UTC; where `data.time_format`
    is set, timestamps stay text. Rows that repeat a fact of the same split are dropped and counted.

    Args:
        source: The folder, which has train.txt; the other files are optional.
        out: Parquet file to write: subject, relation, object, timestamp (int64, date32, timestamp[us] or text), and
            split unless there is only train.txt.
        data: `csv.encoding` and `time_format` apply.
        prefix: What stands before the settings of `data`, for messages.
        recorded: Key → text about the source, for the file's metadata.

    Raises:
        ConfigError: There is no such encoding.
        DataError: A line is malformed, ids and names are mixed or both fit, or timestamps are of two kinds.
        OutputError: `out` cannot be written.
    """
    opening = data.csv.encoding, setting(prefix, "csv.encoding")
    paths = {split: path for split in SPLITS for path in source.files if path.name == f"{split}.txt"}
    entities, relations, times = (Texts([*paths.values()], opening, columns) for columns in ((0, 2), (1,), (3,)))
    columns = dict(zip(FACT, (entities, relations, entities, times), strict=True))
    facts = _read_facts([*paths.values()], [*columns.values()], opening)
    if facts.empty:
        raise DataError(f"{source.name}: no facts in {', '.join(path.name for path in paths.values())}")
    num_stripped, renamed, values = 0, (), {}
    for kind, texts, names in (("entity", entities, ("subject", "object")), ("relation", relations, ("relation",))):
        stripped = texts.stripped()
        changed = np.array([text != name for text, name in zip(texts, stripped.to_pylist(), strict=True)])
        num_stripped += sum(int(changed[facts[name]].sum()) for name in names)
        id_names = read_id_names(Path(source.name, f"{kind}2id.txt"), kind, opening)
        meant, added = id_names.read(stripped.to_pylist(), texts.place)
        values |= dict.fromkeys(names, pa.array(meant, pa.large_string()).dictionary_encode())
        renamed += added
    values["timestamp"] = read_times(times.stripped(), times.place, data, prefix).dictionary_encode()
    for name, found in values.items():
        facts[name] = found.indices.to_numpy()[facts[name]]
    distinct = facts.drop_duplicates()
    values["split"] = pa.array([*paths], pa.string()).dictionary_encode()
    more = ("timestamp", "split") if len(paths) > 1 else ("timestamp",)
    schema = facts_schema(recorded, {name: values[name].type.value_type for name in more})
    with writing_facts(out, schema) as writer:
        for start in range(0, len(distinct), ROWS_PER_GROUP):
            rows = distinct.iloc[start : start + ROWS_PER_GROUP]
            cells = [values[name].dictionary.take(pa.array(rows[name])) for name in schema.names]
            writer.write_table(pa.table(cells, schema=schema))
    return ImportSummary(
        source=source.name,
        out=out,
        num_facts=len(distinct),
        splits={split: int((distinct["split"] == code).sum()) for code, split in enumerate(paths) if len(paths) > 1},
        num_entities=len(values["subject"].dictionary),
        num_relations=len(values["relation"].dictionary),
        num_duplicates=len(facts) - len(distinct),
        num_stripped=num_stripped,
        num_in_two_splits=len(distinct[distinct.duplicated([*FACT])].drop_duplicates([*FACT])),
        renamed=renamed,
        notes=_not_read(source, out),
    )


def _not_read(source: Source, out: Path) -> tuple[str, ...]:
    """The other files in the folder, as a note."""
    files = sorted(path.name for path in Path(source.name).iterdir() if path not in source.files and path != out)
    more = f" and {len(files) - 10:,} more" if len(files) > 10 else ""
    return (f"not read: {', '.join(files[:10])}{more}",) if files else ()


def _read_facts(paths: list[Path], columns: list[Texts], opening: Opening) -> pd.DataFrame:
    """The numbers of each line's texts, and the position of its file as `split`."""

    def parse(text: str) -> tuple[int, ...]:
        return tuple(texts[cell] for texts, cell in zip(columns, _four_cells(text), strict=True))

    parts = [np.fromiter(parse_lines(path, parse, opening), np.dtype((np.int32, len(FACT)))) for path in paths]
    split = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return pd.DataFrame(np.concatenate(parts), columns=[*FACT]).assign(split=split)


def _cells(text: str) -> list[str]:
    if "\t" in text:
        return text.split("\t")
    cells = text.split()
    if len(cells) > 4 and CLOCK.match(cells[4]):
        cells[3] += " " + cells[4]
    return cells


def _four_cells(text: str) -> list[str]:
    cells = _cells(text)
    if len(cells) < len(FACT):
        raise DataError(f"found {len(cells)} column(s) in {text!r}; allowed: {COLUMNS}")
    empty = [name for name, cell in zip(FACT, cells, strict=False) if not cell.strip()]
    if empty:
        raise DataError(f"the {empty[0]} is empty in {text!r}; allowed: {COLUMNS}")
    return cells[: len(FACT)]
