"""Import facts into one Parquet file that `prepare` reads, by the importer that their source needs."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gam_kg.config import ColumnsConfig
from gam_kg.errors import DataError
from gam_kg.importers.fact_file import IMPORTABLE, ImportSummary
from gam_kg.importers.folder import import_folder
from gam_kg.importers.lahman import import_lahman
from gam_kg.importers.table import import_table


def import_facts(source: str, out: Path, columns: ColumnsConfig | None = None) -> ImportSummary:
    """Import whatever `source` names.

    Args:
        source: "lahman", "lahman:YEAR" (facts from that year on), a folder with train.txt, or a CSV/TSV file.
        out: Parquet file to write; it appears only when it is complete.
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
        raise DataError(f"nothing to import: {source!r} does not exist; allowed: {IMPORTABLE}")
    return import_table(path, out, columns or ColumnsConfig())


def is_import_of(path: Path, source: str) -> bool:
    """Whether a Parquet file was imported from `source`, according to its metadata."""
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
