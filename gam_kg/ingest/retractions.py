"""Rows that take facts back, as tables of changes have them: an update only adds facts, and refuses such rows."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gam_kg.errors import DataError
from gam_kg.ingest.sources import Sources
from gam_kg.ingest.text_columns import is_text

_MARKS = ("deleted", "is_deleted", "retracted", "is_retracted", "op", "operation", "change_type")
_WORDS = ("d", "delete", "deleted", "remove", "retract", "retracted", "true", "1")


def require_additions(sources: Sources) -> None:
    """Refuse Parquet files of which a column says that some rows are deletions or retractions.

    Raises:
        DataError: The first such row, with its file and what to do instead.
    """
    for file in sources.files:
        if file.format == "text":
            continue
        with sources.filesystem.open_input_file(file.path) as opened:
            try:
                parquet = pq.ParquetFile(opened)
                names = [name for name in parquet.schema_arrow.names if name.strip("_").lower() in _MARKS]
                table = parquet.read(columns=names)
            except pa.ArrowException:  # reading the facts says what is wrong
                continue
        for name in names:
            _require_none(table[name], f"row {{}} of {file.name}", name)


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
