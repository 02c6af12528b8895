"""Import facts into one Parquet file that `prepare` reads, by the importer that their source needs."""

import json
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from gam_kg.data_config import DataConfig
from gam_kg.errors import DataError
from gam_kg.importers.fact_file import ImportSummary
from gam_kg.importers.folder import import_folder
from gam_kg.importers.lahman import import_lahman
from gam_kg.importers.source import find_source
from gam_kg.importers.table import import_tables

ImportState = Literal["missing", "foreign", "stale", "gone", "current"]


def import_facts(
    source: str, out: Path, data: DataConfig | None = None, *, prefix: str = "data.", may_be_empty: bool = False
) -> ImportSummary:
    """Import whatever `source` names.

    Args:
        source: "lahman", "lahman:YEAR" (facts from that year on), a folder with train.txt, or a CSV/TSV file, or a
            folder or glob of such files.
        out: Parquet file to write; it appears only when it is complete.
        data: How tables are read: `columns`, `csv` and `time_format`; None takes the defaults.
        prefix: What stands before the settings of `data` in the verb that imports, for messages.
        may_be_empty: Whether tables may have no facts.

    Raises:
        ConfigError: There is no such encoding.
        DataError: There is no such source, or its contents are malformed.
        OutputError: `out` cannot be written.
    """
    data = data or DataConfig()
    found = find_source(source, out)
    recorded = _recorded(found.name, found.kind, data) | {"import_hash": found.digest()}
    if found.kind == "lahman":
        return import_lahman(out, _year(source), recorded)
    if found.kind == "folder":
        return import_folder(found, out, data, prefix, recorded)
    return import_tables(found, out, data, prefix, recorded, may_be_empty=may_be_empty)


def import_state(path: Path, source: str, data: DataConfig) -> ImportState:
    """What a Parquet file is to a source that is to be imported there, according to its metadata.

    Returns:
        "missing": there is no such file. "foreign": it is there, but not by an import; it must not be replaced.
        "stale": imported, but from another source, other content or with other settings; import again.
        "gone": imported from this source with these settings, but the source is no longer there.
        "current": imported from this source, with this content and these settings.

    Raises:
        DataError: A file of the source cannot be read.
    """
    if not path.exists():
        return "missing"
    metadata = _metadata(path)
    if "gam_kg.import_from" not in metadata:
        return "foreign"
    try:
        found = find_source(source, path)
        name, kind = found.name, found.kind
    except DataError:
        found = None
        name, kind = str(Path(source).expanduser()), metadata["gam_kg.source"]
    recorded = _recorded(name, kind, data)
    if any(metadata.get(f"gam_kg.{key}") != value for key, value in recorded.items()):
        return "stale"
    if found is None:
        return "gone"
    return "current" if metadata.get("gam_kg.import_hash") == found.digest() else "stale"


def has_content_of(path: Path, source: str) -> bool:
    """Whether a Parquet file was imported from what a source has now, with whatever settings."""
    try:
        return _metadata(path).get("gam_kg.import_hash") == find_source(source, path).digest()
    except DataError:
        return False


def _metadata(path: Path) -> dict[str, str]:
    """What an import records in its file; nothing of a file that is none."""
    try:
        return {key.decode(): value.decode() for key, value in (pq.read_schema(path).metadata or {}).items()}
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return {}


def _recorded(name: str, kind: str, data: DataConfig) -> dict[str, str]:
    """What an imported file records of where it is from, apart from the content."""
    settings = {
        "lahman": {},
        "folder": {"encoding": data.csv.encoding, "time_format": data.time_format},
        "table": data.model_dump(mode="json", include={"columns", "csv", "time_format"}),
    }
    name = name.encode(errors="backslashreplace").decode()  # not every path is UTF-8
    return {"source": kind, "import_from": name, "import_settings": json.dumps(settings.get(kind), sort_keys=True)}


def _year(source: str) -> int | None:
    _, colon, text = source.partition(":")
    try:
        return int(text) if colon else None
    except ValueError:
        raise DataError(f"{source!r}: {text!r} is not a year; for instance lahman:1950") from None
