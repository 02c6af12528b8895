"""Import facts from elsewhere into one Parquet file that `prepare` reads."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gam_kg.config import ColumnsConfig
from gam_kg.data.fact_file import ImportSummary
from gam_kg.data.folder_format import import_folder
from gam_kg.data.lahman import import_lahman
from gam_kg.data.table_format import import_table, table_delimiter
from gam_kg.errors import DataError

__all__ = ["ImportSummary", "import_facts", "import_folder", "import_lahman", "import_table"]

ALLOWED = (
    "'lahman' or 'lahman:YEAR' (baseball, from the package lahman), a folder with train.txt, "
    "or a table ending with .csv, .tsv, .txt or one of these and .gz"
)


def import_facts(source: str, out: Path, columns: ColumnsConfig | None = None) -> ImportSummary:
    """Import whatever `source` names.

    Args:
        source: "lahman", "lahman:YEAR" (facts from that year on), a folder with train.txt, or a CSV/TSV file.
        out: Parquet file to write; it appears only when it is whole.
        columns: Names of a table's columns; None takes the defaults. The other sources need none.

    Raises:
        DataError: There is no such source, or its contents are malformed.
    """
    name, colon, year = source.partition(":")
    if name == "lahman":
        return import_lahman(out, _year(source, year) if colon else None)
    path = Path(source).expanduser()
    if path.is_dir():
        return import_folder(path, out)
    if not path.exists():
        raise DataError(f"nothing to import: {source!r} is not there; allowed: {ALLOWED}")
    if table_delimiter(path) is None:
        raise DataError(f"cannot import {source!r}; allowed: {ALLOWED}")
    return import_table(path, out, columns or ColumnsConfig())


def is_import_of(path: Path, source: str) -> bool:
    """Whether a Parquet file was imported from `source`, as far as the file tells."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return False
    recorded = metadata.get(b"gam_kg.import_from", b"").decode()
    return recorded in (source, str(Path(source).expanduser()))


def _year(source: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{source!r}: {text!r} is not a year; for instance lahman:1950") from None
