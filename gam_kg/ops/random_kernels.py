"""Dropout and randomised leaky ReLU as one Triton kernel each way, with the numbers of `RowRNG`.

A kernel makes the numbers again wherever they are needed: nothing of a mask is stored. Each element is computed on its
own, without atomics, so the results are deterministic, and equal to those of torch to the last bit.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from gam_kg.ops.counter_rng import RowRNG, column_hashes, dropout_threshold

_BLOCK = 2048  # elements of a program
_WIDEST = 256  # columns of a program


def dropout(x: Tensor, share: float, rng: RowRNG, site: str) -> Tensor:
    """See `gam_kg.nn.dropout.dropout`; x is float32 or float64 (num_rows, columns)."""
    draw = {
        "threshold": dropout_threshold(share),
        "scale": 1 / (1 - share),
        "least": 0.0,
        "span": 0.0,
        "is_rrelu": False,
    }
    return _RandomScale.apply(x, rng.row_hashes(site), draw)


def rrelu(x: Tensor, low: float, high: float, rng: RowRNG, site: str) -> Tensor:
    """See `gam_kg.nn.dropout.rrelu`, with slopes between `low` and `high`; x as for `dropout`."""
    draw = {"threshold": 0, "scale": 1.0, "least": low, "span": high - low, "is_rrelu": True}
    return _RandomScale.apply(x, rng.row_hashes(site), draw)


def try_out(device: torch.device) -> None:
    """Compile and run the kernel once; raises whatever goes wrong."""
    row = torch.zeros(1, dtype=torch.int32, device=device)
    dropout(torch.zeros(1, 1, device=device), 0.5, RowRNG(("try",), row[None]), "try")


class _RandomScale(torch.autograd.Function):
    """x times a factor that does not depend on it, except on its sign: the gradient is multiplied by the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, draw: dict[str, Any]) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(rows, *([x] if draw["is_rrelu"] else []))
        ctx.draw = draw
        return _scaled(x, x, rows, draw)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, *x = ctx.saved_tensors
        grad = grad.contiguous()
        return _scaled(grad, x[0] if x else grad, rows, ctx.draw), None, None


def _scaled(value: Tensor, signed: Tensor, rows: Tensor, draw: dict[str, Any]) -> Tensor:
    out, (num_rows, columns) = torch.empty_like(value), value.shape
    if not value.numel():
        return out
    wide = min(triton.next_power_of_2(columns), _WIDEST)
    high = _BLOCK // wide
    grid = triton.cdiv(num_rows, high), triton.cdiv(columns, wide)
    with torch.cuda.device_of(value):  # Triton launches on the current device
        scale_kernel[grid](
            value,
            signed,
            rows.contiguous(),
            column_hashes(columns, value.device),
            out,
            num_rows,
            columns,
            **draw,
            block_rows=high,
            block_columns=wide,
            enable_fp_fusion=False,  # torch rounds the product before it adds
        )
    return out


# Sizes of steps vary, and rows of hashes start anywhere: neither makes another kernel.
@triton.jit(do_not_specialize=["num_rows"], do_not_specialize_on_alignment=["rows"])
def scale_kernel(
    value,
    signed,
    rows,
    column_hashes,
    out,
    num_rows,
    columns,
    threshold: tl.constexpr,
    scale: tl.constexpr,
    least: tl.constexpr,
    span: tl.constexpr,
    is_rrelu: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    """Multiply each element of a block by its random factor; see `RowRNG.bits` for the hash."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    column = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    row_hash = tl.load(rows + row, mask=row < num_rows, other=0).to(tl.int32)
    column_hash = tl.load(column_hashes + column, mask=column < columns, other=0)
    inside = (row < num_rows)[:, None] & (column < columns)[None, :]
    at = row[:, None].to(tl.int64) * columns + column[None, :]
    x = row_hash[:, None] + column_hash[None, :]
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * -0x7B935975  # 0x846CA68B as a signed integer
    element = tl.load(value + at, mask=inside, other=0)
    if is_rrelu:
        uniform = ((x >> 8).to(tl.float32) + 8388608.0) * 5.9604644775390625e-08  # 2^23 and 2^-24
        slope = (uniform * span + least).to(element.dtype)
        factor = tl.where(tl.load(signed + at, mask=inside, other=0) >= 0, 1.0, slope)
    else:
        scales = tl.full((block_rows, block_columns), scale, element.dtype)  # a plain number would be of 32 bits
        factor = tl.where(x >= threshold, scales, 0.0)
    tl.store(out + at, element * factor, mask=inside)
