"""Records padded to given sizes, so that records of different sizes get the same shapes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gam_kg.ops.dimensions import Along
from gam_kg.ops.joined import Change, Sizes
from gam_kg.ops.packing import PaddedArray
from gam_kg.ops.sparse import CSRPattern

Renumber = Callable[[np.ndarray], np.ndarray]
"""From the numbers of items to those in a larger record."""


def padded(
    record: Any, sizes: Sizes, first: Mapping[str, int], renumbered: Mapping[str, Renumber] | None = None
) -> Any:
    """The record with more items along each dimension, to which nothing points but what is padded.

    What is padded points to one item of a dimension, and holds the `padding` of its field otherwise.

    Args:
        record: A record on the CPU.
        sizes: Number of items along each dimension: as many as it has, with nothing padded, or more.
        first: The item of each dimension to which what is padded points: as a rule the first padded one.
        renumbered: For dimensions whose items have other numbers in the larger record.

    Returns:
        The record with a `PaddedArray` for each tensor that lies along a dimension; numbers are copied as it is packed.
    """
    renumbered = renumbered or {}

    def tensor(values: Sequence[Tensor], about: Along) -> PaddedArray:
        (value,) = values
        array, size = value.numpy(), sizes[about.dimension]
        if about.is_repeated and len(array):
            return PaddedArray(array, size, array[-1])
        if about.into is None:
            return PaddedArray(array, size, about.padding)
        array = renumbered[about.into](array) if about.into in renumbered else array
        return PaddedArray(array, size, first[about.into])

    def pattern(values: Sequence[CSRPattern], rows: str, columns: str | None, entries: str) -> Any:
        num_columns = None if columns is None else sizes.get(columns)
        return _padded_pattern(values[0], sizes[rows], num_columns, sizes[entries])

    return Change(tensor, lambda _, dimension: sizes[dimension], pattern).of(record)


def _padded_pattern(pattern: CSRPattern, num_rows: int, num_columns: int | None, num_entries: int) -> Any:
    """The pattern with more rows, columns and entries; the first new row has the new entries, all in one column.

    Args:
        pattern: The pattern.
        num_rows: More rows than there are.
        num_columns: More columns than there are, the first new one has the new entries; None: as many as there are, the
            last one has the new entries.
        num_entries: More entries than there are.
    """
    column, transposed = 0, None
    if pattern.transposed is not None:
        order, offsets = (part.numpy() for part in pattern.transposed)
        old_columns = len(offsets) - 1
        column = old_columns if num_columns else old_columns - 1
        transposed = (
            PaddedArray(order, num_entries, np.arange(len(order), num_entries, dtype=np.int32)),
            # The entries of the last of all columns end where all end.
            PaddedArray(offsets[: column + 1], (num_columns or old_columns) + 1, num_entries),
        )
    parts: tuple[Any, ...] = (
        PaddedArray(pattern.offsets.numpy(), num_rows + 1, num_entries),
        PaddedArray(pattern.row.numpy(), num_entries, len(pattern.offsets) - 1),
        PaddedArray(pattern.column.numpy(), num_entries, column),
        transposed,
    )
    return CSRPattern(*parts)
