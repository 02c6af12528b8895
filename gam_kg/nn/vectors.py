"""Operations on vectors that several parts of the model use."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORTEST = 1e-12
"""A shorter vector has no direction."""


def unit(x: Tensor) -> Tensor:
    """Rows scaled to length one; a zero row stays zero, and gets no gradient. Same shape."""
    return _Unit.apply(x)


class _Unit(torch.autograd.Function):
    """`functional.normalize` with a backward of only three passes over x: every step applies it to all entities."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=SHORTEST)
        out = x / length
        ctx.save_for_backward(out, length)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        out, length = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, out).unsqueeze(-1)
        length = length.masked_fill(length <= SHORTEST, torch.inf)
        return torch.addcmul(grad, out, along, value=-1).div_(length)


def with_selected_rows(x: Tensor, *indices: Tensor) -> tuple[Tensor, ...]:
    """All rows, and copies of selected rows, whose gradients are accumulated in place into that of all rows.

    `index_select` gives the same, but its backward makes a gradient of the size of x for each selection. Here the
    gradient of all rows is overwritten: whatever computed it must not read it afterwards.

    Args:
        x: (num_rows, dim).
        indices: Rows of each selection, int32 or int64 (num_selected,).
    """
    return _WithSelectedRows.apply(x, *indices)


class _WithSelectedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *indices: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*indices)
        return x.view_as(x), *(x.index_select(0, index) for index in indices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_all: Tensor, *of_selected: Tensor) -> tuple[Tensor | None, ...]:
        for index, grad in zip(ctx.saved_tensors, of_selected, strict=True):
            of_all.index_add_(0, index.long(), grad)  # with int32 it is slower
        return of_all, *(None for _ in of_selected)


def segment_log_sum(weight: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """log(1 + sum of exp(weight) over each segment); (num_entries,) → (num_segments,)."""
    total = torch.zeros(num_segments, dtype=weight.dtype, device=weight.device)
    return torch.log1p(total.index_add(0, segment, weight.exp()))
