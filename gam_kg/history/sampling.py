"""Sampled candidates: those of a step when scoring all entities costs too much.

A query's candidates: (1) its answers; (2) a random part of its past, drawn with known probabilities; (3) columns shared
by all queries, which are some answers of the step and entities drawn uniformly. A column that is an answer of the step
stands for itself; the uniform ones together stand for all other entities. So a step costs what its facts cost, apart
from some bytes per entity in tables of all rows.

Source: Horvitz & Thompson 1952, eq. 5: a candidate drawn with probability p stands for 1 / p candidates.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Queries
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.ops.ragged import find_keys, select, true_positions, unique, unique_inverse


@dataclass(frozen=True)
class InclusionProbabilities:
    """How likely a candidate in the past of a query is drawn, if it is no answer of the query.

    Attributes:
        known: Probability of known answers: candidates that answered the query before.
        other: Probability of all others, at most `known`.
    """

    known: float
    other: float

    @classmethod
    def of(cls, num_read: float, num_known: int, num_walks: int) -> "InclusionProbabilities":
        """Probabilities to read `num_read` of `num_walks` walks in expectation, half of them to known answers.

        `num_known` of the walks are look-ups by query, one per known answer. Further walks to known answers, and to
        answers, are read in addition.
        """
        known = min(1.0, max(num_read / 2 / max(1, num_known), num_read / max(1, num_walks)))
        other = (num_read - known * num_known) / max(1, num_walks - num_known)
        return cls(known, min(known, max(0.0, other)))


@dataclass(frozen=True)
class Sample:
    """The candidates of a step, of the rank's entities; draws are the same on any number of ranks.

    Attributes:
        column_rows: Rows of the columns in the shard, int64 (num_columns,), ascending.
        log_weight: Logarithm of how many entities each column stands for, (num_columns,): 0 for itself alone.
        column: Column of each row of the shard, -1 for none, int64 (num_rows,).
        probabilities: See `InclusionProbabilities`.
        highest: The highest probability of each row of the shard, over all subjects, (num_rows,).
        pairs: Answers and known answers, as `subject * num_rows + row`, ascending, int64 (num_pairs,).
        pair_probability: Probability of each of these, 1 for an answer, (num_pairs,).
        ids: Entities of the shard, int64 (num_rows,).
        rng: Random numbers of the step.
    """

    column_rows: Tensor
    log_weight: Tensor
    column: Tensor
    probabilities: InclusionProbabilities
    highest: Tensor
    pairs: Tensor
    pair_probability: Tensor
    ids: Tensor
    rng: CounterRNG

    @classmethod
    def draw(
        cls,
        queries: Queries,
        num_negatives: int,
        known: tuple[Tensor, Tensor],
        probabilities: InclusionProbabilities,
        partition: Partition,
        rng: CounterRNG,
    ) -> "Sample":
        """Draw the columns of a step: some of its answers, and other entities uniformly.

        Args:
            queries: All queries of the step, the same on all ranks.
            num_negatives: How many answers at most, and how many draws of others, at least 1.
            known: Subjects and rows of known answers, int64 (num_known,) each.
            probabilities: In (0, 1].
            partition: The rank's entities.
            rng: Random numbers of the step.
        """
        columns, log_weight = _columns(queries.answer, num_negatives, partition.num_entities, rng)
        columns, log_weight = select(partition.owns(columns), columns, log_weight)
        rows, order = torch.sort(partition.rows(columns))
        subject, answer = select(
            partition.owns(queries.answer), queries.subject.index_select(0, queries.answer_query), queries.answer
        )
        answer, (known_subject, known_row), ids = partition.rows(answer), known, partition.ids
        highest = torch.full(ids.shape, probabilities.other)
        highest.index_fill_(0, known_row, probabilities.known).index_fill_(0, answer, 1.0)
        key = torch.cat([subject, known_subject]) * max(1, len(ids)) + torch.cat([answer, known_row])
        pairs, place = unique_inverse(key)
        of_pair = torch.full(pairs.shape, probabilities.known).index_fill_(0, place[: len(answer)], 1.0)
        column = torch.full_like(ids, -1).index_copy_(0, rows, torch.arange(len(rows)))
        return cls(rows, log_weight[order], column, probabilities, highest, pairs, of_pair, ids, rng)

    def draws(self, rows: Tensor) -> Tensor:
        """The random number that decides whether a candidate is drawn, in [0, 1), (num_requested,)."""
        return self.rng.uniform(self.ids.index_select(0, rows), "history")

    def may_include(self, rows: Tensor, draws: Tensor) -> Tensor:
        """Whether candidates may be drawn for any subject at all, bool (num_requested,)."""
        return draws < self.highest.index_select(0, rows)

    def includes(self, subject: Tensor, rows: Tensor, draws: Tensor) -> Tensor:
        """Whether queries of subjects include candidates of their past, bool (num_requested,)."""
        included = draws < self.probabilities.other
        rest = true_positions(~included & self.may_include(rows, draws))
        probability = self.probability(subject.index_select(0, rest), rows.index_select(0, rest))
        return included.index_copy_(0, rest, draws.index_select(0, rest) < probability)

    def has_column(self, rows: Tensor) -> Tensor:
        """Whether candidates are columns, bool (num_requested,)."""
        return self.column.index_select(0, rows) >= 0

    def probability(self, subject: Tensor, rows: Tensor) -> Tensor:
        """How likely queries of subjects include candidates that are in their past, or answers, (num_requested,)."""
        if not len(self.pairs):
            return torch.full(rows.shape, self.probabilities.other)
        place, known = find_keys(self.pairs, subject * max(1, len(self.ids)) + rows)
        return torch.where(known, self.pair_probability.index_select(0, place), self.probabilities.other)


def _columns(answer: Tensor, num_negatives: int, num_entities: int, rng: CounterRNG) -> tuple[Tensor, Tensor]:
    """Entities of all ranks that are columns, each once, and the logarithms of their weights."""
    own = unique(answer)
    if len(own) > num_negatives:
        own = own[rng.uniform(own, "columns").argsort()[:num_negatives]].sort().values
    if num_negatives >= num_entities:
        uniform = torch.arange(num_entities)
    else:
        generator = torch.Generator().manual_seed(rng.integer("negatives"))
        uniform = torch.unique(torch.randint(num_entities, (num_negatives,), generator=generator))
        while torch.isin(uniform, own).all():  # something must stand for the rest
            uniform = torch.randint(num_entities, (1,), generator=generator)
    (others,) = select(~torch.isin(uniform, own), uniform)
    log_weight = torch.zeros(len(own) + len(others))
    log_weight[len(own) :] = math.log((num_entities - len(own)) / max(1, len(others)) or 1)
    return torch.cat([own, others]), log_weight
