"""Ragged ranges and distinct values: the index tricks behind every vectorised look-up here."""

import numpy as np
import torch
from torch import Tensor


def ragged_ranges(start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """All positions of the ranges `[start, start + length)`, one after another.

    Args:
        start: First position of each range, int64 (num_ranges,).
        length: Number of positions in each range, int64 (num_ranges,).

    Returns:
        row: Which range each position belongs to, int64 (total,), ascending.
        position: The positions, int64 (total,).
    """
    row = torch.repeat_interleave(length)
    shift = start + length - torch.cumsum(length, 0)
    return row, shift.index_select(0, row).add_(torch.arange(len(row), device=row.device))


def offsets_of(row: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Start and length of each row's run in an ascending `row` vector.

    Args:
        row: int64 (total,), ascending, values in `[0, num_rows)`.
        num_rows: Number of rows, empty ones included.

    Returns:
        start, length: int64 (num_rows,) each.
    """
    length = torch.bincount(row, minlength=num_rows)
    return torch.cumsum(length, 0) - length, length


def where(mask: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """The rows of columns at which a mask is true, found once for all columns.

    Args:
        mask: bool (num_rows,).
        columns: (num_rows, ...) each.
    """
    index = torch.nonzero(mask)[:, 0]
    return tuple(column.index_select(0, index) for column in columns)


def distinct(values: Tensor) -> Tensor:
    """The distinct ones of some integers, ascending: `torch.unique`, on a CPU several times faster."""
    if values.device.type != "cpu":
        return torch.unique(values)
    return torch.unique_consecutive(torch.from_numpy(np.sort(values.numpy())))


def distinct_index(values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ones of some integers, ascending, and which of them each is; int64 (num_values,)."""
    if values.device.type != "cpu":
        return torch.unique(values, return_inverse=True)
    ascending, order = in_order(values)
    found, which = torch.unique_consecutive(ascending, return_inverse=True)
    return found, torch.empty_like(order).index_copy_(0, order, which)


def in_order(values: Tensor) -> tuple[Tensor, Tensor]:
    """Integers from least to greatest, and the position of each; alike ones in order; int64 (num_values,) each."""
    num_bits = max(0, len(values) - 1).bit_length()
    if values.device.type != "cpu" or not len(values):
        return torch.sort(values, stable=True)
    if int(values.min()) < 0 or int(values.max()) >= 2 ** (63 - num_bits):
        order = np.argsort(values.numpy(), kind="stable")
        return torch.from_numpy(values.numpy()[order]), torch.from_numpy(order)
    # Value and position in one number: numpy sorts those several times faster than torch sorts with positions.
    both = np.sort((values.numpy() << num_bits) | np.arange(len(values)))
    return torch.from_numpy(both >> num_bits), torch.from_numpy(both & (2**num_bits - 1))
