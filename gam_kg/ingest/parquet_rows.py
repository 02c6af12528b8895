"""The rows of a Parquet file, all that its footer promises or an error.

Checked is what the format can tell of damage: that numbers of rows agree, that columns lie inside the file and not on
each other, checksums of pages where the writer stored some, and that values lie within the statistics of their column.
Parquet has no checksum of its footer, and most writers store none of pages: another value within the statistics of such
a file cannot be distinguished from the true one.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gam_kg.errors import DataError
from gam_kg.ingest.parquet_footer import Chunk, read_footer
from gam_kg.ingest.text_columns import is_text
from gam_kg.parquet import open_file

MAX_BYTES_A_VALUE = 65_536

_BATCH_ROWS = 262_144
_BATCH_BYTES = 256 * 2**20
_LONG_VALUE = 1024
_MOST_LONG_BYTES = 4 * 2**30
_ANEW = "the file is damaged, write it anew"


@contextmanager
def damage_of(problem: str, advice: str = "write it anew") -> Generator[None]:
    """Turn what pyarrow raises for a file that is damaged, or is none, into an error for the user.

    Args:
        problem: Start of the message: the file and what is wrong.
        advice: What to do.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise DataError(f"{problem} ({error}); {advice}") from None


def text_type(data_type: pa.DataType) -> pa.DataType:
    """The type in which `read_group` gives a column: bytes and string views become strings."""
    if pa.types.is_dictionary(data_type):
        return pa.dictionary(data_type.index_type, text_type(data_type.value_type))
    return pa.large_string() if _is_bytes(data_type) or pa.types.is_string_view(data_type) else data_type


