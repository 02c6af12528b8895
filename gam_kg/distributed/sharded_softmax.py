"""1-vs-all cross-entropy with the candidates divided over the ranks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gam_kg.data.partition import Partition
from gam_kg.data.snapshot import Queries
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

    @classmethod
    def of(cls, queries: Queries, partition: Partition) -> "Targets":
        """The answers of queries, alike on all ranks, that are entities of the partition."""
        owned = partition.owns(queries.answer)
        per_query = torch.bincount(queries.answer_query, minlength=len(queries))
        return cls(queries.answer_query[owned], partition.rows(queries.answer[owned]), per_query)


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
        top = scores.amax(1) if scores.shape[1] else scores.new_full((len(scores),), torch.finfo(scores.dtype).min)
        target = torch.zeros_like(top).index_add_(0, targets.query, scores[targets.query, targets.candidate])
        total = scores.sum(1)
        exponential = scores.sub_(top[:, None]).exp_()
        # One collective: what each rank has summed against its own maximum is scaled to that of all.
        sums = torch.stack([top, exponential.sum(1), target, total])
        tops, sums, target, total = topology.gather_even(sums[None], "softmax").unbind(1)
        highest = tops.amax(0)
        normaliser = (sums * (tops - highest).exp()).sum(0)
        loss = (
            weight * (normaliser.log() + highest)
            - (1 - smoothing) * target.sum(0)
            - smoothing / num_candidates * weight * total.sum(0)
        ).sum()
        ctx.save_for_backward(exponential, weight, normaliser * (highest - top).exp())
        ctx.targets, ctx.share, ctx.smoothing = targets, smoothing / num_candidates, smoothing
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        exponential, weight, normaliser = ctx.saved_tensors
        weight = weight * grad
        gradient = exponential.mul_((weight / normaliser)[:, None]).sub_((ctx.share * weight)[:, None])
        hit = (grad * (ctx.smoothing - 1)).expand(len(ctx.targets.query))
        gradient.index_put_((ctx.targets.query, ctx.targets.candidate), hit, accumulate=True)
        return gradient, None, None, None, None
