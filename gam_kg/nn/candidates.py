"""Sampled candidates: what a step's queries are scored against where there are too many entities for all of them.

The candidates of a query are its answers; of those that the history has of its subject a share, which stand for all of
them; some of the answers of the step's other queries; and entities drawn uniformly from the rest, which stand for all
of the rest. So a step costs what its facts cost, but for nine bytes an entity in which columns are found.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gam_kg.data.partition import Partition
from gam_kg.data.past import History, Popularity
from gam_kg.data.ragged import distinct_index, offsets_of, ragged_ranges, where
from gam_kg.data.snapshot import Queries
from gam_kg.distributed.sharded_softmax import Targets
from gam_kg.nn.history_attention import PairScores
from gam_kg.nn.noise import Noise


@dataclass(frozen=True)
class Candidates:
    """The candidates of a step, as a rank has them; what is drawn is alike on any number of ranks.

    All queries share some columns. Beside them a query meets its own answers and those that its history has, as far as
    `keeps` has them.

    Attributes:
        rows: Rows in the rank's shard of the columns, int64 (num_columns,), ascending.
        log_weight: Logarithm of how many entities each column stands for, (num_columns,): 0 for itself alone, as an
            answer of the step.
        history_log_weight: The same of what is kept of a history, the step's answers apart.
        column: Column of each row, int64 (num_rows,); -1 where it has none.
        certain: Whether a row is an answer of the step, bool (num_rows,).
        history_share: Share of the other entities that are kept where a history has them.
        ids: Entities of the shard, int64 (num_rows,).
        noise: Of the step.
    """

    rows: Tensor
    log_weight: Tensor
    history_log_weight: float
    column: Tensor
    certain: Tensor
    history_share: float
    ids: Tensor
    noise: Noise

    @classmethod
    def draw(
        cls, queries: Queries, num_negatives: int, history_share: float, ids: Tensor, partition: Partition, noise: Noise
    ) -> "Candidates":
        """Draw the columns of a step: some of its answers, and other entities uniformly.

        Args:
            queries: All queries of the step, alike on all ranks.
            num_negatives: How many answers at most, and how many others, some of which may be double or among the
                answers, at least 1; where there are no more entities than that, all are taken.
            history_share: As of the attributes, in (0, 1].
            ids: As of the attributes.
            partition: The rank's entities.
            noise: Of the step.
        """
        num_entities, device = partition.num_entities, queries.answer.device
        answers = torch.unique(queries.answer)
        own = answers
        if len(own) > num_negatives:
            own = own[noise.uniform(own, "columns").argsort()[:num_negatives]].sort().values
        if num_negatives >= num_entities:
            uniform = torch.arange(num_entities, device=device)
        else:
            generator = torch.Generator().manual_seed(noise.integer("negatives"))
            uniform = torch.unique(torch.randint(num_entities, (num_negatives,), generator=generator)).to(device)
            while len(own) < num_entities and torch.isin(uniform, own).all():  # something must stand for the rest
                uniform = torch.randint(num_entities, (1,), generator=generator).to(device)
        (others,) = where(~torch.isin(uniform, own), uniform)
        weight = (num_entities - len(own)) / len(others) if len(others) else 1.0
        columns = torch.cat([own, others])
        log_weight = torch.zeros(len(columns), device=device)
        log_weight[len(own) :] = math.log(weight)
        columns, log_weight = where(partition.owns(columns), columns, log_weight)
        rows, order = torch.sort(partition.rows(columns))
        column = torch.full_like(ids, -1).index_copy_(0, rows, torch.arange(len(rows), device=device))
        certain = torch.zeros_like(ids, dtype=torch.bool)
        certain[partition.rows(answers[partition.owns(answers)])] = True
        # An entity that is no answer is kept by its own coin, or for it was drawn.
        missed = (1 - history_share) * (1 - 1 / weight)
        return cls(rows, log_weight[order], -math.log1p(-missed), column, certain, history_share, ids, noise)

    def keeps(self, rows: Tensor) -> Tensor:
        """Whether rows of the shard are candidates of a query whose history has them, bool (num_asked,)."""
        coin = self.noise.uniform(self.ids.index_select(0, rows), "history")
        kept = (coin < self.history_share) | (self.column.index_select(0, rows) >= 0)
        return kept | self.certain.index_select(0, rows)

    def answer_columns(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Column of each row of the shard, and whether there is one and it is an answer's; (num_asked,) each."""
        column = self.column.index_select(0, rows)
        found = column >= 0
        found[found.clone()] = self.log_weight.index_select(0, column[found]) == 0
        return column, found


