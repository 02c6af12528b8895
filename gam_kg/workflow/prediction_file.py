"""The file that predictions are also written to, where `predict.out` names one."""

import logging
import os
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from gam_kg.config import Config
from gam_kg.errors import ConfigError, OutputError
from gam_kg.ingest.text_columns import is_text, text_of
from gam_kg.output import replacing
from gam_kg.parquet import read_table, write_table
from gam_kg.text import is_uri, user_path
from gam_kg.versions import latest

NAME = "predictions.parquet"
"""In the artifact."""

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


def write_out(config: Config) -> None:
    """Write the finished predictions of the run to `predict.out`, if that is set.

    Raises:
        ConfigError: See `out_path`.
        OutputError: It cannot be written, or a column is of a type that CSV has no form for.
    """
    if out := out_path(config):
        table = read_table(latest(config.run_path / "predictions") / NAME)
        with replacing(out) as staging:
            _WRITERS[out.suffix](table, staging)
        logger.info("predictions: written to %s", out)


def _write_csv(table: pa.Table, path: Path) -> None:
    for at, field in enumerate(table.schema):
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            raise OutputError(
                f"predict.out: column {field.name!r} is {field.type}, which CSV has no form for; use .parquet"
            )
        if is_text(field.type):  # queries may have other columns that are no UTF-8
            table = table.set_column(at, field, text_of(table[field.name].combine_chunks()).cast(field.type))
    csv.write_csv(table, path)


_WRITERS = {".parquet": write_table, ".csv": _write_csv}
