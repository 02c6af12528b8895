"""Ragged ranges, unique values and selections: vectorised indexing that torch lacks, or has slower on a CPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from gam_kg.ops.dimensions import Along

_MOST_INT64 = torch.iinfo(torch.int64).max
_TABLE_ROOM = 4  # entries of a table for each value
_DIGIT, _BITS = 16, 63  # of numbers that are sorted
_MANY_KEYS = 1000  # fewer are found faster one by one


def ragged_ranges(start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """All positions of the ranges `[start, start + length)`, one range after another.

    Args:
        start: First position of each range, integer (num_ranges,).
        length: Number of positions in each range, integer (num_ranges,).

    Returns:
        row: The range of each position, (total,), ascending.
        position: The positions, int64 (total,).
    """
    row = torch.repeat_interleave(length)
    shift = start + length - torch.cumsum(length, 0)
    return row, shift.index_select(0, row).add_(torch.arange(len(row), device=row.device))


def row_ranges(row: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Start and length, int64 (num_rows,) each, of the range of each row; the inverse of `ragged_ranges`.

    Args:
        row: Integer (total,), ascending, values in `[0, num_rows)`.
        num_rows: Number of rows, empty ones included.
    """
    length = torch.bincount(row, minlength=num_rows)
    return torch.cumsum(length, 0) - length, length


def join_groups(group: Tensor, num_groups: int, of_member: Tensor) -> tuple[Tensor, Tensor]:
    """Join members to the items of their groups.

    Args:
        group: Group of each item, ascending, (num_items,).
        num_groups: Number of groups.
        of_member: Group of each member, (num_members,).

    Returns:
        Member and item of each join, (num_joins,), ascending by member.
    """
    start, length = row_ranges(group, num_groups)
    return ragged_ranges(start.index_select(0, of_member), length.index_select(0, of_member))


def last_of_each(row: Tensor, num_rows: int, limit: int) -> Tensor:
    """Which are among the last `limit` of their row, bool (total,), of an ascending `row` vector (total,)."""
    end = torch.cumsum(torch.bincount(row, minlength=num_rows), 0)
    return end.index_select(0, row) - torch.arange(len(row)) <= limit


