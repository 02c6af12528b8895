"""Files of queries with all of their columns, read a range of rows at a time."""

from pathlib import Path

from gam_kg.data_config import DataConfig
from gam_kg.inference.queries import find_columns
from gam_kg.ingest.sources import Sources
from gam_kg.ingest.whole_files import WholeFiles


def open_query_files(sources: Sources, data: DataConfig, folder: Path) -> WholeFiles:
    """`WholeFiles.open`, whose columns are those of queries.

    Raises:
        DataError: As there; or the columns are refused by `find_columns`.
    """
    return WholeFiles.open(sources, data, lambda names: find_columns(names, data.columns), folder)
