"""Files of queries as whole tables with all of their columns."""

import pyarrow as pa

from gam_kg.data_config import DataConfig
from gam_kg.inference.queries import find_columns
from gam_kg.ingest.sources import Sources
from gam_kg.ingest.whole_files import read_whole_files


def read_query_files(sources: Sources, data: DataConfig) -> list[pa.Table]:
    """`read_whole_files`, whose columns are those of queries.

    Raises:
        DataError: As there; or the columns are refused by `find_columns`.
    """
    return read_whole_files(sources, data, lambda names: find_columns(names, data.columns))
