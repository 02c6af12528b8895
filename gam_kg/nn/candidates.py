"""Sampled candidates: what a step's queries are scored against where there are too many entities for all of them.

The candidates of a query are its answers; of those that the history has of its subject a share, which stand for all of
them; and, where its history has not got them, some of the answers of the step's other queries, and entities drawn
uniformly from the rest, which stand for all of the rest. So a step costs what its facts cost, but for twelve bytes an
entity in which columns and shares are found.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gam_kg.data.look_up import SampledHistory
from gam_kg.data.partition import Partition
from gam_kg.data.past import History, Popularity
from gam_kg.data.popular import Popular
from gam_kg.data.ragged import distinct, distinct_index, offsets_of, ragged_ranges, where
from gam_kg.data.snapshot import Queries
from gam_kg.nn.history_attention import PairScores
from gam_kg.nn.history_plan import PopularityPlan
from gam_kg.nn.noise import Noise


@dataclass(frozen=True)
class Shares:
    """Shares of what histories have that are met.

    Attributes:
        known: Of known answers: candidates that a subject had with a relation that it is asked about.
        other: Of the others; no more than of these.
    """

    known: float
    other: float

    @classmethod
    def of(cls, wanted: float, num_known: int, num_links: int) -> "Shares":
        """Shares for a number of links: half for known answers, which are likely, as far as these need it.

        What else leads to a known answer, or to an answer, is read beside that.

        Args:
            wanted: How many links to read.
            num_known: Links by which answers are known.
            num_links: All links.
        """
        known = min(1.0, max(wanted / 2 / max(1, num_known), wanted / max(1, num_links)))
        other = (wanted - known * num_known) / max(1, num_links - num_known)
        return cls(known, min(known, max(0.0, other)))


@dataclass(frozen=True)
class Candidates:
    """The candidates of a step, as a rank has them; what is drawn is alike on any number of ranks.

    All queries share the columns, but for those that their history has. Of what histories have, a query meets its
    answers and a share of the others: they tell what is `Wanted`.

    Attributes:
        rows: Rows in the rank's shard of the columns, int64 (num_columns,), ascending.
        log_weight: Logarithm of how many entities each column stands for, (num_columns,): 0 for itself alone, as an
            answer of the step.
        column: Column of each row, int64 (num_rows,); -1 where it has none.
        shares: Of what histories have.
        row_share: The most that any subject has of a row of the shard, (num_rows,).
        pairs: Subject and candidate of answers and known answers of the step, a number each, int64 (num_pairs,),
            ascending.
        pair_share: Share of each of these, (num_pairs,): 1 for an answer.
        ids: Entities of the shard, int64 (num_rows,).
        noise: Of the step.
    """

    rows: Tensor
    log_weight: Tensor
    column: Tensor
    shares: Shares
    row_share: Tensor
    pairs: Tensor
    pair_share: Tensor
    ids: Tensor
    noise: Noise

    @classmethod
    def draw(
        cls,
        queries: Queries,
        num_negatives: int,
        known: tuple[Tensor, Tensor],
        shares: Shares,
        ids: Tensor,
        partition: Partition,
        noise: Noise,
    ) -> "Candidates":
        """Draw the columns of a step: some of its answers, and other entities uniformly.

        Args:
            queries: All queries of the step, alike on all ranks.
            num_negatives: How many answers at most, and how many others, some of which may be double or among the
                answers, at least 1; where there are no more entities than that, all are taken.
            known: Subjects and rows of known answers, int64 (num_known,) each.
            shares: As of the attributes, in (0, 1].
            ids: As of the attributes.
            partition: The rank's entities.
            noise: Of the step.
        """
        num_entities, device = partition.num_entities, queries.answer.device
        own = distinct(queries.answer)
        if len(own) > num_negatives:
            own = own[noise.uniform(own, "columns").argsort()[:num_negatives]].sort().values
        if num_negatives >= num_entities:
            uniform = torch.arange(num_entities, device=device)
        else:
            generator = torch.Generator().manual_seed(noise.integer("negatives"))
            uniform = torch.unique(torch.randint(num_entities, (num_negatives,), generator=generator)).to(device)
            while torch.isin(uniform, own).all():  # something must stand for the rest
                uniform = torch.randint(num_entities, (1,), generator=generator).to(device)
        (others,) = where(~torch.isin(uniform, own), uniform)
        columns = torch.cat([own, others])
        log_weight = torch.zeros(len(columns), device=device)
        log_weight[len(own) :] = math.log((num_entities - len(own)) / max(1, len(others)) or 1)
        columns, log_weight = where(partition.owns(columns), columns, log_weight)
        rows, order = torch.sort(partition.rows(columns))
        column = torch.full_like(ids, -1).index_copy_(0, rows, torch.arange(len(rows), device=device))
        subject, answer = where(
            partition.owns(queries.answer), queries.subject.index_select(0, queries.answer_query), queries.answer
        )
        answer, (known_subject, known_row) = partition.rows(answer), known
        row_share = torch.full(ids.shape, shares.other, device=device)
        row_share.index_fill_(0, known_row, shares.known).index_fill_(0, answer, 1.0)
        key = torch.cat([subject, known_subject]) * max(1, partition.num_rows) + torch.cat([answer, known_row])
        pairs, place_of = distinct_index(key)
        pair_share = torch.full(pairs.shape, shares.known, device=device).index_fill_(0, place_of[: len(answer)], 1.0)
        return cls(rows, log_weight[order], column, shares, row_share, pairs, pair_share, ids, noise)

    def coins(self, rows: Tensor) -> Tensor:
        return self.noise.uniform(self.ids.index_select(0, rows), "history")

    def may_meet(self, rows: Tensor, coins: Tensor) -> Tensor:
        return coins < self.row_share.index_select(0, rows)

    def meets(self, subject: Tensor, rows: Tensor, coins: Tensor) -> Tensor:
        met = coins < self.shares.other
        (left,) = torch.nonzero(~met & self.may_meet(rows, coins), as_tuple=True)
        share = self.share(subject.index_select(0, left), rows.index_select(0, left))
        return met.index_copy_(0, left, coins.index_select(0, left) < share)

    def is_shared(self, rows: Tensor) -> Tensor:
        return self.column.index_select(0, rows) >= 0

    def share(self, subject: Tensor, rows: Tensor) -> Tensor:
        """How likely queries about subjects meet candidates that their history has, or answers, (num_asked,)."""
        found, there = place(self.pairs, subject * max(1, len(self.ids)) + rows)
        if not len(self.pairs):
            return torch.full(rows.shape, self.shares.other, device=rows.device)
        return torch.where(there, self.pair_share.index_select(0, found), self.shares.other)

    def positions(self, query: Tensor, rows: Tensor) -> Tensor:
        """Positions in flat scores of the columns, of those pairs of a query and a row that have one."""
        column = self.column.index_select(0, rows)
        query, column = where(column >= 0, query, column)
        return query * len(self.rows) + column


@dataclass(frozen=True)
class SampledScores:
    """Scores of a rank's candidates for queries of a step.

    Attributes:
        dense: Of the columns, (num_queries, num_columns).
        replaced: Positions in the flat `dense` of what does not count, int64 (num_replaced,): what the history of the
            query has, and its answers.
        query, score: Of candidates that one query alone meets, (num_extra,) each.
        log_weight: Logarithm of how many candidates each of these stands for, (num_extra,).
        answers: Which of these are answers of the query, int64 (num_answers,).
        answers_per_query: Answers of each query over all ranks, (num_queries,).
    """

    dense: Tensor
    replaced: Tensor
    query: Tensor
    score: Tensor
    log_weight: Tensor
    answers: Tensor
    answers_per_query: Tensor


def place(held: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where rows are among some that are held.

    Args:
        held: Ascending, int64 (num_held,).
        rows: int64 (num_rows,).

    Returns:
        Places, int64 (num_rows,), and whether each row is held, bool (num_rows,); a row that is not has any place.
    """
    if not len(held):
        return torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool)
    found = torch.searchsorted(held, rows).clamp(max=len(held) - 1)
    return found, held.index_select(0, found) == rows


