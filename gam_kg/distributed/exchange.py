"""Rows of vectors sent between ranks, with gradients: gathered by all, or exchanged with those that need them.

The backward of an all-gather is a reduce-scatter, that of an all-to-all is an all-to-all with the splits swapped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gam_kg.distributed.communicator import Communicator, padded
from gam_kg.graph.message_graph import HaloPlan
from gam_kg.ops.ragged import row_ranges


@dataclass(frozen=True)
class GatherPlan:
    """Where gathered rows come from.

    Attributes:
        index: Place of each row among the padded rows of all ranks, (num_rows,).
        width: Padded number of rows per rank.
        world_size: Number of ranks.
    """

    index: Tensor
    width: int
    world_size: int

    @classmethod
    def of(cls, owner: Tensor, world_size: int) -> "GatherPlan":
        """The plan, given each row's owner, int64 (num_rows,); a rank passes its rows in ascending order."""
        sorted_owner, order = torch.sort(owner, stable=True)
        start, count = row_ranges(sorted_owner, world_size)
        width = int(count.max())
        within = torch.arange(len(owner), device=owner.device) - start[sorted_owner]
        index = torch.empty_like(owner).index_copy_(0, order, sorted_owner * width + within)
        return cls(index, width, world_size)

    @classmethod
    def joined(cls, plans: Sequence["GatherPlan"]) -> "GatherPlan":
        """The plan of the rows of one plan after those of another."""
        return cls.of(torch.cat([plan.index // plan.width for plan in plans]), plans[0].world_size)


def gather_rows(rows: Tensor, plan: GatherPlan, communicator: Communicator) -> Tensor:
    """Gather rows of all ranks, (num_own, dim) → (num_rows, dim)."""
    return _GatherRows.apply(rows, plan, communicator)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: GatherPlan, communicator: Communicator) -> Tensor:
        ctx.plan, ctx.communicator, ctx.num_own = plan, communicator, len(rows)
        return communicator.gather_even(padded(rows, plan.width), "queries").index_select(0, plan.index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        full = grad.new_zeros(ctx.communicator.world_size * ctx.plan.width, *grad.shape[1:])
        full.index_add_(0, ctx.plan.index, grad)
        return ctx.communicator.reduce_scatter(full, "queries")[: ctx.num_own], None, None


def exchange_rows(rows: Tensor, plan: HaloPlan, communicator: Communicator) -> Tensor:
    """Rows of other ranks' entities that this rank needs, in exchange for those that they need.

    Args:
        rows: This rank's, (num_rows, dim).
        plan: What to send and to receive.
        communicator: The ranks.

    Returns:
        (num_received, dim), one rank after another.
    """
    return _ExchangeRows.apply(rows, plan, communicator)


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: HaloPlan, communicator: Communicator) -> Tensor:
        ctx.plan, ctx.communicator, ctx.shape = plan, communicator, rows.shape
        communicator.traffic.halo_rows += sum(plan.receive_counts)
        return communicator.all_to_all(rows.index_select(0, plan.send), plan.send_counts, plan.receive_counts, "halo")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan = ctx.plan
        back = ctx.communicator.all_to_all(grad, plan.receive_counts, plan.send_counts, "halo")
        return grad.new_zeros(ctx.shape).index_add_(0, plan.send, back), None, None