def select(mask: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """The rows of several columns, (num_rows, ...) each, at which a mask, bool (num_rows,), is true."""
    index = true_positions(mask)
    return tuple(column.index_select(0, index) for column in columns)


def true_positions(mask: Tensor) -> Tensor:
    """Where a mask, bool (num_rows,), is true, int64 (num_true,); on a CPU several times faster than `nonzero`."""
    if mask.device.type != "cpu":
        return torch.nonzero(mask)[:, 0]
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def insert_at(values: Tensor, new: Tensor, at: Tensor) -> Tensor:
    """Values (num_values,) with new ones inserted, whose positions in the result are `at`, ascending, (num_new,)."""
    is_old = torch.ones(len(values) + len(new), dtype=torch.bool).index_fill_(0, at, False)
    return values.new_empty(len(is_old)).masked_scatter_(is_old, values).index_copy_(0, at, new)


def unique(values: Tensor) -> Tensor:
    """`torch.unique` of integers, ascending; on a CPU several times faster."""
    if values.device.type != "cpu":
        return torch.unique(values)
    size = _table_size(values)
    if size:
        has = torch.zeros(size, dtype=torch.bool).index_fill_(0, values.long(), True)
        return true_positions(has).to(values.dtype)
    return torch.unique_consecutive(_ascending(values))


def unique_counts(values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct integers, ascending, and how often each is there, int64; (num_distinct,) each."""
    if values.device.type != "cpu":
        return torch.unique(values, return_counts=True)
    return torch.unique_consecutive(_ascending(values), return_counts=True)


def unique_inverse(values: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.unique` of integers with `return_inverse`, int64 (num_values,); on a CPU several times faster."""
    if values.device.type != "cpu":
        return torch.unique(values, return_inverse=True)
    size = _table_size(values)
    if size:
        found = unique(values)
        place = torch.empty(size, dtype=torch.int64).index_copy_(0, found.long(), torch.arange(len(found)))
        return found, place.index_select(0, values.long())
    ascending, order = sort_with_positions(values)
    found, inverse = torch.unique_consecutive(ascending, return_inverse=True)
    return found, torch.empty_like(order).index_copy_(0, order, inverse)


def _ascending(values: Tensor) -> Tensor:
    """The values, ascending; on a CPU."""
    return torch.from_numpy(np.sort(values.numpy()))


def _table_size(values: Tensor) -> int:
    """Size of a table by value that takes less time than sorting does; 0: sorting takes less."""
    if not len(values):
        return 0
    least, most = map(int, torch.aminmax(values))
    return most + 1 if least >= 0 and most < _TABLE_ROOM * len(values) else 0


def sort_with_positions(values: Tensor) -> tuple[Tensor, Tensor]:
    """A stable `torch.sort` of integers: ascending values, and their positions, int64; (num_values,) each."""
    if values.device.type != "cpu" or not len(values):
        return torch.sort(values, stable=True)
    least, most = map(int, torch.aminmax(values))
    bits, of_position = (most - least).bit_length(), (len(values) - 1).bit_length()
    rest = values.long().numpy() - least
    if bits <= _DIGIT or bits + of_position > _BITS:
        # Digit by digit, the last one first: numpy sorts numbers of 16 bits in linear time.
        rest = rest.view(np.uint64)
        order = np.argsort(rest.astype(np.uint16), kind="stable")
        for shift in range(_DIGIT, bits, _DIGIT):
            digit = (rest >> np.uint64(shift)).astype(np.uint16)
            order = order[np.argsort(digit[order], kind="stable")]
    else:
        # With their positions behind them all numbers differ, and numpy sorts those with vector instructions.
        rest <<= of_position
        rest |= np.arange(len(rest))
        rest.sort()
        order = rest & (2**of_position - 1)
    order = torch.from_numpy(order)
    return values.index_select(0, order), order


def places_in(table: Tensor, keys: Tensor) -> Tensor:
    """`torch.searchsorted`, int64 (num_keys,), faster for many keys in no order on a CPU.

    Args:
        table: Ascending, int64 (num_entries,).
        keys: int64 (num_keys,).
    """
    if len(keys) < _MANY_KEYS or keys.device.type != "cpu":
        return torch.searchsorted(table, keys)
    # Keys in order find in the cache what the key before them has read of the table.
    values = keys.numpy()
    order = np.argsort(values)
    found = np.searchsorted(table.numpy(), values[order])
    return torch.empty_like(keys).index_copy_(0, torch.from_numpy(order), torch.from_numpy(found))


def find_keys(table: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Place of each key in a table, ascending, int64 (num_keys,), and whether the table has it, bool (num_keys,)."""
    if not len(table):
        return torch.zeros_like(keys), torch.zeros_like(keys, dtype=torch.bool)
    place = places_in(table, keys).clamp_(max=len(table) - 1)
    return place, table.index_select(0, place) == keys


@dataclass(frozen=True)
class UniqueRows:
    """Rows of several columns, stored once and referenced by index.

    Attributes:
        columns: (num_stored,) each.
        index: Which of the stored rows each row is, (num_rows,).
    """

    columns: Annotated[tuple[Tensor, ...], Along("stored")]
    index: Annotated[Tensor, Along("rows", "stored")]

    @classmethod
    def of(cls, columns: Sequence[Tensor]) -> "UniqueRows":
        """The distinct rows of columns, int64 (num_rows,) each, of numbers from 0 on."""
        code = columns[0]
        for column in columns[1:] if len(code) else ():
            size = int(column.max()) + 1
            if int(code.max()) >= _MOST_INT64 // size - 1:
                _, code = unique_inverse(code)
            code = code * size + column
        distinct, index = unique_inverse(code)
        example = torch.empty_like(distinct).scatter_(0, index, torch.arange(len(code)))  # any of the equal rows
        return cls(tuple(column.index_select(0, example) for column in columns), index)
