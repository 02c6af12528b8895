"""What counted rules say together of candidates, as a probability: rules of pairs and rules of shared facts."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from gam_kg.history.found import Bodies, Found, Heads
from gam_kg.history.sampling import Sample
from gam_kg.ops.dimensions import Along
from gam_kg.ops.ragged import ragged_ranges, select, sort_with_positions, true_positions, unique_inverse

UNSEEN = 30
"""Exposures that are added to those of a rule, so that few hits give little confidence."""

SHARED_WEIGHT = 0.5
"""Of what the rules of shared facts say together."""

BOUNDS = torch.tensor([2 ** (-half / 2) for half in range(26, 0, -1)], dtype=torch.float64)
"""Lower bounds of the bins of a probability but the first, which begins at 0."""

_MOST, _DISCOUNT = 10, 0.8

Rules = tuple[Tensor, Tensor]
"""Pair and confidence of each rule, int64 and float64 (num_rules,)."""


@dataclass(frozen=True)
class Confidences:
    """How likely it is that a rule of a pair holds, in bins.

    Attributes:
        kind: Kind of the query of each pair, (num_pairs,).
        bin: Number of the bin, in `[0, len(BOUNDS)]`, (num_pairs,).
    """

    kind: Annotated[Tensor, Along(".pairs", "kinds")]
    bin: Annotated[Tensor, Along(".pairs")]


def join_confidences(found: Found, sample: Sample | None) -> tuple[Confidences, Tensor, Tensor]:
    """What the rules of queries say together; their pairs, and those excluded, see `Joined`; arguments: see `join`."""
    assert found.pair_rules is not None
    queries, num_rows = found.groups.queries, found.num_rows
    kinds = [rules for rules in (found.pair_rules, found.every_rule) if rules is not None]
    excluded = [queries.relation[:0]]
    if sample is not None:  # before they are joined: of most pairs, few are drawn
        for number, (pair, confidence) in enumerate(kinds):
            row = pair % num_rows
            drawn = sample.includes(queries.subject.index_select(0, pair // num_rows), row, sample.draws(row))
            excluded += select(~drawn & sample.has_column(row), pair)
            kinds[number] = pair[drawn], confidence[drawn]
    pair, probability = together(*kinds)
    # Comparisons with constants, of numbers that every processor computes alike.
    bin_ = torch.bucketize(probability, BOUNDS, right=True)
    kind = found.groups.of_relation.index_select(0, pair // num_rows)
    return Confidences(kind, bin_), pair, torch.cat(excluded)


def shared_rules(bodies: Bodies, heads: Heads, num_rows: int) -> Rules:
    """The rules of shared facts with some bodies and heads; `num_rows`: rows of the shard."""
    pair = bodies.query.index_select(0, heads.row) * num_rows + heads.item
    return pair, heads.hits / (heads.exposures.double() + UNSEEN)


def together(of_pairs: Rules, shared: Rules | None = None) -> Rules:
    """The pairs that rules lead to, ascending, and how likely one of their rules holds.

    The ten most confident rules of each kind that lead to a pair are joined as if independent, the i-th by 0.8^i of its
    confidence: 1 - (1 - rules of pairs) (1 - rules of shared facts / 2).

    Args:
        of_pairs: Rules of pairs.
        shared: Rules of shared facts; None where they are switched off.
    """
    pair, failure = _joined(*of_pairs)
    if shared is not None:
        shared_pair, shared_failure = _joined(*shared)
        number, (pair, place) = len(pair), unique_inverse(torch.cat([pair, shared_pair]))
        both = torch.ones(len(pair), dtype=torch.float64)
        both[place[:number]] *= failure
        both[place[number:]] *= 1 - SHARED_WEIGHT * (1 - shared_failure)
        failure = both
    return pair, 1 - failure


def _joined(pair: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct pairs, ascending, and how likely all their rules fail; of rules, (num_rules,) each."""
    pair, order = sort_with_positions(pair)
    confidence = confidence.index_select(0, order)
    pair, number = torch.unique_consecutive(pair, return_counts=True)
    first = torch.cumsum(number, 0) - number
    has = true_positions(number > 1)
    if len(has):
        of_pair, several = ragged_ranges(first.index_select(0, has), number.index_select(0, has))
        # Numbers from 0 on have the order of their bits, taken as integers.
        some, order = sort_with_positions(-confidence.index_select(0, several).view(torch.int64))
        _, by_pair = sort_with_positions(of_pair.index_select(0, order))
        confidence.index_copy_(0, several, (-some).view(torch.float64).index_select(0, by_pair))
    failure = 1 - confidence.index_select(0, first)
    # Products of at most ten numbers, one after another, are the same on any number of ranks.
    for index in range(1, _MOST):
        fails = 1 - _DISCOUNT**index * confidence.index_select(0, first.index_select(0, has) + index)
        failure.index_copy_(0, has, failure.index_select(0, has) * fails)
        (has,) = select(number.index_select(0, has) > index + 1, has)
    return pair, failure