def rows_of(history: SampledHistory) -> list[Tensor]:
    """Rows of the candidates that pairs and paths of a history need vectors of."""
    rows = []
    if history.pairs is not None:
        rows.append(history.pairs.entry_other)
    if history.paths is not None:
        rows.append(history.paths.second_other)
    return rows


@dataclass(frozen=True)
class Held:
    """The rows of the shard that a step reads.

    Attributes:
        rows: Ascending, int64 (num_held,).
        place: Place of each of them, int64 (num_rows of the shard,); anything for other rows.
    """

    rows: Tensor
    place: Tensor

    @classmethod
    def of(cls, rows: Tensor, num_rows: int) -> "Held":
        """Hold rows, ascending, of a shard of `num_rows`."""
        # What is not written is never read: that would cost as much as the shard is large.
        table = torch.empty(num_rows, dtype=torch.int64, device=rows.device)
        return cls(rows, table.index_copy_(0, rows, torch.arange(len(rows), device=rows.device)))

    def __len__(self) -> int:
        return len(self.rows)

    def places(self, rows: Tensor) -> Tensor:
        """Places of rows that are held, int64 (num_asked,)."""
        return self.place.index_select(0, rows)

    def history(self, history: SampledHistory) -> History:
        """Pairs and paths of a history, whose candidates are held, with these told by their places."""
        pairs, paths = history.pairs, history.paths
        if pairs is not None:
            entry, pair = self.places(pairs.entry_other), self.places(pairs.pair_other)
            pairs = replace(pairs, entry_other=entry, pair_other=pair)
        if paths is not None:
            second, pair = self.places(paths.second_other), self.places(paths.pair_other)
            paths = replace(paths, second_other=second, pair_other=pair)
        return History(pairs, paths, None)


