"""Ranks of the true answers among all candidates, with the realistic treatment of ties.

The realistic rank is 1 + #greater + #equal/2: the mean position of the target over all orders of the candidates
that score the same. The optimistic rank (ties below the target) and any rank by sorting (ties by position) reward
scorers that give one score to many candidates, so neither is offered.

Candidates may be divided over ranks: the owner of an answer has its score, and what the ranks send each other are
these scores and counts. Scores need not be written out for all candidates: what is ranked are `Scores`, of which there
are a table, `SparseScores` and `ProductScores`.

An answer equals itself to the last bit: were its score computed twice, and rounded differently, the best would have
rank 0.5 or 1.5. So `Scores` have one number for it, which is the target and stands among the candidates.

Time-aware filter: other true answers of the same (subject, relation, ?, time) do not count against the target;
nothing else is removed.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gam_kg.data.partition import Partition
from gam_kg.data.snapshot import Queries
from gam_kg.distributed.topology import Topology
from gam_kg.errors import EvaluationError

_SCORES_AT_ONCE = 64_000_000


class Scores(Protocol):
    """Scores that queries give to a rank's candidates, higher is better."""

    def of(self, query: Tensor, row: Tensor) -> Tensor:
        """The scores of some pairs, float (num_pairs,).

        Args:
            query: int64 (num_pairs,).
            row: Rows of candidates in the shard, int64 (num_pairs,).
        """
        ...

    def compare(self, query: Tensor, target: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Compare all candidates with targets.

        Args:
            query: Of each target, ascending, int64 (num_targets,).
            target: Scores, float (num_targets,).
            row: Whose scores they are: rows of candidates in the shard, -1 where another rank has the candidate,
                int64 (num_targets,). These candidates score their targets to the last bit.

        Returns:
            rivals: How many candidates score above the target, plus how many score at least as much, int64
                (num_targets,).
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
    scores: Tensor | Scores, queries: Queries, partition: Partition | None = None, topology: Topology | None = None
) -> Ranks:
    """Rank the answers of queries. A collective, that gives all ranks the same.

    Args:
        scores: Of this rank's candidates, as `Scores` or as a table (num_queries, num_rows), higher is better.
        queries: The questions and their answers, alike on all ranks.
        partition: The rank's candidates; None for all entities, of which a table has the number.
        topology: The ranks; None for a world of one.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    if isinstance(scores, Tensor):
        partition, scores = partition or Partition(scores.shape[1]), TableScores(scores)
    elif partition is None:
        raise ValueError("the partition must be told where scores are no table")
    topology, query = topology or Topology(), queries.answer_query
    row = torch.where(partition.owns(queries.answer), partition.rows(queries.answer), -1)
    own = torch.nonzero(row >= 0)[:, 0]
    score = scores.of(query[own], row[own])
    target = topology.sum(score.new_zeros(len(query)).index_copy_(0, own, score), "ranks")
    rivals, bad = scores.compare(query, target, row)
    rivals, bad = topology.sum(torch.cat([rivals, bad.long()]), "ranks").split([len(rivals), len(bad)])
    _refuse(bad, queries)
    # 1 + #greater + #equal/2 = (1 + #greater + #at least)/2, since the target itself is at least the target.
    known = _compare_answers(target, query, len(queries))
    return Ranks(raw=(1 + rivals).double() / 2, time_aware=(1 + rivals - known).double() / 2)


def _refuse(bad: Tensor, queries: Queries) -> None:
    """Raise an error that names the first bad query, bool (num_queries,)."""
    if bad.any():
        first = int(torch.nonzero(bad)[0])
        subject, relation = int(queries.subject[first]), int(queries.relation[first])
        raise EvaluationError(
            f"a score of the query (subject {subject}, relation {relation}, ?) at snapshot {queries.time} is NaN "
            "or infinite, so it has no rank; lower train.learning_rate and train again"
        )


def rivals_of(candidates: Tensor, target: Tensor) -> Tensor:
    """How many candidates score above a target, plus how many score at least as much, int64 (num_targets,).

    Args:
        candidates: Those of each target, (num_targets, num_candidates).
        target: (num_targets,).
    """
    target = target[:, None]
    return (candidates > target).sum(1) + (candidates >= target).sum(1)


@dataclass(frozen=True)
class TableScores:
    """Scores of all candidates, written out; `Scores`.

    Attributes:
        table: (num_queries, num_rows).
    """

    table: Tensor

    def of(self, query: Tensor, row: Tensor) -> Tensor:
        """As of `Scores`."""
        return self.table[query, row]

    def compare(self, query: Tensor, target: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Scores`."""
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
    # A sum is finite only if all its terms are; where it overflows, the second look decides.
    bad = ~torch.isfinite(scores.sum(1))
    suspects = torch.nonzero(bad)[:, 0]
    bad[suspects] = ~torch.isfinite(scores[suspects]).all(1)
    return bad


def _compare_answers(target: Tensor, query: Tensor, num_queries: int) -> Tensor:
    """The same count among the other answers of the query, int64 (num_answers,)."""
    if not len(query):
        return torch.zeros_like(query)
    # By score within a query: a table of all pairs of answers would be too large where a query has thousands.
    order = torch.argsort(target, stable=True)
    order = order[torch.argsort(query[order], stable=True)]
    asked, score = query[order], target[order]
    changed = torch.ones_like(asked, dtype=torch.bool)
    changed[1:] = (asked[1:] != asked[:-1]) | (score[1:] != score[:-1])
    run = torch.cumsum(changed, 0) - 1
    alike = torch.bincount(run)
    run_end = torch.cumsum(alike, 0)[run]
    end = torch.cumsum(torch.bincount(query, minlength=num_queries), 0)[asked]
    counts = 2 * (end - run_end) + alike[run] - 1
    return torch.empty_like(query).index_copy_(0, order, counts)
