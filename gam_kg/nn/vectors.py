"""Vector arithmetic shared by the model's parts."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SMALLEST = 1e-12


def unit(x: Tensor) -> Tensor:
    """Rows scaled to length one; a zero row stays zero. Same shape."""
    return _Unit.apply(x)


class _Unit(torch.autograd.Function):
    """`functional.normalize` with a backward of three passes over x: it runs over all entities at every step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=_SMALLEST)
        out = x / length
        ctx.save_for_backward(out, length)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        out, length = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, out).unsqueeze(-1)
        return torch.addcmul(grad, out, along, value=-1).div_(length)


def tapped(x: Tensor, *indices: Tensor) -> tuple[Tensor, ...]:
    """All rows, and beside them some of them, whose gradients are added in place to those of all.

    The gradient of all rows must be nobody else's when it arrives here, as those of `unit` and of products are.

    Args:
        x: (num_rows, dim).
        indices: Of each selection, int64 (num_some,).

    Returns:
        (num_rows, dim), and of each selection (num_some, dim).
    """
    return _Tapped.apply(x, *indices)


class _Tapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *indices: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*indices)
        return x.view_as(x), *(x.index_select(0, index) for index in indices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_all: Tensor, *of_some: Tensor) -> tuple[Tensor | None, ...]:
        for index, grad in zip(ctx.saved_tensors, of_some, strict=True):
            of_all.index_add_(0, index, grad)
        return of_all, *(None for _ in of_some)


def segment_log_sum(weight: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """log(1 + sum of exp(weight) over each segment); (num_links,) → (num_segments,)."""
    total = torch.zeros(num_segments, dtype=weight.dtype, device=weight.device)
    return torch.log1p(total.index_add(0, segment, weight.exp()))
