"""How alike entities that share a word act: those named "(Nigeria)" do, those whose first name is "John" do not."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gam_kg.graph.name_words import NameWords
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.ops.sparse import CSRPattern

HALF_LIFT, HALF_ENTITIES, LEAST = 3, 20, 0.01
MOST_COLUMNS, FEWEST_COLUMNS, MOST_NUMBERS = 1024, 64, 2**24
"""Columns of a sketch, where all sketches together should not have more than `MOST_NUMBERS`."""
_SIGNS_AT_ONCE = 2**24


def word_agreement(words: NameWords, graph: TemporalGraph, total: Callable[[Tensor], Tensor]) -> Tensor:
    """How much each word says of the entities that have it, from 0 to 1, float64 (num_words,). A collective.

    Facts drawn of two entities are about the same (r, o) with some probability. That of the pairs of entities with a
    word, less its standard error, over that of all pairs, less 1, is the word's lift l, at least 0. Where n entities
    have the word, it says l / (l + 3) · n / (n + 20), at least 0.01, so that names tell newcomers apart of whom nothing
    else is known. Entities and facts are those of train. Words of features, which have blanks, were given for what
    they say: 1.

    Facts are counted in sketches of fixed size, whose inner products are right on average.
    Source: Alon, Matias & Szegedy 1996, section 2.2.

    Args:
        words: The words of all entities.
        graph: The rank's facts.
        total: Elementwise sum over ranks.
    """
    ids, num_words = graph.partition.ids, len(words.words)
    sketch = _sketches(graph)
    parts = sketch, torch.linalg.vecdot(sketch, sketch)[:, None] / sketch.shape[1], torch.ones(len(ids), 1).double()
    trained = graph.trained[ids].double()
    pattern, _ = CSRPattern.of(words.offsets, words.word, num_words).select(ids, num_words)
    of_word = trained[pattern.row]
    by_chance, _, _ = _agreement(total(torch.cat([trained @ part for part in parts])[None]))
    sums = torch.cat([pattern.transposed_product(of_word, part) for part in parts], 1)
    found, error, number = _agreement(total(sums))
    lift = torch.where(by_chance > 0, (found - error) / by_chance - 1, 0).clamp(min=0)
    says = lift / (lift + HALF_LIFT) * number / (number + HALF_ENTITIES)
    is_feature = torch.tensor([" " in word for word in words.words], dtype=torch.bool)
    return torch.where(is_feature, 1, says.clamp(min=LEAST))


def sketch_columns(num_entities: int) -> int:
    """Columns of the sketch of each of so many entities."""
    return min(MOST_COLUMNS, max(FEWEST_COLUMNS, MOST_NUMBERS // max(1, num_entities)))


def _agreement(sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How likely facts of two entities of a group agree, its standard error, and the number of its entities.

    Args:
        sums: Sums over each group of sketches, of their mean squares, and of ones, (num_groups, columns + 2).
    """
    sketch, own, number = sums[:, :-2], sums[:, -2], sums[:, -1]
    others = (number - 1).clamp(min=1)
    found = (sketch.square().mean(1) - own) / (number * others).clamp(min=1)
    error = math.sqrt(2 / sketch.shape[1]) * own / number.clamp(min=1) / others
    return found, torch.where(number > 1, error, math.inf), number


def _sketches(graph: TemporalGraph) -> Tensor:
    """The sketch of the facts in train of each of the rank's entities, per fact, float64 (num_rows, columns)."""
    columns = sketch_columns(graph.num_entities)
    partition, rng = graph.partition, CounterRNG(0, 0)
    sums = torch.zeros(len(partition.ids), columns, dtype=torch.int32)
    number = torch.zeros(len(partition.ids), dtype=torch.int64)
    for part in graph.facts.parts():
        (in_train,) = torch.nonzero(part.time < graph.valid_start, as_tuple=True)
        for some in in_train.split(_SIGNS_AT_ONCE // columns):
            rows = part.at(some)
            bits = rng.rows(graph.fact_tie(rows.relation, rows.other), "sketch").bits(columns, "sketch")
            at = partition.rows(rows.anchor)
            sums.index_add_(0, at, torch.where(bits < 0, -1, 1).to(torch.int32))
            number += torch.bincount(at, minlength=len(number))
    return sums.double().div_(number.clamp(min=1)[:, None])
