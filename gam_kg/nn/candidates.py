"""Sampled candidates: what a step's queries are scored against where there are too many entities for all of them.

The candidates of a query are the entities of the step's facts and those that the history has of its subject, which it
always meets, and entities drawn uniformly from the rest, which stand for all of the rest. So a step costs what its
facts cost, whatever the number of entities.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gam_kg.data.partition import Partition
from gam_kg.data.past import History, Popularity
from gam_kg.data.ragged import offsets_of, ragged_ranges, where
from gam_kg.data.snapshot import Queries
from gam_kg.nn.history_attention import PairScores


@dataclass(frozen=True)
class Candidates:
    """The candidates that all queries of a step share, as a rank has them.

    Attributes:
        rows: Their rows in the rank's shard, int64 (num_candidates,), ascending.
        log_weight: Logarithm of how many entities each stands for, (num_candidates,): 0 for the step's own.
    """

    rows: Tensor
    log_weight: Tensor

    @classmethod
    def draw(cls, queries: Queries, num_negatives: int, partition: Partition, seed: int) -> "Candidates":
        """The subjects and answers of queries, and others drawn uniformly; alike on any number of ranks.

        Args:
            queries: All queries of the step, alike on all ranks.
            num_negatives: How many are drawn, some of which may be double or the step's own; where there are no more
                entities than that, all are taken.
            partition: The rank's entities.
            seed: Of the draw.
        """
        device, num_entities = queries.subject.device, partition.num_entities
        own = torch.unique(torch.cat([queries.subject, queries.answer]))
        if num_negatives >= num_entities:
            drawn = torch.arange(num_entities, device=device)
        else:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.unique(torch.randint(num_entities, (num_negatives,), generator=generator)).to(device)
        (others,) = where(~torch.isin(drawn, own), drawn)
        weight = math.log((num_entities - len(own)) / len(others)) if len(others) else 0.0
        ids = torch.cat([own, others])
        log_weight = torch.zeros(len(ids), device=device)
        log_weight[len(own) :] = weight
        ids, log_weight = where(partition.owns(ids), ids, log_weight)
        rows, order = torch.sort(partition.rows(ids))
        return cls(rows, log_weight[order])


@dataclass(frozen=True)
class SampledScores:
    """Scores of a rank's candidates for a step's queries.

    Attributes:
        dense: Of the candidates that all queries share, (num_queries, num_candidates).
        log_weight: As of `Candidates`.
        query, score: Of candidates that one query alone meets, for its history has them, (num_extra,) each.
        replaced: Positions in the flat `dense` of drawn candidates that stand among those, int64 (num_replaced,).
    """

    dense: Tensor
    log_weight: Tensor
    query: Tensor
    score: Tensor
    replaced: Tensor


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


def held_history(history: History, held: Tensor) -> History:
    """The same history with candidates of pairs and paths told by their place among held rows, which include them."""
    pairs, paths = history.pairs, history.paths
    if pairs is not None:
        entry, pair = (place(held, rows)[0] for rows in (pairs.entry_other, pairs.pair_other))
        pairs = replace(pairs, entry_other=entry, pair_other=pair)
    if paths is not None:
        second, pair = (place(held, rows)[0] for rows in (paths.second_other, paths.pair_other))
        paths = replace(paths, second_other=second, pair_other=pair)
    return History(pairs, paths, history.popularity)


@dataclass(frozen=True)
class DividedPairs:
    """Pairs of a query and a candidate of its history, by whether all queries share the candidate.

    Attributes:
        shared: Those with one of the step's own entities, told by its column.
        query, other: The others, each pair once, int64 (num_extra,), ascending by query.
        score: What their parts add up to, (num_extra,).
        replaced: Positions in flat dense scores of drawn candidates that stand among the others.
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
            candidates: What all queries share.
            column: Their place among the held rows, int64 (num_candidates,).
            num_held: Number of held rows.
        """
        number = torch.arange(len(column), device=column.device)
        certain, drawn = (
            torch.full((num_held,), -1, device=column.device).index_copy_(0, *where(mask, column, number))
            for mask in (candidates.log_weight == 0, candidates.log_weight != 0)
        )
        shared, keys, scores = [], [], []
        for part in parts:
            at = certain.index_select(0, part.other)
            shared.append(PairScores(*where(at >= 0, part.query, at, part.score)))
            key, score = where(at < 0, part.query * num_held + part.other, part.score)
            keys.append(key)
            scores.append(score)
        nothing = torch.zeros(0, device=column.device)
        key, index = torch.unique(torch.cat([nothing.long(), *keys]), return_inverse=True)
        score = torch.cat(scores) if scores else nothing
        score = score.new_zeros(len(key)).index_add(0, index, score)
        query, other = key // max(1, num_held), key % max(1, num_held)
        at = drawn.index_select(0, other)
        return cls(shared, query, other, score, where(at >= 0, query * len(column) + at)[0])


def popular_among(popularity: Popularity, score: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The part of popularity that is about some rows.

    Args:
        popularity: What the history has.
        score: Of each of its entries, (num_entries,).
        rows: Ascending, int64 (num_rows,).

    Returns:
        Relation's row, place among the rows and score of each entry of that part.
    """
    found, there = place(rows, popularity.other)
    row, other, score = where(there, popularity.row, found, score)
    return row, other, score


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
