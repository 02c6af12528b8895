"""The columns of the input files: those of a file, those that `key=value` folders stand for, and those that lack."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath

import pyarrow as pa

from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import DataError
from gam_kg.ingest.column_names import looks_like, respelt
from gam_kg.ingest.input_files import FoundFile
from gam_kg.ingest.validation import NAME_COLUMNS, OPTIONAL_COLUMNS
from gam_kg.schemas import SPLITS

logger = logging.getLogger("gam_kg")


def folder_types(files: Sequence[FoundFile]) -> dict[str, pa.DataType]:
    """Key → type of the column that its `key=value` folders stand for: int64 if all values are integers, else text."""
    values: dict[str, set[str]] = {}
    for file in files:
        for key, value in file.folders.items():
            values.setdefault(key, set()).update([] if value is None else [value])
    return {
        key: pa.int64() if found and all(map(_is_int64, found)) else pa.large_string() for key, found in values.items()
    }


def folder_columns(file: FoundFile, names: Collection[str], types: Mapping[str, pa.DataType]) -> dict[str, pa.Scalar]:
    """Column → its value in all rows of a file, of those columns with these names that `key=value` folders stand for.

    Args:
        file: The file.
        names: The columns that are read.
        types: See `folder_types`.
    """
    scalars = {}
    for key in [key for key in file.folders if key in names]:
        value = file.folders[key]
        is_integer = value is not None and pa.types.is_integer(types[key])
        scalars[key] = pa.scalar(int(value) if is_integer else value, types[key])
    return scalars


def check_once(names: Sequence[str], columns: ColumnsConfig, file: str) -> None:
    """Refuse a file that has a column twice, for which of the two is meant cannot be known.

    Args:
        names: Columns of the file.
        columns: Names of those that are read.
        file: For the message.

    Raises:
        DataError: A column that is read stands twice.
    """
    counts = Counter(names)
    for column in columns.model_dump().values():
        if counts[column] > 1:
            times = "twice" if counts[column] == 2 else f"{counts[column]} times"
            raise DataError(f"{file}: column {column!r} stands {times}; rename one of them")


def check_folders(files: Sequence[FoundFile], columns: ColumnsConfig) -> None:
    """Refuse folders of a configured column above some files only, or with another spelling of its name.

    Raises:
        DataError: So it is; names the files or folders.
    """
    for key in sorted({key for file in files for key in file.folders} - set(columns.model_dump().values())):
        if role := respelt(key, columns.model_dump()):
            raise DataError(
                f"folders {key}=... are read as a column only if they are named {getattr(columns, role)}=...; rename "
                f"them, or set data.columns.{role}={key}"
            )
    for column in columns.model_dump().values():
        below = [column in file.folders for file in files]
        if len(set(below)) > 1:
            raise DataError(
                f"{files[below.index(True)].name} is in a folder {column}=..., {files[below.index(False)].name} is in "
                "none; put all files into such folders, or none"
            )


def check_optional(schemas: Mapping[str, pa.Schema], columns: ColumnsConfig, *, open_end: str) -> None:
    """Refuse an optional column that the user names and no file has, that is misspelt, or that not all files agree on.

    Ends of facts in some files only are allowed, and said in the log.

    Args:
        schemas: File → its columns, those of folders among them.
        columns: Names of the columns.
        open_end: `data.open_end`; where it is "holds", a file must have ends.

    Raises:
        DataError: An optional column is not where it should be; names the files and their columns.
    """
    used = columns.model_dump()
    for role in OPTIONAL_COLUMNS:
        column, default = used[role], ColumnsConfig.model_fields[role].default
        lacking = [file for file, schema in schemas.items() if column not in schema.names]
        for file in lacking:
            _check_spelling(file, schemas[file], role, column)
        if lacking and len(lacking) == len(schemas):
            if role == "end_timestamp" and open_end == "holds":
                raise DataError(
                    f"data.open_end=holds: {lacking[0]} has no column {column!r} for the ends of facts, but "
                    f"{', '.join(map(repr, schemas[lacking[0]].names))}; add it, empty where a fact still holds"
                )
            if column != default:
                raise DataError(
                    f"data.columns.{role}={column}: no file has this column; {lacking[0]} has "
                    f"{', '.join(map(repr, schemas[lacking[0]].names))}"
                )
            _warn_of_likely(schemas, role, columns)
            if role == "split":
                _note_split_names([*schemas])
        elif lacking:
            having = next(file for file in schemas if file not in lacking)
            if role == "split":
                raise DataError(
                    f"{having} has a split column {column!r}, {lacking[0]} has none; give it to all files or to none"
                )
            logger.info(
                "%d of %d files have no column %r, as %s; their facts have no end",
                *(len(lacking), len(schemas), column, lacking[0]),
            )


def warn_of_mixed_names(schemas: Mapping[str, pa.Schema], columns: ColumnsConfig) -> None:
    """Say in the log where names are integers in one file and text in another: 13 and "13" are one name.

    Args:
        schemas: File → its columns.
        columns: Names of the columns.
    """
    for role in NAME_COLUMNS:
        column = getattr(columns, role)
        first: dict[bool, str] = {}
        for file, schema in schemas.items():
            first.setdefault(pa.types.is_integer(schema.field(column).type), file)
        if len(first) > 1:
            logger.warning(
                'column %r is integers in %s and text in %s; 13 and "13" are one name, 13 and "013" are two',
                *(column, first[True], first[False]),
            )


def _check_spelling(file: str, schema: pa.Schema, role: str, column: str) -> None:
    for other in schema.names:
        if respelt(other, {role: column}):
            raise DataError(
                f"{file}: column {other!r} is read only if it is named {column!r}; rename it, or set "
                f"data.columns.{role}={other!r}"
            )


def _warn_of_likely(schemas: Mapping[str, pa.Schema], role: str, columns: ColumnsConfig) -> None:
    names = dict.fromkeys(name for schema in schemas.values() for name in schema.names)
    for other in names.keys() - set(columns.model_dump().values()):
        if looks_like(other, {role: getattr(columns, role)}):
            logger.warning("column %r is not read; if it is meant, set data.columns.%s=%s", other, role, other)


def _note_split_names(files: Sequence[str]) -> None:
    """Say that files named after splits, as train.parquet or train/part-0.parquet, are not divided by their names."""
    named = {part.split(".")[0].lower(): file for file in files for part in PurePath(file).parts[-2:]}
    found = [named[split] for split in SPLITS if split in named]
    if len(found) > 1:
        logger.warning(
            "%s are named after splits, but have no column split: the facts are divided by time; to divide them by "
            "file, put each into a folder split=train, split=valid or split=test",
            " and ".join(found),
        )


def _is_int64(text: str) -> bool:
    try:
        return str(int(text)) == text and -(2**63) <= int(text) < 2**63
    except ValueError:
        return False
