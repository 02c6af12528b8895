"""Products of dense matrices with a sparse one in CSR form, and at the entries of one (SDDMM).

Index tensors are int32 or int64, the same in all arguments of a call.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gam_kg.ops.ragged import ragged_ranges, sort_with_positions


@dataclass(frozen=True)
class CSRPattern:
    """The entries of a sparse matrix without their values, row by row; duplicates are allowed.

    Attributes:
        offsets: The entries of row i are `[offsets[i], offsets[i + 1])`, (num_rows + 1,).
        row, column: Row and column of each entry, (num_entries,).
        transposed: For gradients, the entries' positions sorted by column, int64 (num_entries,), and the offsets of the
            columns in that order, (num_columns + 1,).
    """

    offsets: Tensor
    row: Tensor
    column: Tensor
    transposed: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, offsets: Tensor, column: Tensor, num_columns: int) -> "CSRPattern":
        """The pattern with these offsets and columns; transposed if gradients are enabled."""
        offsets = offsets.to(column.dtype)
        transposed = sort_by_row(column, num_columns) if torch.is_grad_enabled() else None
        return cls(offsets, torch.repeat_interleave(offsets.diff()), column, transposed)

    @classmethod
    def joined(cls, patterns: "Sequence[CSRPattern]", first_column: Sequence[int] | None) -> "CSRPattern":
        """The rows of one pattern after those of another.

        Args:
            patterns: One at least.
            first_column: What is added to the columns of each, which are then its own; None: all have the same columns.
        """
        entries = [0, *accumulate(len(pattern.row) for pattern in patterns)]
        rows = accumulate((len(pattern.offsets) - 1 for pattern in patterns), initial=0)
        shifts = first_column or [0] * len(patterns)
        column = torch.cat([pattern.column + shift for pattern, shift in zip(patterns, shifts, strict=True)])
        transposed = [pattern.transposed for pattern in patterns if pattern.transposed is not None]
        if not transposed:
            by_column = None
        elif first_column is None:
            by_column = sort_by_row(column, len(transposed[0][1]) - 1)
        else:
            order, offsets = zip(*transposed, strict=True)
            by_column = _joined_from(order, entries), _joined_offsets(offsets, entries)
        return cls(
            _joined_offsets([pattern.offsets for pattern in patterns], entries),
            _joined_from([pattern.row for pattern in patterns], rows),
            column,
            by_column,
        )

    def select(self, rows: Tensor, num_columns: int) -> tuple["CSRPattern", Tensor]:
        """The pattern of some rows, integer (num_selected,), and which of the entries here are its entries."""
        start = self.offsets[rows]
        length = self.offsets[rows + 1] - start
        entry = ragged_ranges(start, length)[1]
        return CSRPattern.of(csr_offsets(length), self.column[entry], num_columns), entry

    def product(self, value: Tensor, right: Tensor) -> Tensor:
        """`spmm` with these values of the entries."""
        return spmm(self.offsets, self.column, value, right)

    def transposed_product(self, value: Tensor, right: Tensor) -> Tensor:
        """The product of the transposed matrix with a dense one, (num_rows, width) → (num_columns, width)."""
        assert self.transposed is not None, "the pattern was made while gradients were disabled"
        order, offsets = self.transposed
        return spmm(offsets, self.row.index_select(0, order), value.index_select(0, order), right)


def _joined_from(values: Sequence[Tensor], starts: Iterable[int]) -> Tensor:
    return torch.cat([value + start for value, start in zip(values, starts, strict=False)])


def _joined_offsets(offsets: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    return torch.cat([offsets[0][:1], _joined_from([one[1:] for one in offsets], starts)])


def csr_offsets(length: Tensor) -> Tensor:
    """Offsets of rows with `length` entries each, int64 (num_rows + 1,)."""
    return functional.pad(torch.cumsum(length, 0), (1, 0))


def rows_from_runs(key: Tensor) -> tuple[Tensor, Tensor]:
    """The key of each run of entries with the same key, (num_rows,), and the runs' offsets, int64 (num_rows + 1,)."""
    run, length = torch.unique_consecutive(key, return_counts=True)
    return run, csr_offsets(length)


def sort_by_row(row: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Positions of entries sorted by row, int64 (num_entries,), and the rows' offsets, (num_rows + 1,).

    Args:
        row: Row of each entry, (num_entries,).
        num_rows: Number of rows.
    """
    _, order = sort_with_positions(row)
    return order, csr_offsets(torch.bincount(row, minlength=num_rows)).to(row.dtype)


def spmm(offsets: Tensor, column: Tensor, value: Tensor, right: Tensor) -> Tensor:
    """The product of a sparse matrix in CSR form with a dense one, (num_rows, width); zero in rows without entries.

    Args:
        offsets: Offsets of the rows, (num_rows + 1,).
        column: Column of each entry, (num_entries,).
        value: Value of each entry, (num_entries,).
        right: (num_columns, width).
    """
    return functional.embedding_bag(
        column, right, offsets, mode="sum", include_last_offset=True, per_sample_weights=value
    )


def sddmm(left: Tensor, right: Tensor, pattern: CSRPattern) -> Tensor:
    """The elements of `left @ right.T` at the entries of a pattern, with gradients.

    Forward and backward (two `spmm`) make nothing of the size entries × width.

    Args:
        left: (num_rows, width).
        right: (num_columns, width).
        pattern: Which elements, of a matrix (num_rows, num_columns).

    Returns:
        (num_entries,), of the wider dtype of both.
    """
    dtype = torch.promote_types(left.dtype, right.dtype)
    return _SDDMM.apply(left.to(dtype), right.to(dtype), pattern)


def sddmm_kernel(left: Tensor, right: Tensor, offsets: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """`sddmm` without gradients, for one dtype; the last three are those of a `CSRPattern`.

    `torch.sparse.sampled_addmm` is no alternative: it drops entries where duplicates outnumber the pairs there are.
    """
    # The gradient of `embedding_bag` with respect to its weights is exactly this; 0 is the mode "sum".
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(left, right, column, offsets[:-1], row, 0)


class _SDDMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, pattern: CSRPattern) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.pattern = pattern
        return sddmm_kernel(left, right, pattern.offsets, pattern.row, pattern.column)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (left, right), pattern = ctx.saved_tensors, ctx.pattern
        return pattern.product(grad, right), pattern.transposed_product(grad, left), None
