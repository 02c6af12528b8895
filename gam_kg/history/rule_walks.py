"""Rules from the past facts of the subjects of queries to candidates."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from gam_kg.history.bins import log_bin
from gam_kg.history.confidence import UNSEEN
from gam_kg.history.found import Found
from gam_kg.history.rules import Heads
from gam_kg.history.sampling import Sample
from gam_kg.ops.dimensions import Along, Number, Within
from gam_kg.ops.ragged import UniqueRows, select, unique_inverse
from gam_kg.ops.sparse import CSRPattern, rows_from_runs

_MOST_HITS = 16
CONFIDENCES = [2 ** (half / 2) for half in range(-24, 1)]
"""Upper bounds of the bins of confidence, hits / (exposures + `UNSEEN`)."""

RULE_PARTS = (_MOST_HITS, len(CONFIDENCES), 2)
"""Bins of the parts of a kind of rules: hits, confidence, and whether the answer is the entity of the body."""


@dataclass(frozen=True)
class RuleWalks:
    """Rules that join queries to candidates. A start is a query with one of its bodies.

    Attributes:
        num_pairs: Number of distinct (query, candidate) pairs that rules join.
        query: Query of each start, (num_starts,).
        body: Body of each start, by relation and recency.
        pattern: Joins starts to kinds of rules (see `RULE_PARTS`), one entry per rule.
        pair: Pair of each rule, (num_rules,).
    """

    num_pairs: Annotated[int, Number(".pairs")]
    query: Annotated[Tensor, Along(".starts", "queries")]
    body: Annotated[UniqueRows, Within(stored=".bodies", rows=".starts")]
    pattern: Annotated[CSRPattern, Within(rows=".starts", columns=None, entries=".rules")]
    pair: Annotated[Tensor, Along(".rules", ".pairs")]


def join_rules(found: Found, sample: Sample | None) -> tuple[RuleWalks, Tensor, Tensor]:
    """Join rules to the queries; returns them, their pairs and those excluded, see `Joined`; arguments: see `join`."""
    assert found.rules is not None
    bodies, heads = found.rules
    query = bodies.query.index_select(0, heads.row)
    excluded = query[:0]
    if sample is not None:
        subject = found.groups.queries.subject.index_select(0, query)
        drawn = sample.includes(subject, heads.item, sample.draws(heads.item))
        left_out = select(~drawn & sample.has_column(heads.item), query, heads.item)
        excluded = left_out[0] * found.num_rows + left_out[1]
        heads, (query,) = heads.where(drawn), select(drawn, query)
    pairs, pair = unique_inverse(query * found.num_rows + heads.item)
    start, offsets = rows_from_runs(heads.row)
    fact = bodies.fact.index_select(0, start)
    own_row = bodies.own_row.index_select(0, bodies.fact.index_select(0, heads.row))
    kind = _kinds(heads, own_row == heads.item)
    body = UniqueRows((bodies.facts.relation, log_bin(found.groups.queries.now - bodies.facts.last)), fact)
    pattern = CSRPattern.of(offsets, kind, _MOST_HITS * len(CONFIDENCES) * 2)
    return RuleWalks(len(pairs), bodies.query.index_select(0, start), body, pattern, pair), pairs, excluded


def _kinds(heads: Heads, is_own: Tensor) -> Tensor:
    confidence = heads.hits.double() / (heads.exposures + UNSEEN)
    # Comparisons of ratios of integers with constants: every processor finds the same bins.
    bin_ = torch.bucketize(confidence, torch.tensor(CONFIDENCES, dtype=torch.float64)).clamp(max=len(CONFIDENCES) - 1)
    return (log_bin(heads.hits).clamp(max=_MOST_HITS - 1) * len(CONFIDENCES) + bin_) * 2 + is_own.long()
