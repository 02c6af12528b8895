"""Ragged ranges, unique values and selections: vectorised indexing that torch lacks, or has slower on a CPU."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
    index = torch.nonzero(mask)[:, 0]
    return tuple(column.index_select(0, index) for column in columns)


def unique(values: Tensor) -> Tensor:
    """`torch.unique` of integers, ascending; on a CPU several times faster."""
    if values.device.type != "cpu":
        return torch.unique(values)
    return torch.unique_consecutive(torch.from_numpy(np.sort(values.numpy())))


def unique_counts(values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct integers, ascending, and how often each is there, int64; (num_distinct,) each."""
    if values.device.type == "cpu":  # numpy sorts numbers several times faster than torch
        values = torch.from_numpy(np.sort(values.numpy()))
        return torch.unique_consecutive(values, return_counts=True)
    return torch.unique(values, return_counts=True)


def unique_inverse(values: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.unique` of integers with `return_inverse`, int64 (num_values,); on a CPU several times faster."""
    if values.device.type != "cpu":
        return torch.unique(values, return_inverse=True)
    ascending, order = sort_with_positions(values)
    found, inverse = torch.unique_consecutive(ascending, return_inverse=True)
    return found, torch.empty_like(order).index_copy_(0, order, inverse)


def sort_with_positions(values: Tensor) -> tuple[Tensor, Tensor]:
    """A stable `torch.sort` of integers: ascending values, and their positions, int64; (num_values,) each."""
    num_bits = max(0, len(values) - 1).bit_length()
    if values.device.type != "cpu" or not len(values):
        return torch.sort(values, stable=True)
    if int(values.min()) < 0 or int(values.max()) >= 2 ** (63 - num_bits):
        order = np.argsort(values.numpy(), kind="stable")
        return torch.from_numpy(values.numpy()[order]), torch.from_numpy(order)
    # Value and position in one number: numpy sorts those several times faster than torch sorts with positions.
    both = np.sort((values.long().numpy() << num_bits) | np.arange(len(values)))
    return torch.from_numpy(both >> num_bits).to(values.dtype), torch.from_numpy(both & (2**num_bits - 1))


_MOST_INT64 = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class UniqueRows:
    """Rows of several columns, stored once and referenced by index.

    Attributes:
        columns: (num_stored,) each.
        index: Which of the stored rows each row is, (num_rows,).
    """

    columns: tuple[Tensor, ...]
    index: Tensor

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
