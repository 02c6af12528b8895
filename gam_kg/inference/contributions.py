"""What scores consist of: what each part adds, and which facts, paths and rules of the past carry it.

A score is a sum, and what a part adds to it is exact. A pointer part, log(1 + S) with S = Σ exp w over the walks from
the query to the candidate, is divided among its walks in proportion to exp w. That is an attribution: without a walk
the score falls by log((1 + S) / (1 + S - exp w)), which is at most its share, and most for the walk of most weight.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries
from gam_kg.history.index import HistoryIndex
from gam_kg.history.layout import ScoreLayout, Slots, lay_out
from gam_kg.history.walks import Joined, LastFacts, Walks, join
from gam_kg.inference.pair_statistics import pair_statistics
from gam_kg.nn.vectors import segment_log_sum
from gam_kg.ops.precision import float32_products
from gam_kg.ops.ragged import find_keys, last_of_each, select, sort_with_positions
from gam_kg.ops.records import map_tensors
from gam_kg.training.evaluate import ModelScorer
from gam_kg.training.step_batch import to_device

PARTS = {
    "vector": "what the answer is, and its memory, fit the query",
    "facts": "past facts of the two",
    "pattern": "how often, recently and regularly they had them",
    "paths": "paths of two past facts to the answer",
    "rules": "past facts that often led to such an answer",
    "confidence": "how likely all counted rules make it",
    "popularity": "how often and recently anyone had this answer",
}
"""What adds to a score, in plain words."""

ATTENDED = "facts", "paths", "rules"
"""The parts that are divided among what the query attends to."""

ANYONE = -1
"""Stands for the entity of a fact that may be any."""


@dataclass(frozen=True)
class FactColumns:
    """Past facts as the history has them, int64 (num_facts,) each.

    Attributes:
        subject, relation, object: Ids; the relation may be an inverse one, and the subject `ANYONE`.
        last, count: Snapshot in which each was last seen, and in how many it was.
    """

    subject: Tensor
    relation: Tensor
    object: Tensor
    last: Tensor
    count: Tensor


@dataclass(frozen=True)
class Carriers:
    """What carries one part of the scores of some pairs.

    Attributes:
        part: One of `PARTS`.
        place: Which of the part's walks each is, or which of its pairs where it is not divided, int64 (num_carriers,).
        pair: Whose score each carries, int64 (num_carriers,).
        share: What it adds to it, float64 (num_carriers,).
        weight: Its attention weight, exp w / (1 + S), float64 (num_carriers,); None: the part is not divided.
        facts: The past facts that it consists of, one after another.
        statistics: What else it was computed from, by name, (num_carriers,) each.
    """

    part: str
    place: Tensor
    pair: Tensor
    share: Tensor
    weight: Tensor | None = None
    facts: tuple[FactColumns, ...] = ()
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def where(self, mask: Tensor) -> "Carriers":
        """The carriers at which a mask is true, bool (num_carriers,)."""
        statistics = {name: column[mask] for name, column in self.statistics.items()}
        return replace(map_tensors(self, lambda column: column[mask]), statistics=statistics)


@dataclass(frozen=True)
class Contributions:
    """What the scores of some pairs of a query and a candidate consist of.

    Attributes:
        parts: What each of `PARTS` adds, float64 (num_pairs, num_parts); the scores are their sums.
        mean: What each adds on average over all candidates of the pair's query, likewise.
        carriers: What carries each part but the vector's.
    """

    parts: Tensor
    mean: Tensor
    carriers: list[Carriers]


@torch.no_grad()
@float32_products()
def contributions(
    scorer: ModelScorer, queries: Queries, query: Tensor, candidate: Tensor, top: int | None = None
) -> Contributions:
    """What the scores of some pairs consist of, in a world of one; about the work of scoring the queries once.

    Args:
        scorer: Has observed what the queries may see.
        queries: The queries, at most as many as are scored together.
        query: Place of each pair's query among the queries, int64 (num_pairs,).
        candidate: Its entity, int64 (num_pairs,); the pairs are distinct and ascending.
        top: Carriers of each pair, those with the largest shares, for or against it; None: all.
    """
    history = scorer.history
    joined = join(history, history.find(queries))
    slots = Slots.of(joined, queries.answer[:0], history.partition.num_rows, None)
    layout = to_device(lay_out(history, joined, slots), scorer.memory.hidden.device)
    found = _Pairs(queries, query, candidate, joined.found.num_rows, top)
    of_parts, carriers = dict.fromkeys(PARTS, (torch.zeros(len(query), dtype=torch.float64),) * 2), []
    for part, values, carried_by in _parts(scorer, joined, layout, found):
        of_parts[part] = values
        carriers += [] if carried_by is None else [carried_by]
    parts, mean = (torch.stack(columns, 1) for columns in zip(*of_parts.values(), strict=True))
    return Contributions(parts, mean, carriers if top is None else _largest(carriers, len(query), top))


def _largest(carriers: list[Carriers], num_pairs: int, top: int) -> list[Carriers]:
    """Those of each pair that have the largest shares, for or against it, whatever the part."""
    if not carriers:
        return []
    pair, share = (torch.cat([getattr(one, name) for one in carriers]) for name in ("pair", "share"))
    order = _by_pair(pair, share.abs())
    among = torch.zeros(len(pair), dtype=torch.bool)
    among[order] = last_of_each(pair[order], num_pairs, top)
    return [one.where(few) for one, few in zip(carriers, among.split([len(one.pair) for one in carriers]), strict=True)]


def _by_pair(pair: Tensor, value: Tensor) -> Tensor:
    """The order by pair, and of a pair by ascending value."""
    order = torch.argsort(value, stable=True)
    return order[sort_with_positions(pair[order])[1]]


_Values = tuple[Tensor, Tensor]
"""What a part adds to each pair, and on average over all candidates of its query."""


def _parts(
    scorer: ModelScorer, joined: Joined, layout: ScoreLayout, found: "_Pairs"
) -> Iterator[tuple[str, _Values, Carriers | None]]:
    """Each part that the model has: its name, what it adds, and what carries it."""
    model, z, history, past = scorer.model, scorer.vectors(), scorer.history, joined.found
    layout = layout.with_relation_rows(model.relation_rows())
    queries = model.query_vectors(z.index_select(0, layout.row), layout)
    dense, fact, path, rule = model.split_query_vectors(queries)
    of_facts, of_paths = model.end_keys(z.index_select(0, layout.ends))
    yield "vector", found.products(dense, z), None
    pairs = iter(joined.pairs)
    if joined.facts is not None and layout.facts is not None:
        of_part, walks = next(pairs), joined.facts
        weights = model.pair_attention.log_weights(of_facts, fact, layout.facts)
        values, walk, carriers = found.attended("facts", of_part, walks.pair, weights)
        last_facts, at = LastFacts.of(past, past.recent, past.same_relation), walks.pattern.column[walk]
        subject = found.queries.subject[walks.query[walks.pattern.row[walk]]]
        facts = FactColumns(subject, *(column[at] for column in vars(last_facts).values()))
        yield "facts", values, replace(carriers, facts=(facts,))
        if model.pair_attention.statistics:
            value = model.pair_attention.pattern(layout.facts, layout.kinds)
            values, carriers = found.added("pattern", of_part, value)
            yield (
                "pattern",
                values,
                replace(carriers, statistics=pair_statistics(history, joined, found.number[carriers.pair])),
            )
    if joined.paths is not None and layout.paths is not None:
        weights = model.path_attention.log_weights(of_paths, path, layout.paths)
        values, walk, carriers = found.attended("paths", next(pairs), joined.paths.pair, weights)
        yield "paths", values, replace(carriers, facts=_hops(history, joined, joined.paths, walk))
    if joined.rules is not None and layout.rules is not None and past.rules is not None:
        (bodies, heads), rules = past.rules, joined.rules
        weights = model.rule_attention.log_weights(rule, layout.rules)
        values, walk, carriers = found.attended("rules", next(pairs), rules.pair, weights)
        start, body = rules.pattern.row[walk], bodies.facts
        at, subject = rules.body.index[start], found.queries.subject[rules.query[start]]
        facts = _seen(history, subject, body.relation[at], body.neighbours[body.of_neighbour[at]])
        statistics = {"hits": heads.hits[walk], "exposures": heads.exposures[walk]}
        yield "rules", values, replace(carriers, facts=(facts,), statistics=statistics)
    if joined.confidences is not None and layout.confidences is not None:
        values, carriers = found.added("confidence", next(pairs), model.confidence(layout.confidences, layout.kinds))
        yield "confidence", values, replace(carriers, statistics={"bin": joined.confidences.bin[carriers.place]})
    if layout.popularity is not None and past.popular is not None:
        of_part, entry = (one.cpu().long() for one in layout.popularity.by_query(layout.num_columns))
        value = model.popularity(layout.popularity.columns, layout.kinds).cpu()[entry]
        values, carriers = found.added("popularity", of_part, value)
        entry, pair = entry[carriers.place], carriers.pair
        relation, object_ = found.queries.relation[found.query[pair]], found.row[pair]
        facts = torch.full_like(pair, ANYONE), relation, object_, past.popular.last[entry], past.popular.count[entry]
        yield "popularity", values, replace(carriers, facts=(FactColumns(*facts),))


def _hops(history: HistoryIndex, joined: Joined, paths: Walks, walk: Tensor) -> tuple[FactColumns, FactColumns]:
    """The two facts of some paths."""
    hops, second, start = joined.found.hops, joined.found.second, paths.pattern.row[walk]
    assert hops is not None
    assert second is not None
    assert paths.first is not None
    first, last = paths.first.index[start], paths.pattern.column[walk]
    subject = joined.found.groups.queries.subject[paths.query[start]]
    between, num_rows = hops.neighbours[hops.of_neighbour[first]], joined.found.num_rows
    item = second.item[last]
    return (
        _seen(history, subject, hops.relation[first], between),
        FactColumns(between, item // num_rows, item % num_rows, second.last[last], second.count[last]),
    )


def _seen(history: HistoryIndex, subject: Tensor, relation: Tensor, object_: Tensor) -> FactColumns:
    count, last = history.times_seen(subject, relation, object_)
    return FactColumns(subject, relation, object_, last, count)


class _Pairs:
    """The pairs whose scores are looked into, to be found among those of a part. A pair is `query * num_rows + row`."""

    def __init__(self, queries: Queries, query: Tensor, row: Tensor, num_rows: int, top: int | None) -> None:
        self.queries, self.query, self.row, self.num_rows, self.top = queries, query, row, num_rows, top
        self.number = query * num_rows + row

    def products(self, query: Tensor, z: Tensor) -> _Values:
        """Inner products of queries and candidates."""
        left, mean = query.cpu().double()[self.query], z.mean(0, dtype=torch.float64).cpu()
        return (left * z[self.row.to(z.device)].cpu().double()).sum(1), left @ mean

    def added(self, part: str, pairs: Tensor, value: Tensor) -> tuple[_Values, Carriers]:
        """What a part adds that has these pairs, distinct, with these values, (num_pairs_of_part,) each."""
        value, (place, known) = value.cpu().double(), find_keys(self.number, pairs)
        there, pair = select(known, torch.arange(len(pairs)), place)
        share = value[there]
        of_pair = torch.zeros(len(self.number), dtype=torch.float64).index_copy_(0, pair, share)
        of_query = torch.zeros(len(self.queries), dtype=torch.float64).index_add_(0, pairs // self.num_rows, value)
        return (of_pair, of_query[self.query] / self.num_rows), Carriers(part, there, pair, share)

    def attended(
        self, part: str, pairs: Tensor, pair_of_walk: Tensor, log_weight: Tensor
    ) -> tuple[_Values, Tensor, Carriers]:
        """What a part adds that is divided among walks, and which walks are looked into.

        Args:
            part: Its name.
            pairs: Its pairs, distinct.
            pair_of_walk: Which of them each walk has, (num_walks,).
            log_weight: Logarithm of what each walk weighs, (num_walks,).
        """
        log_weight = log_weight.cpu().double()
        values, whole = self.added(part, pairs, segment_log_sum(log_weight, pair_of_walk, len(pairs)))
        number = torch.full((len(pairs),), -1).index_copy_(0, whole.place, whole.pair)[pair_of_walk]
        (walk,) = torch.nonzero(number >= 0, as_tuple=True)
        order = _by_pair(number[walk], log_weight[walk])
        walk, pair = walk[order], number[walk[order]]
        if self.top is not None:
            walk, pair = select(last_of_each(pair, len(self.number), self.top), walk, pair)
        pointer, weight = values[0][pair], log_weight[walk].exp()
        total = torch.expm1(pointer).clamp(min=torch.finfo(torch.float64).tiny)
        return values, walk, Carriers(part, walk, pair, pointer * weight / total, weight / (1 + total))