def read_group(file: Any, index: int, columns: Sequence[str], name: str, first_row: int) -> Iterator[pa.Table]:
    """Read a row group in pieces of limited size. Text in them may be no UTF-8, see `gam_kg.ingest.text_columns`.

    Args:
        file: A seekable file object.
        index: The row group.
        columns: Those that the file has of these are read; they are not nested, and each is in it once.
        name: The file, for messages.
        first_row: Number of the first row, from 0 within the file, for messages.

    Raises:
        DataError: The file is damaged, has other rows than it promises, or a value is too long.
    """
    with damage_of(f"{name}: cannot read the rows from {first_row} on, the file is damaged"):
        group = read_footer(file)[index]
        parquet = open_file(file, pre_buffer=False)
        columns = [column for column in columns if column in parquet.schema_arrow.names]
        chunks = {column: group.chunks[column] for column in columns}
        with_dictionary = [column for column in columns if chunks[column].has_dictionary]
        long = [
            column for column in with_dictionary if _longest_in_dictionary(file, parquet, index, column) > _LONG_VALUE
        ]
        if long:
            # A long value that many rows share would be copied for each of them.
            parquet = open_file(file, pre_buffer=False, metadata=parquet.metadata, read_dictionary=long)
        num_bytes = sum(chunk.num_bytes for chunk in chunks.values())
        rows = min(_BATCH_ROWS, max(1, _BATCH_BYTES * group.num_rows // max(num_bytes, 1)))
        seen = {column: _Seen() for column in columns}
        num_rows = long_bytes = 0
        for batch in parquet.iter_batches(rows, row_groups=[index], columns=columns):
            table = pa.table({column: as_text(batch.column(column)) for column in columns})
            longest = 1
            for column in columns:
                longest += _check_lengths(table[column].chunk(0), f"{name}, column {column!r}", first_row + num_rows)
                seen[column].add(table[column].chunk(0))
            num_rows += len(table)
            long_bytes += sum(_num_bytes(table[column].chunk(0)) for column in long)
            if long_bytes > _MOST_LONG_BYTES:
                raise DataError(
                    f"{name}: row group {index} repeats long values of {', '.join(map(repr, long))} in many rows, "
                    f"more than {_MOST_LONG_BYTES >> 30} GiB in all; write smaller row groups, or shorter names"
                )
            yield from _pieces(table, max(1, _BATCH_BYTES // longest))
    if num_rows != group.num_rows:
        raise DataError(f"{name}: row group {index} promises {group.num_rows} rows and has {num_rows}; {_ANEW}")
    for column in columns:
        if not seen[column].fits(chunks[column]):
            raise DataError(
                f"{name}: column {column!r} has other values in row group {index} than its statistics say; {_ANEW}"
            )


@dataclass
class _Seen:
    """What is read of a column: its nulls, and its least and greatest value as Parquet compares them."""

    nulls: int = 0
    low: Any = None
    high: Any = None

    def add(self, values: pa.Array) -> None:
        self.nulls += values.null_count
        if pa.types.is_dictionary(values.type):
            values = values.unique().dictionary_decode()
        if is_text(values.type):
            values = values.cast(pa.large_binary())
        elif pa.types.is_temporal(values.type):
            values = values.view(pa.int32() if pa.types.is_date32(values.type) else pa.int64())
        elif not pa.types.is_signed_integer(values.type):
            return
        found = pc.min_max(values).as_py()
        if found["min"] is not None:
            self.low = found["min"] if self.low is None else min(self.low, found["min"])
            self.high = found["max"] if self.high is None else max(self.high, found["max"])

    def fits(self, chunk: Chunk) -> bool:
        if chunk.num_nulls not in (None, self.nulls):
            return False
        if self.low is None or chunk.low is None or chunk.high is None:
            return True
        return chunk.low <= self.low and self.high <= chunk.high


def _pieces(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    for start in range(0, len(table), rows):
        yield table.slice(start, rows)


def _longest_in_dictionary(file: Any, parquet: pq.ParquetFile, index: int, column: str) -> int:
    """Bytes of the longest value in the dictionary that a column of a row group begins with."""
    with_dictionary = open_file(file, pre_buffer=False, metadata=parquet.metadata, read_dictionary=[column])
    for batch in with_dictionary.iter_batches(1, row_groups=[index], columns=[column]):
        return _longest(batch.column(column).dictionary)
    return 0


def _check_lengths(values: pa.Array, place: str, first_row: int) -> int:
    """Bytes of the longest value, which is short enough to be a name."""
    texts = values.dictionary if pa.types.is_dictionary(values.type) else values
    if not is_text(texts.type):
        return 0
    longest = _longest(texts)
    if longest > MAX_BYTES_A_VALUE:
        lengths = pc.binary_length(texts)
        lengths = lengths.take(values.indices) if pa.types.is_dictionary(values.type) else lengths
        at = int(np.argmax(lengths.fill_null(0).to_numpy(zero_copy_only=False)))
        if lengths[at].as_py() > MAX_BYTES_A_VALUE:
            raise DataError(
                f"{place}: row {first_row + at} has a value of {lengths[at].as_py()} bytes; at most "
                f"{MAX_BYTES_A_VALUE} are allowed. Shorten it, or remove the row"
            )
    return longest


def _num_bytes(values: pa.DictionaryArray) -> int:
    """Bytes of all values, each counted as often as it is in a row."""
    return pc.sum(pc.binary_length(values.dictionary).cast(pa.int64()).take(values.indices)).as_py() or 0


def _longest(texts: pa.Array) -> int:
    return pc.max(pc.binary_length(texts)).as_py() or 0


def as_text(values: pa.Array) -> pa.Array:
    """The values in the type that `text_type` says."""
    if pa.types.is_dictionary(values.type):
        return pa.DictionaryArray.from_arrays(values.indices, as_text(values.dictionary))
    text = text_type(values.type)
    return values if text == values.type else values.cast(pa.large_binary()).view(text)


def _is_bytes(data_type: pa.DataType) -> bool:
    return pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type) or pa.types.is_binary_view(data_type)