def summed(parts: Sequence[PairScores], num_held: int) -> PairScores:
    """Scores of pairs of queries and held rows, each pair once, ascending, with what its parts add up to."""
    key, index = distinct_index(torch.cat([part.query * num_held + part.other for part in parts]))
    score = torch.cat([part.score for part in parts])
    return PairScores(key // num_held, key % num_held, score.new_zeros(len(key)).index_add(0, index, score))


@dataclass(frozen=True)
class PopularAmong:
    """The part of popularity that candidates of a step have.

    Attributes:
        plan: How to score it: entries of columns, then those of pairs.
        row, column: Relation's row and column of the former, int64 (num_of_columns,).
        pair: Which pair has each of the latter, int64 (num_of_pairs,).
    """

    plan: PopularityPlan
    row: Tensor
    column: Tensor
    pair: Tensor

    @classmethod
    def of(
        cls, past: Popular, candidates: Candidates, query_row: Tensor, query: Tensor, rows: Tensor
    ) -> "PopularAmong":
        """What the columns have, and what pairs of a query and a row of the shard have.

        Args:
            past: What relations have.
            candidates: The step's.
            query_row: Which of the relations each query asks about, int64 (num_queries,).
            query: Query of each pair, int64 (num_pairs,).
            rows: Row of the shard of each pair, int64 (num_pairs,).
        """
        columns = past.among(candidates.is_shared)
        pair, pairs = past.of_pairs(query_row.index_select(0, query), rows)
        row, other, recency, count = (
            torch.cat([getattr(part, name) for part in (columns, pairs)])
            for name in ("row", "other", "recency", "count")
        )
        plan = PopularityPlan.of(Popularity(past.relations, query_row, row, other, recency, count))
        return cls(plan, columns.row, candidates.column.index_select(0, columns.other), pair)


def popular_pairs(popularity: Popularity, score: Tensor) -> PairScores:
    """Popularity as scores of the pairs that have it; `score` is that of each entry, (num_entries,)."""
    start, length = offsets_of(popularity.row, len(popularity.relations))
    asked = popularity.query_row
    query, entry = ragged_ranges(start.index_select(0, asked), length.index_select(0, asked))
    return PairScores(query, popularity.other.index_select(0, entry), score.index_select(0, entry))
