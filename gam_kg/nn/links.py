"""Inner products of chosen pairs of rows, without a vector for each pair.

Links come row by row: row i of `left` has the links `[offsets[i], offsets[i + 1])`, as in a CSR matrix.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gam_kg.data.ragged import in_order

_SUM = 0  # `embedding_bag`'s number of the mode


def link_runs(key: Tensor) -> tuple[Tensor, Tensor]:
    """Consecutive links of one key, taken as one row.

    Args:
        key: int64 (num_links,); in any order, but links of one key are best kept together.

    Returns:
        Key of each run, int64 (num_runs,), and the runs' offsets, int64 (num_runs + 1,).
    """
    run, count = torch.unique_consecutive(key, return_counts=True)
    return run, _offsets(count)


def link_offsets(row: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Sort links by row.

    Args:
        row: Row of each link, int64 (num_links,).
        num_rows: Number of rows.

    Returns:
        The order, int64 (num_links,), and the rows' offsets in it, int64 (num_rows + 1,).
    """
    _, order = in_order(row)
    return order, _offsets(torch.bincount(row, minlength=num_rows))


def link_products(left: Tensor, right: Tensor, offsets: Tensor, link_left: Tensor, link_right: Tensor) -> Tensor:
    """A sampled dense-dense product, without gradients; arguments as of `linked_products`.

    `torch.sparse.sampled_addmm` is no alternative: it drops links where duplicates outnumber the pairs there are.
    """
    # The gradient of `embedding_bag` with respect to its weights is just that.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right, link_right, offsets[:-1], link_left, _SUM
    )


def link_sums(rows: Tensor, index: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """A sparse-dense product: weighted rows, summed over each row's links.

    Args:
        rows: (num_right, width).
        index: Which of them each link takes, int64 (num_links,).
        offsets: Of the links, int64 (num_left + 1,).
        weight: Of each link, (num_links,).

    Returns:
        (num_left, width); zero without links.
    """
    return functional.embedding_bag(
        index, rows, offsets, mode="sum", include_last_offset=True, per_sample_weights=weight
    )


@dataclass(frozen=True)
class Links:
    """Which rows of two matrices are multiplied.

    Attributes:
        offsets: Where the links of each left row start, and where the last end, int64 (num_left + 1,).
        left, right: Rows of each link, int64 (num_links,); duplicates are fine.
        turned: For gradients, the links in the order of their right rows, int64 (num_links,), and where those of each
            right row start, and where the last end, int64 (num_right + 1,).
    """

    offsets: Tensor
    left: Tensor
    right: Tensor
    turned: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, offsets: Tensor, right: Tensor, num_right: int) -> "Links":
        """Links of left rows; arguments as the attributes."""
        turned = link_offsets(right, num_right) if torch.is_grad_enabled() else None
        return cls(offsets, torch.repeat_interleave(offsets.diff()), right, turned)


def linked_products(left: Tensor, right: Tensor, links: Links) -> Tensor:
    """⟨left row, right row⟩ at each link.

    The forward is a sampled dense-dense product, the backward two sparse-dense ones: nothing of the size links × width
    is made.

    Args:
        left: (num_left, width).
        right: (num_right, width).
        links: Which rows are multiplied.

    Returns:
        (num_links,), of the wider dtype of both.
    """
    dtype = torch.promote_types(left.dtype, right.dtype)
    return _LinkedProducts.apply(left.to(dtype), right.to(dtype), links)


class _LinkedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, links: Links) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.links = links
        return link_products(left, right, links.offsets, links.left, links.right)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (left, right), links = ctx.saved_tensors, ctx.links
        of_left = link_sums(right, links.right, links.offsets, grad)
        assert links.turned is not None, "the links were made where gradients were switched off"
        order, offsets = links.turned
        left_row, weight = links.left.index_select(0, order), grad.index_select(0, order)
        return of_left, link_sums(left, left_row, offsets, weight), None


def _offsets(count: Tensor) -> Tensor:
    return functional.pad(torch.cumsum(count, 0), (1, 0))
