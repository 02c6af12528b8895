"""What the past of a subject and a candidate looks like, in bins: how recent, how often, how regular, how exclusive.

Each feature has a few parts, and each part some bins; a combination of bins has one number, see `combined`.
"""

import torch
from torch import Tensor

from gam_kg.history.bins import NEVER, NUM_BINS, log_bin
from gam_kg.history.found import PastAnswers
from gam_kg.history.recency import KeyTable, Recent

_MOST_COUNT, _MOST_RELATIONS, _MOST_TURNS = 16, 6, 16
_PHASES = torch.tensor([2 ** (half / 2) for half in range(-6, 7)], dtype=torch.float64)
_DISPERSIONS = torch.tensor([1.1, 1.5, 2.0, 3.0], dtype=torch.float64)
_STREAKS = torch.tensor([1, 2, 3, 4, 5, 6, 8, 11, 16, 24, 32])
_SHARES = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0], dtype=torch.float64)
_NOVELTIES = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999], dtype=torch.float64)

PARTS = {
    "same": (NUM_BINS + 1, _MOST_COUNT),
    "rhythm": (len(_PHASES) + 3, len(_DISPERSIONS) + 2, len(_STREAKS) + 1),
    "place": (NUM_BINS + 1, len(_SHARES) + 1),
    "turn": (_MOST_TURNS + 2, _MOST_COUNT, 3),
    "own_turn": (_MOST_TURNS + 2, _MOST_COUNT, 3),
    "any": (NUM_BINS + 1, _MOST_COUNT, _MOST_RELATIONS),
    "query": (NUM_BINS + 1, _MOST_COUNT, len(_NOVELTIES) + 1),
}
"""The parts of each feature, by their numbers of bins.

* same: recency and count of (s, r, o);
* rhythm: of (s, r, o), the phase (time since the last over the mean gap; 1: seen once), the dispersion of the gaps
  (their mean square over their squared mean; 0: fewer than two gaps), and the length of the last streak;
* place: among the answers to (s, r, ?), how many snapshots o was last seen before the latest one, and its share of
  their counts;
* turn: how many answers (s, r, ?) has had since the snapshot in which o was last one, how many distinct ones it has
  among the `same_relation` most recent, and whether it has had fewer since than the others of these are (0), as many
  (1: answers that take turns come back to o) or more (2);
* own_turn: the same of (?, r, o), and s among its subjects;
* any: recency and count of (s, any, o), and the number of relations;
* query: recency and count of (s, r, any), and its novelty: the share of its answers that were new when they came.

What was never seen has the recency `NEVER`, the last bin of answers since, and otherwise bin 0.
"""

UNSEEN = {
    "same": NEVER * PARTS["same"][1],
    "rhythm": 0,
    "place": NEVER * PARTS["place"][1],
    **dict.fromkeys(("turn", "own_turn"), (_MOST_TURNS + 1) * PARTS["turn"][1] * PARTS["turn"][2]),
}
"""The numbers of features of a pair that was never seen with the query's relation."""


def combined(feature: str, *bins: Tensor) -> Tensor:
    """One number for the bins of the parts of a feature, int64 (num_pairs,) each; the last bin has all above it."""
    code = bins[0]
    for size, bin_ in zip(PARTS[feature][1:], bins[1:], strict=True):
        code = code * size + bin_.clamp(max=size - 1)
    return code


def rhythm(table: KeyTable, place: Tensor, now: int) -> Tensor:
    """The rhythm of facts that were seen, int64 (num_facts,).

    Args:
        table: The facts.
        place: Their places in it, int64 (num_facts,).
        now: Recency is counted back from this snapshot.
    """
    last, first, count, streak = (
        values.index_select(0, place).long() for values in (table.last, table.first, table.count, table.streak)
    )
    gaps, span = count - 1, (last - first).double()
    # Ratios of integers, and comparisons with constants: every processor finds the same bins.
    phase = torch.bucketize((now - last).double() * gaps / span, _PHASES) + 2
    squares = table.squared_gaps.index_select(0, place).double()
    dispersion = torch.bucketize(squares * gaps / span**2, _DISPERSIONS) + 1
    length = torch.bucketize(streak, _STREAKS, right=True)
    return combined("rhythm", torch.where(gaps > 0, phase, 1), torch.where(gaps > 1, dispersion, 0), length)


def place_among_answers(answers: Recent, past: PastAnswers) -> Tensor:
    """The place of past answers among all past answers to their query, int64 (num_answers,).

    Args:
        answers: Past answers of the shard, by query.
        past: Those of all ranks.
    """
    behind = past.last.index_select(0, answers.row) - answers.last
    share = answers.count.double() / past.count.index_select(0, answers.row)
    return combined("place", log_bin(behind), torch.bucketize(share, _SHARES))


def turn(since: Tensor, distinct: Tensor) -> Tensor:
    """How far those that take turns have gone round since a fact was last seen, int64 (num_facts,).

    Args:
        since: How many there have been since, int64 (num_facts,).
        distinct: How many distinct ones there are, int64 (num_facts,).
    """
    return combined("turn", since.clamp(max=_MOST_TURNS), distinct, 1 + torch.sign(since + 1 - distinct))


def query_feature(past: PastAnswers, now: int) -> Tensor:
    """The past of queries, int64 (num_queries,); recency is counted back from a snapshot."""
    recency = torch.where(past.count > 0, log_bin(now - past.last), NEVER)
    novelty = torch.bucketize(past.distinct.double() / past.count.clamp(min=1), _NOVELTIES)
    return combined("query", recency, log_bin(past.count), novelty)
