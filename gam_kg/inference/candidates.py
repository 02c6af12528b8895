"""Candidates: which entities may be answers, by their names, their features, or the relations they have been in."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.errors import DataError
from gam_kg.graph.name_words import read_features
from gam_kg.importers.text_file import open_text, text_lines
from gam_kg.inference.answers import find_name, find_names
from gam_kg.inference.queries import text_column
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ingest.names import strip_cells
from gam_kg.ingest.parquet_rows import damage_of
from gam_kg.ingest.text_columns import text_of
from gam_kg.parquet import open_file
from gam_kg.text import quoted

_ROLES = {"object-of": 0, "subject-of": 1}
_COLUMNS = ("entity", "name", "answer")
_SHOWN = 10


def candidates_of(run: TrainedRun, among: str, before: int) -> np.ndarray:
    """The entities that a user's FILE or TYPE names.

    Args:
        run: The run.
        among: A file of names, see `read_names`; or `COLUMN=CATEGORY` of the entity features; or `object-of:RELATION`
            or `subject-of:RELATION`, the entities that have been so.
        before: The first snapshot whose facts do not count for the latter.

    Returns:
        Ascending ids, int64 (num_candidates,), at least one.

    Raises:
        DataError: There is no such file or type, no entity is of it, or a name in the file is unknown.
    """
    if os.path.isfile(among):  # Path.is_file raises where the text is too long for a name
        return np.unique(find_names(run, run.entities, read_names(Path(among)).to_pylist()))
    role, _, relation = among.partition(":")
    if role in _ROLES:
        number = find_name(run, run.relations, relation) + _ROLES[role] * len(run.relations)
        rows = run.graph.rows()
        found = np.unique(rows.anchor[(rows.relation == number) & (rows.time < before)].numpy())
        if not len(found):
            raise DataError(f"among {among}: no entity has been {role} {relation} before {run.axis.label(before)}")
        return found
    features = read_features(run.path / "graph", run.graph_manifest)
    if features is None or "=" not in among:
        raise DataError(f"among {among}: no such file, and no type of entities; {_known(run, features)}")
    column, _, category = (part.strip() for part in among.partition("="))
    found = features.filter(pc.equal(features["feature"], f"{column} = {category}"))["entity_id"].unique()
    if not len(found):
        raise DataError(f"among {among}: no entity has this feature; {_known(run, features)}")
    return np.sort(found.to_numpy())


def read_names(path: Path) -> pa.Array:
    """The names in a file, large_string: one a line; or of a Parquet, CSV or TSV file the column of names.

    That column is called "entity", "name" or "answer", or is the only one.

    Raises:
        DataError: The file cannot be read, has no such column, or one of another type than names have, or no names.
    """
    if path.suffix == ".parquet":
        with damage_of(f"{path} is not a Parquet file, or is damaged"), open_file(path) as file:
            table = file.read()
        number = _column(path, table.column_names)
        names, what = table.column(number).combine_chunks(), f"{path}: column {table.column_names[number]!r}"
        is_bytes = pa.types.is_binary(names.type) or pa.types.is_large_binary(names.type)  # as some writers store text
        names = text_of(names) if is_bytes else text_column(names, what)
    else:
        with open_text(path, None, "--among") as file:
            lines = text_lines(path, file)
            delimiter = {".csv": ",", ".tsv": "\t"}.get(path.suffix)
            rows = (
                [[line] for line in lines]
                if delimiter is None
                else _cells(path, csv.reader(lines, delimiter=delimiter))
            )
        rows = [row for row in rows if any(cell.strip() for cell in row)]
        # A single column may have its name at the top or not.
        has_header = any(len(row) > 1 for row in rows) or (rows and rows[0][0].strip() in _COLUMNS)
        number = _column(path, rows[0]) if has_header else 0
        rows = rows[1:] if has_header else rows
        names = pa.array([row[number] for row in rows if len(row) > number], pa.large_string())
    names = strip_cells(names).drop_null()
    if not len(names):
        raise DataError(f"{path}: there are no names in it")
    return names


def _cells(path: Path, reader: Any) -> list[list[str]]:
    """The rows of a CSV reader."""
    try:
        return list(reader)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: a cell cannot be read ({error}); a quote before it may not be closed"
        ) from None


def _column(path: Path, header: list[str]) -> int:
    """The number of the column of names."""
    if not header:
        raise DataError(f"{path}: there are no columns in it; expected a column of names")
    header = [name.strip() for name in header]
    for name in _COLUMNS:
        if name in header:
            return header.index(name)
    if len(header) > 1:
        raise DataError(
            f"{path}: expected a column of names called {', '.join(map(repr, _COLUMNS))}, or only one column; it has "
            f"{', '.join(map(repr, header))}"
        )
    return 0


def _known(run: TrainedRun, features: pa.Table | None) -> str:
    """What types there are, for messages."""
    relations = ", ".join(quoted(name) for name in run.relations.names[:3].to_pylist())
    text = f"give a file of names, object-of:RELATION or subject-of:RELATION (relations are {relations} …)"
    if features is None:
        return f"{text}; the graph has no entity features (data.entity_features)"
    counts = features.group_by("feature").aggregate([([], "count_all")]).sort_by([("count_all", "descending")])
    categories = [name.replace(" = ", "=", 1) for name in counts["feature"].to_pylist() if not name.endswith(" =")]
    more = f" and {len(categories) - _SHOWN:,} more" if len(categories) > _SHOWN else ""
    return f"{text}, or one of {', '.join(map(quoted, categories[:_SHOWN]))}{more}"
