"""Rows of vectors that cross between ranks, with gradients: gathered by all, or exchanged with those that need them.

The backward of an all-gather is a reduce-scatter, that of an all-to-all is an all-to-all with the splits swapped.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gam_kg.distributed.topology import Topology, padded


@dataclass(frozen=True)
class Layout:
    """Where gathered rows come from.

    Attributes:
        own: Which of the rows this rank has, int64 (num_own,), ascending.
        index: Place of each row among the padded rows of all ranks, int64 (num_rows,).
        width: Padded number of rows a rank.
    """

    own: Tensor
    index: Tensor
    width: int

    @classmethod
    def of(cls, owner: Tensor, topology: Topology) -> "Layout":
        """Layout of rows by the rank that has each, int64 (num_rows,); each rank has its own in their order."""
        order = torch.argsort(owner, stable=True)
        count = torch.bincount(owner, minlength=topology.world_size)
        start = torch.cumsum(count, 0) - count
        width = int(count.max())
        index = torch.empty_like(owner)
        sorted_owner = owner[order]
        within = torch.arange(len(owner), device=owner.device) - start[sorted_owner]
        index[order] = sorted_owner * width + within
        return cls(torch.nonzero(owner == topology.rank)[:, 0], index, width)


def gather_rows(rows: Tensor, layout: Layout, topology: Topology, purpose: str) -> Tensor:
    """All rows from those of each rank.

    Args:
        rows: This rank's, (num_own, dim).
        layout: Who has which.
        topology: The ranks.
        purpose: What the rows are for.

    Returns:
        (num_rows, dim).
    """
    return _GatherRows.apply(rows, layout, topology, purpose)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: Layout, topology: Topology, purpose: str) -> Tensor:
        ctx.layout, ctx.topology, ctx.purpose, ctx.num_own = layout, topology, purpose, len(rows)
        return topology.gather_even(padded(rows, layout.width), purpose)[layout.index]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        full = grad.new_zeros(ctx.topology.world_size * ctx.layout.width, *grad.shape[1:])
        full[ctx.layout.index] = grad
        return ctx.topology.reduce_scatter(full, ctx.purpose)[: ctx.num_own], None, None, None


@dataclass(frozen=True)
class HaloPlan:
    """Which rows go to which rank, and how many come from each.

    Attributes:
        send: Rows to send, one rank after another, int64 (num_sent,).
        send_counts, receive_counts: Rows by rank.
    """

    send: Tensor
    send_counts: list[int]
    receive_counts: list[int]


def exchange_rows(rows: Tensor, plan: HaloPlan, topology: Topology, purpose: str = "halo") -> Tensor:
    """Rows of other ranks' entities that this rank needs, in exchange for those that they need.

    Args:
        rows: This rank's, (num_rows, dim).
        plan: What to send and to receive.
        topology: The ranks.
        purpose: What the rows are for.

    Returns:
        (num_received, dim), one rank after another.
    """
    return _ExchangeRows.apply(rows, plan, topology, purpose)


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: HaloPlan, topology: Topology, purpose: str) -> Tensor:
        ctx.plan, ctx.topology, ctx.purpose, ctx.shape = plan, topology, purpose, rows.shape
        topology.traffic.halo_rows += sum(plan.receive_counts)
        return topology.all_to_all(rows[plan.send], plan.send_counts, plan.receive_counts, purpose)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan = ctx.plan
        back = ctx.topology.all_to_all(grad, plan.receive_counts, plan.send_counts, ctx.purpose)
        return grad.new_zeros(ctx.shape).index_add_(0, plan.send, back), None, None, None