@dataclass(frozen=True)
class SampledScores:
    """Scores of a rank's candidates for queries of a step.

    Attributes:
        dense: Of the columns, (num_queries, num_columns).
        query, score: Of candidates that one query alone meets, (num_extra,) each.
        log_weight: Logarithm of how many candidates each of these stands for, (num_extra,).
        replaced: Positions in the flat `dense` of drawn columns that stand among those, int64 (num_replaced,).
        targets: The answers among the columns.
        answers: Which of the others are answers, int64 (num_answers - num_targets,).
    """

    dense: Tensor
    query: Tensor
    score: Tensor
    log_weight: Tensor
    replaced: Tensor
    targets: Targets
    answers: Tensor


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


def rows_of(history: History) -> list[Tensor]:
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

    def history(self, history: History) -> History:
        """The same history with candidates of pairs and paths, which are held, told by their places."""
        pairs, paths = history.pairs, history.paths
        if pairs is not None:
            entry, pair = self.places(pairs.entry_other), self.places(pairs.pair_other)
            pairs = replace(pairs, entry_other=entry, pair_other=pair)
        if paths is not None:
            second, pair = self.places(paths.second_other), self.places(paths.pair_other)
            paths = replace(paths, second_other=second, pair_other=pair)
        return History(pairs, paths, history.popularity)


@dataclass(frozen=True)
class DividedPairs:
    """Pairs of a query and a candidate that it meets for itself, by whether all queries share the candidate.

    Attributes:
        shared: Those with an answer of the step that is a column, told by the column.
        query, other: The others, each pair once, int64 (num_extra,), ascending.
        score: What their parts add up to, (num_extra,).
        replaced: Positions in flat dense scores of drawn columns that stand among the others.
    """

    shared: list[PairScores]
    query: Tensor
    other: Tensor
    score: Tensor
    replaced: Tensor

    @classmethod
    def of(cls, parts: Sequence[PairScores], candidates: Candidates, column: Tensor, num_held: int) -> "DividedPairs":
        """Divide pairs of queries and held rows.

        Args:
            parts: Scores of pairs.
            candidates: The step's.
            column: Place of the columns among the held rows, int64 (num_columns,).
            num_held: Number of held rows.
        """
        number = torch.arange(len(column), device=column.device)
        answers, drawn = (
            torch.full((num_held,), -1, device=column.device).index_copy_(0, *where(mask, column, number))
            for mask in (candidates.log_weight == 0, candidates.log_weight != 0)
        )
        shared, keys, scores = [], [], []
        for part in parts:
            at = answers.index_select(0, part.other)
            shared.append(PairScores(*where(at >= 0, part.query, at, part.score)))
            key, score = where(at < 0, part.query * num_held + part.other, part.score)
            keys.append(key)
            scores.append(score)
        key, index = distinct_index(torch.cat(keys))
        score = torch.cat(scores)
        score = score.new_zeros(len(key)).index_add(0, index, score)
        query, other = key // max(1, num_held), key % max(1, num_held)
        at = drawn.index_select(0, other)
        return cls(shared, query, other, score, where(at >= 0, query * len(column) + at)[0])


def popular_among(popularity: Popularity, score: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor, Tensor]:
    """The part of popularity that is about the columns.

    Args:
        popularity: What the history has.
        score: Of each of its entries, (num_entries,).
        candidates: The step's.

    Returns:
        Relation's row, column and score of each entry of that part.
    """
    column = candidates.column.index_select(0, popularity.other)
    row, column, score = where(column >= 0, popularity.row, column, score)
    return row, column, score


def popularity_of(popularity: Popularity, score: Tensor, query: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """What popularity gives pairs of a query and a row of the shard, zero where it has nothing; (num_pairs,).

    Args:
        popularity: What the history has.
        score: Of each of its entries, (num_entries,).
        query: Query of each pair, int64 (num_pairs,).
        rows: Row in the shard of each pair's candidate, int64 (num_pairs,).
        num_rows: Rows of the shard.
    """
    key, order = torch.sort(popularity.row * num_rows + popularity.other)
    found, there = place(key, popularity.query_row.index_select(0, query) * num_rows + rows)
    if not len(order):
        return score.new_zeros(len(rows))
    return score.index_select(0, order.index_select(0, found)) * there


def popular_pairs(popularity: Popularity, score: Tensor) -> PairScores:
    """Popularity as scores of the pairs that have it; `score` as of `popular_among`."""
    start, length = offsets_of(popularity.row, len(popularity.relations))
    asked = popularity.query_row
    query, entry = ragged_ranges(start.index_select(0, asked), length.index_select(0, asked))
    return PairScores(query, popularity.other.index_select(0, entry), score.index_select(0, entry))
