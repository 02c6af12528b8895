"""Cross-entropy over sampled candidates that are divided over the ranks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gam_kg.distributed.topology import Topology


@dataclass(frozen=True)
class Sample:
    """What is known of sampled candidates apart from their scores.

    Attributes:
        log_weight: Logarithm of how many candidates each column stands for, (num_columns,).
        replaced: Positions in flat scores of columns that do not count for the query, int64 (num_replaced,).
        query: Query of each candidate that only one query meets, int64 (num_extra,).
        extra_log_weight: Logarithm of how many candidates each of those stands for, (num_extra,).
        answers: Which of those are the rank's answers, of weight one, int64 (num_answers,).
        answers_per_query: Answers of each query over all ranks, (num_queries,).
        num_candidates: N, candidates over all ranks and not only the sampled ones.
    """

    log_weight: Tensor
    replaced: Tensor
    query: Tensor
    extra_log_weight: Tensor
    answers: Tensor
    answers_per_query: Tensor
    num_candidates: int


def sampled_cross_entropy(
    scores: Tensor, extra: Tensor, sample: Sample, *, smoothing: float, topology: Topology
) -> Tensor:
    """Cross-entropy summed over all answers of all queries, with sums over candidates estimated from a sample.

    `sharded_cross_entropy`, in which a sampled candidate of weight w stands for w of them: the softmax's normaliser is
    Σ w exp(score) and the mean of label smoothing Σ w score / N, whose expectations are those over all candidates.

    Source: Horvitz & Thompson 1952, eq. 5, for the sums.

    Args:
        scores: This rank's columns, (num_queries, num_columns). Overwritten.
        extra: Of candidates that only one query meets, (num_extra,).
        sample: What both stand for.
        smoothing: ε, label smoothing.
        topology: The ranks; each gets the global loss and the gradient of its own scores.
    """
    return _SampledCrossEntropy.apply(scores, extra, sample, smoothing, topology)


class _SampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, extra: Tensor, sample: Sample, smoothing: float, topology: Topology
    ) -> Tensor:
        answers, log_weight = sample.answers_per_query.to(scores.dtype), sample.log_weight.to(scores.dtype)
        extra_log_weight = sample.extra_log_weight.to(scores.dtype)
        asked = sample.query.index_select(0, sample.answers)
        target = scores.new_zeros(len(scores)).index_add_(0, asked, extra.index_select(0, sample.answers))
        flat = scores.view(-1)
        flat[sample.replaced] = 0.0
        total = torch.mv(scores, log_weight.exp()).index_add_(0, sample.query, extra * extra_log_weight.exp())
        extra = extra + extra_log_weight
        flat[sample.replaced] = -torch.inf
        scores.add_(log_weight)
        top = torch.full_like(total, torch.finfo(scores.dtype).min)
        if scores.shape[1]:
            top = torch.maximum(top, scores.amax(1))
        top.scatter_reduce_(0, sample.query, extra, "amax")
        exponential = scores.sub_(top[:, None]).exp_()
        of_extra = (extra - top.index_select(0, sample.query)).exp_()
        sums = exponential.sum(1).index_add_(0, sample.query, of_extra)
        # One collective: what each rank has summed against its own maximum is scaled to that of all.
        found = topology.gather_even(torch.stack([top, sums, target, total])[None], "softmax")
        tops, sums, target, total = found.unbind(1)
        highest = tops.amax(0)
        normaliser = (sums * (tops - highest).exp()).sum(0)
        share = smoothing / sample.num_candidates
        loss = (
            answers * (normaliser.log() + highest) - (1 - smoothing) * target.sum(0) - share * answers * total.sum(0)
        ).sum()
        ctx.save_for_backward(exponential, of_extra, answers, normaliser * (highest - top).exp(), log_weight)
        ctx.sample, ctx.share, ctx.smoothing = sample, share, smoothing
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        exponential, of_extra, answers, normaliser, log_weight = ctx.saved_tensors
        sample, smooth = ctx.sample, ctx.share * answers
        gradient = exponential.mul_((answers / normaliser)[:, None]).addr_(smooth, log_weight.exp(), alpha=-1)
        gradient.view(-1)[sample.replaced] = 0.0
        of_extra = of_extra * (answers / normaliser).index_select(0, sample.query)
        extra_weight = sample.extra_log_weight.to(of_extra.dtype).exp()
        of_extra = of_extra.addcmul_(smooth.index_select(0, sample.query), extra_weight, value=-1)
        of_extra[sample.answers] -= 1 - ctx.smoothing
        return gradient.mul_(grad), of_extra * grad, None, None, None
