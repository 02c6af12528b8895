"""The files of predictions, and the one that they are also written to, where `predict.out` names one."""

import json
import logging
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from gam_kg.artifacts import redo
from gam_kg.config import Config
from gam_kg.errors import ArtifactError, ConfigError, OutputError
from gam_kg.ingest.text_columns import is_text, text_of
from gam_kg.output import remove, replacing
from gam_kg.parquet import open_file, open_writer
from gam_kg.schemas import EXPLAINED
from gam_kg.text import is_uri, user_path
from gam_kg.versions import latest

PARTS = "predictions*.parquet"
"""The files in the artifact: one, or parts in the order of the queries."""

UNFINISHED = "predicting"
"""Folder of a run for the finished parts of predictions that are not."""

logger = logging.getLogger("gam_kg")


def out_path(config: Config) -> Path | None:
    """Where `predict.out` is.

    Raises:
        ConfigError: It has another ending, or is an input or inside an artifact of the run.
    """
    if config.predict.out is None:
        return None
    out = Path(os.path.abspath(user_path(config.predict.out, "predict.out")))
    if out.suffix not in _WRITERS:
        raise ConfigError(f"predict.out={out}: allowed are files that end with {' or '.join(_WRITERS)}")
    if out.is_dir():
        raise ConfigError(f"predict.out={out} is a folder; name the file to write, for instance {out / 'answers.csv'}")
    data, spellings = config.data, (out, out.resolve())
    inputs = {
        "predict.queries": config.predict.queries,
        "data.facts": data.facts,
        "data.import_from": data.import_from,
        "data.entity_features": data.entity_features,
    }
    for key, value in inputs.items():
        local = (value or "").removeprefix("file://")
        if not local or is_uri(local):
            continue
        place = user_path(local, key).resolve()
        if any(place in (one, *one.parents) or fnmatch(str(one), str(place)) for one in spellings):
            raise ConfigError(f"predict.out={out}: {key}={value} would read this file; write it elsewhere")
    run = Path(os.path.abspath(config.run_path))
    if any(run in one.parents and run != one.parent for one in spellings):
        raise ConfigError(f"predict.out={out} is inside an artifact of the run; write it elsewhere")
    return out


def deliver_predictions(config: Config) -> None:
    """Write the finished predictions of the run to `predict.out`, if that is set, and remove what is not needed.

    Raises:
        ConfigError: See `out_path`.
        OutputError: It cannot be written, or a column is of a type that CSV has no form for.
    """
    remove(config.run_path / UNFINISHED)
    if out := out_path(config):
        tables = _read(latest(config.run_path / "predictions"))
        with replacing(out) as staging:
            _WRITERS[out.suffix](next(tables), tables, staging)
        logger.info("predictions: written to %s", out)


def _read(version: Path) -> Iterator[pa.Table]:
    """The row groups of all parts, and first a table without rows."""
    paths = sorted(version.glob(PARTS))
    for path in paths:
        try:
            with open_file(path) as file:
                if path == paths[0]:
                    yield file.schema_arrow.empty_table()
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group)
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(f"{path}: cannot be read ({error}); {redo('predictions')}") from None


def _write_parquet(first: pa.Table, rest: Iterator[pa.Table], path: Path) -> None:
    with open_writer(path, first.schema) as writer:
        for table in rest:
            writer.write_table(table)


def _write_csv(first: pa.Table, rest: Iterator[pa.Table], path: Path) -> None:
    first = _without_lists(first)
    for field in first.schema:
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            raise OutputError(
                f"predict.out: column {field.name!r} is {field.type}, which CSV has no form for; use .parquet"
            )
    with csv.CSVWriter(path, first.schema) as writer:
        for table in map(_without_lists, rest):
            for at, field in enumerate(table.schema):
                if is_text(field.type):  # queries may have other columns that are no UTF-8
                    cells = text_of(table[field.name].combine_chunks()).cast(field.type)
                    table = table.set_column(at, field, cells)
            writer.write_table(table)


def _without_lists(table: pa.Table) -> pa.Table:
    """The table with explanations as JSON, since CSV has no lists."""
    if EXPLAINED not in table.column_names:
        return table
    texts = [None if one is None else json.dumps(one, ensure_ascii=False) for one in table[EXPLAINED].to_pylist()]
    return table.set_column(table.column_names.index(EXPLAINED), EXPLAINED, pa.array(texts, pa.large_string()))


_WRITERS = {".parquet": _write_parquet, ".csv": _write_csv}
