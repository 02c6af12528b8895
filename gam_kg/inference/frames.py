"""pandas tables from and to Arrow: text stays text, and integers with missing values stay integers."""

import pandas as pd
import pyarrow as pa

from gam_kg.errors import DataError


def frame(table: pa.Table) -> pd.DataFrame:
    """A table for pandas; integers are int64, or Int64 where some are missing."""
    return pd.DataFrame({name: _series(column) for name, column in zip(table.column_names, table.columns, strict=True)})


def arrow_table(given: pd.DataFrame, what: str) -> pa.Table:
    """A pandas table for Arrow, without its index; a column without a single value is null.

    Args:
        given: The table.
        what: Names it in messages.

    Raises:
        DataError: It is no table, or a column has values of several types, or of one that Arrow does not have.
    """
    if not isinstance(given, pd.DataFrame):
        raise DataError(f"{what}: expected a pandas DataFrame, found {type(given).__name__}")
    names = [str(name) for name in given.columns]
    return pa.table([_array(given.iloc[:, at], name, what) for at, name in enumerate(names)], names=names)


def _series(column: pa.ChunkedArray) -> pd.Series:
    if pa.types.is_integer(column.type) and column.null_count:
        return column.to_pandas(types_mapper={column.type: pd.Int64Dtype()}.get)
    return column.to_pandas()


def _array(values: pd.Series, name: str, what: str) -> pa.Array:
    if values.isna().all():
        return pa.nulls(len(values))
    try:
        found = pa.Array.from_pandas(values)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(
            f"{what}: column {name!r} cannot be read ({str(error).partition(chr(10))[0]}); give it one type, for "
            "instance with astype(str)"
        ) from None
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
