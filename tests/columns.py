"""The past of queries in plain columns: a row a walk, a pair, or an object of a relation."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries
from gam_kg.history.index import HistoryIndex
from gam_kg.history.layout import Popularity, ScoreLayout, Slots, lay_out
from gam_kg.history.sampling import Sample
from gam_kg.history.walks import NUM_BINS, Joined, UniqueRows, Walks, join, log_bin

NO_PAIRS = torch.zeros(0, dtype=torch.int64)


def joined_of(history: HistoryIndex, queries: Queries, sample: Sample | None = None) -> Joined:
    """What the index finds for queries, joined to them."""
    return join(history.find(queries), history.config, sample)


def layout_of(history: HistoryIndex, joined: Joined) -> ScoreLayout:
    """The layout of queries that are scored against all candidates."""
    slots = Slots.of(joined, NO_PAIRS, history.partition.num_rows, None)
    return lay_out(history, joined, slots)


def parts_of(joined: Joined) -> dict[str, tuple[Walks, Tensor]]:
    """The walks that are switched on and their pairs, by name."""
    walks = {name: getattr(joined, name) for name in ("facts", "paths")}
    on = {name: part for name, part in walks.items() if part is not None}
    return {name: (part, pairs) for (name, part), pairs in zip(on.items(), joined.pairs, strict=True)}


def fact_columns(walks: Walks) -> tuple[Tensor, ...]:
    """Of each walk of one fact: query, end; relation, recency, count, whether it was looked up by relation."""
    fact = walks.pattern.column
    return walks.query[walks.pattern.row], walks.end[fact], *_columns(walks.facts, fact)


def path_columns(walks: Walks) -> tuple[Tensor, ...]:
    """Of each walk of two facts: query, end; relation, recency of the first; relation, recency, count of the last."""
    assert walks.first is not None
    start, fact = walks.pattern.row, walks.pattern.column
    relation, recency, count, _ = _columns(walks.facts, fact)
    return walks.query[start], walks.end[fact], *_columns(walks.first, start), relation, recency, count


def pair_columns(walks: Walks, pairs: Tensor, num_rows: int) -> tuple[Tensor, ...]:
    """Of each pair: query, row of the candidate, and the features of walks of one fact.

    Checks that each walk is of the pair of its query and end.
    """
    query, row = pairs // num_rows, pairs % num_rows
    assert len(pairs) == walks.num_pairs
    assert torch.equal(query[walks.pair], walks.query[walks.pattern.row])
    assert torch.equal(row[walks.pair], walks.end[walks.pattern.column])
    features = () if walks.features is None else _columns(walks.features, torch.arange(len(pairs)))
    return query, row, *features


def popular_columns(popularity: Popularity, num_columns: int) -> tuple[Tensor, ...]:
    """Of each object that is a column: relation, column, recency, count."""
    bin_ = popularity.pattern.column[: len(popularity.cell)]
    relation = popularity.relation[popularity.pattern.row[: len(popularity.cell)]]
    return relation, popularity.cell % num_columns, bin_ // NUM_BINS, bin_ % NUM_BINS


def counted(columns: Iterable[Tensor]) -> Counter:
    """How often each row of columns is there."""
    return Counter(zip(*(column.tolist() for column in columns), strict=True))


def bin_of(value: int) -> int:
    """The `log_bin` of one number."""
    return int(log_bin(torch.tensor(value)))


def _columns(rows: UniqueRows, at: Tensor) -> tuple[Tensor, ...]:
    return tuple(column[rows.index[at]] for column in rows.columns)
