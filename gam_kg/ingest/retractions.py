"""Rows that take facts back, as tables of changes have them: an update only adds facts, and refuses such rows."""

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gam_kg.data_config import DataConfig
from gam_kg.errors import DataError
from gam_kg.ingest.sources import Sources
from gam_kg.ingest.text_columns import is_text

_MARKS = ("deleted", "is_deleted", "retracted", "is_retracted", "op", "operation", "change_type")
_WORDS = ("d", "delete", "deleted", "remove", "retract", "retracted", "true", "1")


def require_additions(sources: Sources, data: DataConfig) -> None:
    """Refuse files of which a column that is not one of the facts says that some rows are deletions or retractions.

    Raises:
        DataError: The first such row, with its file and what to do instead.
    """
    used = set(data.columns.model_dump().values())
    for file in sources.files:
        with sources.filesystem.open_input_file(file.path) as opened:
            try:
                table = _marks(opened, file.format == "text", data, used)
            except (pa.ArrowException, ValueError, OSError):  # reading the facts says what is wrong
                continue
        for name in table.column_names:
            _require_none(table[name], f"row {{}} of {file.name}", name)


def _marks(opened: pa.NativeFile, is_text_table: bool, data: DataConfig, used: set[str]) -> pa.Table:
    """The columns that may take facts back."""

    def may_be(name: str) -> bool:
        return name not in used and name.strip("_").lower() in _MARKS

    if not is_text_table:
        parquet = pq.ParquetFile(opened)
        return parquet.read(columns=[name for name in parquet.schema_arrow.names if may_be(name)])
    frame = pd.read_csv(
        opened, sep=data.csv.separator, engine="python", usecols=may_be, dtype=str, encoding=data.csv.encoding
    )
    return pa.Table.from_pandas(frame, preserve_index=False)


def _require_none(column: pa.ChunkedArray, place: str, name: str) -> None:
    kind = column.type
    if not (is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)):
        return
    words = pc.utf8_lower(column.cast(pa.string()))
    row = pc.index(pc.is_in(words, value_set=pa.array(_WORDS)), True).as_py()
    if row >= 0:
        raise DataError(
            f"{place.format(row)}: column {name!r} is {column[row].as_py()!r}, which takes a fact back. An update only "
            "adds facts: leave such rows out and the column too, or prepare and train anew without these facts"
        )
