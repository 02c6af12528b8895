"""Cross-entropy with the candidates divided over the ranks."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gam_kg.distributed.communicator import Communicator
from gam_kg.ops.dimensions import Along, Number


@dataclass(frozen=True)
class Targets:
    """The answers in a vector of scores, and how many candidates each score stands for.

    The vector is a table (num_queries, num_columns), then the pairs apart, each of one query.

    Attributes:
        num_queries, num_columns: Size of the table.
        num_candidates: Candidates over all ranks, scored or not.
        query: Query of each answer of the rank, (num_own_answers,).
        position: Position of its score, (num_own_answers,).
        answers_per_query: Answers of each query over all ranks, (num_queries,).
        apart_query: Query of each pair apart, (num_apart,).
        log_weight: Logarithm of how many candidates each column stands for, (num_columns,); None if every weight is
            one; then nothing is apart or masked.
        log_weight_apart: The same of pairs apart, (num_apart,).
        masked: Positions in the table that do not count, (num_masked,).
    """

    num_queries: Annotated[int, Number("queries")]
    num_columns: Annotated[int, Number("columns")]
    num_candidates: int
    query: Annotated[Tensor, Along("own answers", "queries")]
    position: Annotated[Tensor, Along("own answers", "scores")]
    answers_per_query: Annotated[Tensor, Along("queries")]
    apart_query: Annotated[Tensor, Along("apart", "queries")]
    log_weight: Annotated[Tensor | None, Along("columns", padding=-math.inf)]
    log_weight_apart: Annotated[Tensor | None, Along("apart")]
    masked: Annotated[Tensor, Along("masked", "cells")]


def sharded_cross_entropy(scores: Tensor, targets: Targets, *, smoothing: float, communicator: Communicator) -> Tensor:
    """Cross-entropy summed over all answers of all queries.

    For an answer o of query q: −(1 − ε) log p(o|q) − ε/N Σ_v w_v s_v(q) + ε log Z, where p = exp(s_o) / Z, Z = Σ_v w_v
    exp(s_v) over the scores of all ranks and N is the number of candidates. With all weights 1 it is the cross-entropy
    over all candidates; where a drawn candidate stands for w_v of them, the sums are estimates.

    Source: Horvitz & Thompson 1952, eq. 5, for the weights.

    Args:
        scores: This rank's vector of scores, (num_scores,). Overwritten.
        targets: The answers.
        smoothing: ε, label smoothing.
        communicator: The ranks; each gets the global loss and the gradient of its own scores.
    """
    return _ShardedCrossEntropy.apply(scores, targets, smoothing, communicator)


class _ShardedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Targets, smoothing: float, communicator: Communicator) -> Tensor:
        answers = targets.answers_per_query.to(scores.dtype)
        target = torch.zeros_like(answers).index_add_(0, targets.query, scores.index_select(0, targets.position))
        table, apart = _parts(scores, targets)
        weights = _weights(scores, targets)
        if weights is None:
            total = table.sum(1)
        else:
            scores.index_fill_(0, targets.masked.long(), 0.0)
            of_columns, of_apart = (weight.exp() for weight in weights)
            total = torch.mv(table, of_columns).index_add_(0, targets.apart_query, apart * of_apart)
            table.add_(weights[0])
            apart.add_(weights[1])
            scores.index_fill_(0, targets.masked.long(), -torch.inf)
        top = torch.full_like(answers, torch.finfo(scores.dtype).min)
        if targets.num_columns:
            top = torch.maximum(top, table.amax(1))
        top.scatter_reduce_(0, targets.apart_query.long(), apart, "amax")
        table.sub_(top[:, None])
        apart.sub_(top.index_select(0, targets.apart_query))
        scores.exp_()
        sums = table.sum(1).index_add_(0, targets.apart_query, apart)
        # One collective: the sum of each rank, relative to its own maximum, is then scaled to the overall maximum.
        gathered = communicator.gather_even(torch.stack([top, sums, target, total])[None], "softmax")
        tops, sums, target, total = gathered.unbind(1)
        highest = tops.amax(0)
        normaliser = (sums * (tops - highest).exp()).sum(0)
        share = smoothing / targets.num_candidates
        # A padded answer is of a query without answers, and does not count.
        target = target.sum(0) * answers.clamp(max=1)
        loss = answers * (normaliser.log() + highest) - (1 - smoothing) * target - share * answers * total.sum(0)
        ctx.save_for_backward(scores, answers, normaliser * (highest - top).exp())
        ctx.targets, ctx.share, ctx.smoothing = targets, share, smoothing
        return loss.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (scores, answers, normaliser), targets = ctx.saved_tensors, ctx.targets
        table, apart = _parts(scores, targets)
        weighted = answers * grad
        probability, smooth = weighted / normaliser, ctx.share * weighted
        table.mul_(probability[:, None])
        apart.mul_(probability.index_select(0, targets.apart_query))
        weights = _weights(scores, targets)
        if weights is None:
            table.sub_(smooth[:, None])
        else:
            table.addr_(smooth, weights[0].exp(), alpha=-1)
            apart.addcmul_(smooth.index_select(0, targets.apart_query), weights[1].exp(), value=-1)
            scores.index_fill_(0, targets.masked.long(), 0.0)
        hit = (answers.clamp(max=1) * (grad * (ctx.smoothing - 1))).index_select(0, targets.query)
        return scores.index_add_(0, targets.position, hit), None, None, None


def _parts(scores: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """The table and the pairs apart, views."""
    size = targets.num_queries * targets.num_columns
    return scores[:size].view(targets.num_queries, targets.num_columns), scores[size:]


def _weights(scores: Tensor, targets: Targets) -> tuple[Tensor, Tensor] | None:
    """Logarithms of the weights of the columns and of the pairs apart; None where all are one."""
    if targets.log_weight is None or targets.log_weight_apart is None:
        return None
    return targets.log_weight.to(scores.dtype), targets.log_weight_apart.to(scores.dtype)
