"""Ranks of the true answers among all candidates, with the realistic treatment of ties.

The realistic rank is 1 + #greater + #equal/2: the mean position of the target over all orders of the candidates
that score the same. Optimistic ranks (ties below the target) and ranks by sort order (ties by position) favour scorers
with many equal scores; neither is offered.

Candidates may be divided over ranks, which send each other the scores of answers and counts. Scores need not be written
out for all candidates: `Scores` are a table, `SparseScores` or `ProductScores`.

Target and candidate score of an answer must be the same number: recomputed, rounding gives the best answer rank 0.5 or
1.5.

Time-aware filter: other true answers of the same (subject, relation, ?, time) do not count against the target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gam_kg.errors import EvaluationError
from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Queries

_SCORES_AT_ONCE = 64_000_000


class Scores(Protocol):
    """Scores that queries give to a rank's candidates, higher is better."""

    @property
    def device(self) -> torch.device:
        """Where scores and targets are."""
        ...

    def of(self, query: Tensor, row: Tensor) -> Tensor:
        """The scores of some pairs, float (num_pairs,).

        Args:
            query: int64 (num_pairs,).
            row: Rows of candidates in the shard, int64 (num_pairs,).
        """
        ...

    def compare(self, query: Tensor, target: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Compare all candidates with targets.

        The realistic rank counts ties by half, so `rivals` counts twice: a candidate above the target 2, a tie 1.

        Args:
            query: Query of each target, ascending, int64 (num_targets,).
            target: Scores, float (num_targets,).
            row: Row of the answer that each target is the score of; -1 if another rank has it. `compare` must reproduce
                the score exactly; int64 (num_targets,).

        Returns:
            rivals: #above + #at least the target, over the candidates; int64 (num_targets,).
            bad: Whether any score of a query is NaN or infinite, bool (num_queries,).
        """
        ...


@dataclass(frozen=True)
class Ranks:
    """Realistic rank of each answer, best is 1.

    Attributes:
        raw: Among all candidates, float64 (num_answers,).
        time_aware: Without the other true answers of the same query, float64 (num_answers,).
    """

    raw: Tensor
    time_aware: Tensor


def rank_answers(
    scores: Tensor | Scores,
    queries: Queries,
    partition: Partition | None = None,
    total: Callable[[Tensor], Tensor] = lambda value: value,
) -> Ranks:
    """Rank the answers of queries. A collective, that gives all ranks the same.

    Args:
        scores: Scores of this rank's candidates, as `Scores` or as a table (num_queries, num_rows), higher is better.
        queries: The queries and their answers, alike on all ranks.
        partition: The rank's candidates; None: all entities, the columns of the table.
        total: Sums over the ranks, in place.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    if isinstance(scores, Tensor):
        partition, scores = partition or Partition(scores.shape[1]), TableScores(scores)
    elif partition is None:
        raise ValueError("a partition is required unless scores are a table")
    row = torch.where(partition.owns(queries.answer), partition.rows(queries.answer), -1).to(scores.device)
    query, own = queries.answer_query.to(scores.device), torch.nonzero(row >= 0)[:, 0]
    score = scores.of(query[own], row[own])
    target = total(score.new_zeros(len(query)).index_copy_(0, own, score))
    rivals, bad = scores.compare(query, target, row)
    rivals, bad = total(torch.cat([rivals, bad.long()])).split([len(rivals), len(bad)])
    if bad.any():
        first = int(bad.argmax())
        raise EvaluationError(
            f"a score of the query (subject {queries.subject[first]}, relation {queries.relation[first]}, ?) at "
            f"snapshot {queries.time} is NaN or infinite, so it has no rank; lower train.learning_rate and train again"
        )
    # 1 + #greater + #equal/2 = (1 + #greater + #at least)/2, since the target itself is at least the target.
    known = _compare_answers(target, query, len(queries))
    return Ranks(raw=(1 + rivals).double() / 2, time_aware=(1 + rivals - known).double() / 2)


def rivals_of(candidates: Tensor, target: Tensor) -> Tensor:
    """`Scores.compare` on a table with one row of candidate scores per target, (num_targets, num_candidates)."""
    target = target[:, None]
    return (candidates > target).sum(1) + (candidates >= target).sum(1)


@dataclass(frozen=True)
class TableScores:
    """`Scores` of all candidates, written out, (num_queries, num_rows)."""

    table: Tensor

    @property
    def device(self) -> torch.device:
        return self.table.device

    def of(self, query: Tensor, row: Tensor) -> Tensor:
        return self.table[query, row]

    def compare(self, query: Tensor, target: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        if self.table.device.type == "cpu":
            # Numpy compares several times faster than torch, and counts in a row faster than along an axis.
            table = self.table.numpy()
            pairs = zip(query.tolist(), target.numpy(), strict=True)
            counts = [np.count_nonzero(table[at] > score) + np.count_nonzero(table[at] >= score) for at, score in pairs]
            return torch.tensor(counts, dtype=torch.int64), not_finite(self.table)
        rivals = torch.empty_like(query)
        for rows in torch.arange(len(target)).split(max(1, _SCORES_AT_ONCE // max(1, self.table.shape[1]))):
            rivals[rows] = rivals_of(self.table[query[rows]], target[rows])
        return rivals, not_finite(self.table)


def not_finite(scores: Tensor) -> Tensor:
    """Whether a row has a score that is NaN or infinite, bool (num_rows,)."""
    bad = ~torch.isfinite(scores.sum(1))
    bad[bad.clone()] = ~torch.isfinite(scores[bad]).all(1)  # a sum may also overflow
    return bad


def _compare_answers(target: Tensor, query: Tensor, num_queries: int) -> Tensor:
    """The rivals of each answer among the other answers of its query, int64 (num_answers,)."""
    if not len(query):
        return torch.zeros_like(query)
    # Sorted by query and score: a table of all pairs of answers would be too large where a query has thousands.
    order = torch.argsort(target, stable=True)
    order = order[torch.argsort(query[order], stable=True)]
    of_query, score = query[order], target[order]
    changed = torch.ones_like(of_query, dtype=torch.bool)
    changed[1:] = (of_query[1:] != of_query[:-1]) | (score[1:] != score[:-1])
    run = torch.cumsum(changed, 0) - 1
    alike = torch.bincount(run)
    run_end = torch.cumsum(alike, 0)[run]
    end = torch.cumsum(torch.bincount(query, minlength=num_queries), 0)[of_query]
    counts = 2 * (end - run_end) + alike[run] - 1
    return torch.empty_like(query).index_copy_(0, order, counts)
