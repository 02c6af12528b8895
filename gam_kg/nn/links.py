"""Inner products of chosen pairs of rows, without a vector for each pair.

Links come row by row: row i of `left` has the links `[offsets[i], offsets[i + 1])`, as in a CSR matrix.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_products = torch.ops.aten._embedding_bag_per_sample_weights_backward
_SUM = 0


def link_runs(key: Tensor) -> tuple[Tensor, Tensor]:
    """Consecutive links of one key, taken as one row.

    Args:
        key: int64 (num_links,); in any order, but links of one key are best kept together.

    Returns:
        Key of each run, int64 (num_runs,), and the runs' offsets, int64 (num_runs + 1,).
    """
    run, count = torch.unique_consecutive(key, return_counts=True)
    return run, _offsets(count)


def linked_products(left: Tensor, right: Tensor, offsets: Tensor, link_right: Tensor) -> Tensor:
    """⟨left row, right row⟩ at each link.

    The forward is a sampled dense-dense product, the backward two sparse-dense ones: nothing of the size links × width
    is made.

    Args:
        left: (num_left, width).
        right: (num_right, width).
        offsets: Where the links of each left row start, and where the last end, int64 (num_left + 1,).
        link_right: Right row of each link, int64 (num_links,); duplicates are fine.

    Returns:
        (num_links,), of the wider dtype of both.
    """
    dtype = torch.promote_types(left.dtype, right.dtype)
    return _LinkedProducts.apply(left.to(dtype), right.to(dtype), offsets, link_right)


class _LinkedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, offsets: Tensor, link_right: Tensor) -> Tensor:
        link_left = torch.repeat_interleave(offsets.diff())
        ctx.save_for_backward(left, right, offsets, link_left, link_right)
        # `torch.sparse.sampled_addmm` is no alternative: it drops links where duplicates outnumber the pairs there are.
        return _products(left, right, link_right, offsets[:-1], link_left, _SUM)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        left, right, offsets, link_left, link_right = ctx.saved_tensors
        # Links by right row: 32 bits sort in half the time of 64.
        order = torch.sort(link_right.int(), stable=True).indices
        right_offsets = _offsets(torch.bincount(link_right, minlength=len(right)))
        of_left = _weighted_sums(right, link_right, offsets, grad)
        of_right = _weighted_sums(left, link_left[order], right_offsets, grad[order])
        return of_left, of_right, None, None


def _weighted_sums(rows: Tensor, index: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """A CSR matrix times `rows`."""
    return functional.embedding_bag(
        index, rows, offsets, mode="sum", include_last_offset=True, per_sample_weights=weight
    )


def _offsets(count: Tensor) -> Tensor:
    return functional.pad(torch.cumsum(count, 0), (1, 0))
