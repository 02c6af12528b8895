"""1-vs-all cross-entropy with the candidates divided over the ranks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gam_kg.distributed.topology import Topology


@dataclass(frozen=True)
class Targets:
    """Answers of a block of queries, as a rank sees them.

    Attributes:
        query: Query of each answer that this rank owns, int64 (num_local_answers,).
        candidate: Its column in the rank's scores, int64 (num_local_answers,).
        answers_per_query: Answers of each query over all ranks, (num_queries,).
    """

    query: Tensor
    candidate: Tensor
    answers_per_query: Tensor


def sharded_cross_entropy(
    scores: Tensor, targets: Targets, *, num_candidates: int, smoothing: float, topology: Topology
) -> Tensor:
    """Cross-entropy summed over all answers of all queries.

    For an answer o of query q: −(1 − ε) log p(o|q) − ε/N Σ_v log p(v|q), where p is the softmax over the candidates of
    all ranks.

    Args:
        scores: This rank's columns, (num_queries, num_local_candidates). Overwritten.
        targets: The answers.
        num_candidates: N, candidates over all ranks.
        smoothing: ε, label smoothing.
        topology: The ranks; each gets the global loss and the gradient of its own columns.
    """
    return _ShardedCrossEntropy.apply(scores, targets, num_candidates, smoothing, topology)


class _ShardedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, targets: Targets, num_candidates: int, smoothing: float, topology: Topology
    ) -> Tensor:
        weight = targets.answers_per_query.to(scores.dtype)
        top = topology.max(scores.amax(1) if scores.shape[1] else scores.new_full((len(scores),), -torch.inf))
        shifted = scores.sub_(top[:, None])
        target = torch.zeros_like(top).index_add_(0, targets.query, shifted[targets.query, targets.candidate])
        total = shifted.sum(1)
        shifted.exp_()
        normaliser, target, total = topology.sum(torch.stack([shifted.sum(1), target, total]))
        loss = (
            weight * normaliser.log() - (1 - smoothing) * target - smoothing / num_candidates * weight * total
        ).sum()
        ctx.save_for_backward(shifted, weight, normaliser)
        ctx.targets, ctx.share, ctx.smoothing = targets, smoothing / num_candidates, smoothing
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        exponential, weight, normaliser = ctx.saved_tensors
        gradient = exponential.mul_((weight / normaliser)[:, None]).sub_((ctx.share * weight)[:, None])
        hit = torch.full_like(ctx.targets.query, -(1 - ctx.smoothing), dtype=gradient.dtype)
        gradient.index_put_((ctx.targets.query, ctx.targets.candidate), hit, accumulate=True)
        return gradient.mul_(grad), None, None, None, None
