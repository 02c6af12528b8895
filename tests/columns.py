"""The past of queries in plain columns: a row a walk, a pair, or an object of a relation."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries
from gam_kg.history.bins import NUM_BINS, log_bin
from gam_kg.history.index import HistoryIndex
from gam_kg.history.layout import ScoreLayout, Slots, lay_out
from gam_kg.history.sampling import Sample
from gam_kg.history.walks import Joined, UniqueRows, Walks, join

NO_PAIRS = torch.zeros(0, dtype=torch.int64)


def joined_of(history: HistoryIndex, queries: Queries, sample: Sample | None = None) -> Joined:
    """What the index finds for queries, joined to them."""
    return join(history, history.find(queries), sample)


def layout_of(history: HistoryIndex, joined: Joined) -> ScoreLayout:
    """The layout of queries that are scored against all candidates."""
    slots = Slots.of(joined, NO_PAIRS, history.partition.num_rows, None)
    return lay_out(history, joined, slots)


def parts_of(joined: Joined) -> dict[str, tuple[Walks, Tensor]]:
    """The walks that are switched on and their pairs, by name."""
    walks = {name: getattr(joined, name) for name in ("facts", "paths")}
    return {name: (part, pairs_of(joined, name)) for name, part in walks.items() if part is not None}


def pairs_of(joined: Joined, name: str) -> Tensor:
    """The pairs of a part that is switched on."""
    on = [part for part in ("facts", "paths", "rules", "confidences") if getattr(joined, part) is not None]
    assert len(on) == len(joined.pairs)
    return joined.pairs[on.index(name)]


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


def rule_columns(history: HistoryIndex, queries: Queries, fewest: int, limit: int | None) -> tuple[Tensor, ...]:
    """Of each rule with a body in the past of a query: query, end; body (relation, entity); hits, exposures."""
    bodies = history.bodies(queries)
    heads, facts = history.heads(bodies, fewest), bodies.facts
    if limit is not None:
        heads = history.most_frequent(bodies, heads, limit)
    fact = bodies.fact[heads.row]
    entity = facts.neighbours[facts.of_neighbour[fact]]
    return bodies.query[heads.row], heads.item, facts.relation[fact], entity, heads.hits, heads.exposures


def joined_rule_columns(joined: Joined) -> tuple[Tensor, ...]:
    """Of each rule that is joined to a query: query, end; relation and recency of the body; kind.

    Checks that each rule is of a pair of its query.
    """
    rules, pairs = joined.rules, pairs_of(joined, "rules")
    assert rules is not None
    assert len(pairs) == rules.num_pairs
    start, pair = rules.pattern.row, pairs[rules.pair]
    query, row = pair // joined.found.num_rows, pair % joined.found.num_rows
    assert torch.equal(rules.query[start], query)
    return query, row, *_columns(rules.body, start), rules.pattern.column


def confidence_columns(joined: Joined) -> tuple[Tensor, ...]:
    """Of each pair to which rules lead: query, row of the candidate, bin of what they say together.

    Checks that the kind is that of the query.
    """
    found, pairs = joined.confidences, pairs_of(joined, "confidences")
    assert found is not None
    query, row = pairs // joined.found.num_rows, pairs % joined.found.num_rows
    assert torch.equal(found.kind, joined.found.groups.of_relation[query])
    return query, row, found.bin


def pair_columns(walks: Walks, pairs: Tensor, num_rows: int) -> tuple[Tensor, ...]:
    """Of each pair: query, row of the candidate, and for walks of one fact kind of the query and features.

    Checks that each walk is of the pair of its query and end.
    """
    query, row = pairs // num_rows, pairs % num_rows
    assert len(pairs) == walks.num_pairs
    assert torch.equal(query[walks.pair], walks.query[walks.pattern.row])
    assert torch.equal(row[walks.pair], walks.end[walks.pattern.column])
    if walks.features is None or walks.feature_kind is None:
        return query, row
    return query, row, walks.feature_kind[walks.features.index], *_columns(walks.features, torch.arange(len(pairs)))


def popular_columns(layout: ScoreLayout) -> tuple[Tensor, ...]:
    """Of each popular object that is a column: relation, column, recency, count."""
    popularity = layout.popularity
    assert popularity is not None
    start, bin_ = popularity.columns.pattern.row, popularity.columns.pattern.column
    relation = layout.kinds.relation[popularity.columns.kind][start]
    return relation, popularity.cell % layout.num_columns, bin_ // NUM_BINS, bin_ % NUM_BINS


def counted(columns: Iterable[Tensor]) -> Counter:
    """How often each row of columns is there."""
    return Counter(zip(*(column.tolist() for column in columns), strict=True))


def bin_of(value: int) -> int:
    """The `log_bin` of one number."""
    return int(log_bin(torch.tensor(value)))


def _columns(rows: UniqueRows, at: Tensor) -> tuple[Tensor, ...]:
    return tuple(column[rows.index[at]] for column in rows.columns)
