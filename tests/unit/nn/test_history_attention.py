from dataclasses import replace

import pytest
import torch
from columns import (
    bin_of,
    fact_columns,
    joined_of,
    layout_of,
    pair_columns,
    parts_of,
    path_columns,
    popular_columns,
)
from graphs import (
    NUM_ENTITIES,
    Past,
    all_queries,
    graph_of,
    history_before,
    history_config,
    queries_of,
    random_facts,
    tiny_model,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from gam_kg.history.walks import NEVER, UniqueRows
from gam_kg.ops.sparse import CSRPattern, rows_from_runs

CONFIG = history_config()
OFF = {
    "pairs": {"recent": 0, "same_relation": 0},
    "paths": {"two_hop_first": 0, "two_hop_second": 0},
    "popularity": {"popular": 0},
}


def fact_scores(model, z, past, subject, relation, time):
    """Scores of one query's candidates, one past fact at a time."""
    part = model.pair_attention
    query = part.query[relation] + part.subject.weight @ z[subject]
    entries = [(*row, False) for row in past.facts_of(subject, CONFIG.recent) if row[0] != relation]
    own = past.answers_of(subject, relation, CONFIG.same_relation)
    entries += [(relation, *row, True) for row in own]
    scores = torch.zeros(NUM_ENTITIES, dtype=z.dtype)
    for candidate in {entry[1] for entry in entries}:
        total, recencies, same = torch.zeros((), dtype=z.dtype), [], (NEVER, 0)
        for seen, other, last, times, is_same in entries:
            if other != candidate:
                continue
            recency, count = bin_of(time - last), bin_of(times)
            recencies.append(recency)
            key = part.key[seen] * (1 + part.key_recency[recency]) + part.key_count[count]
            weight = query @ (key + part.other.weight @ z[other]) + part.recency[recency] + part.count[count]
            if is_same:
                weight = weight + part.same_recency[recency] + part.same_count[count]
                same = (recency, count)
            total = total + torch.exp(weight.clamp(max=12))
        features = (*same, min(recencies), bin_of(len(recencies)))
        hidden = sum(rows[column] for rows, column in zip(part.features, features, strict=True))
        mlp = torch.relu(hidden * (1 + part.gain[relation]) + part.bias[relation]) @ part.out
        scores[candidate] = torch.log(1 + total) + mlp
    return scores


class NoDecoder(nn.Module):
    """Gives queries that match nothing."""

    def forward(self, subject, relation, rng):
        return torch.zeros_like(subject)


def scores_of_the_past(model, z, queries, graph):
    """All but the dense part of the scores."""
    model.decoder = NoDecoder()
    return scores_of(model, z, queries, graph)


def scores_of(model, z, queries, graph):
    history = history_before(graph, model.config.history, queries.time)
    return model.scores(z, layout_of(history, joined_of(history, queries))).view(len(queries), NUM_ENTITIES)


def path_scores(model, z, past, subject, relation, time):
    part = model.path_attention
    query = part.query[relation] + part.subject.weight @ z[subject]
    totals = torch.zeros(NUM_ENTITIES, dtype=z.dtype)
    for r1, neighbour, last1, _ in past.facts_of(subject, CONFIG.two_hop_first):
        for r2, candidate, last2, times in past.facts_of(neighbour, CONFIG.two_hop_second):
            if candidate == subject:
                continue
            second = part.second[r2]
            key = part.first[r1] * (1 + part.first_recency[bin_of(time - last1)]) * (1 + second)
            key = key + part.second_recency[bin_of(time - last2)] + part.second_count[bin_of(times)]
            key = key + second + part.other.weight @ z[candidate]
            totals[candidate] += torch.exp((query @ key + part.bias).clamp(max=10))
    return torch.log(1 + totals)


def popularity_scores(model, z, past, subject, relation, time):
    part = model.popularity
    scores = torch.zeros(NUM_ENTITIES, dtype=z.dtype)
    for candidate, last, times in past.popular(relation, CONFIG.popular):
        recency, count = bin_of(time - last), bin_of(times)
        features = part.recency[recency] + part.count[count]
        scores[candidate] = part.relation[relation] @ features + part.recency_bias[recency] + part.count_bias[count]
    return scores


FORMULAS = {"pairs": fact_scores, "paths": path_scores, "popularity": popularity_scores}


@pytest.mark.parametrize("part", FORMULAS)
@pytest.mark.parametrize("scale", [1.0, 6.0])  # at the larger one the upper bounds of the weights act
@given(seed=st.integers(0, 1000), time=st.integers(0, 9))
@settings(max_examples=6)
@torch.no_grad()
def test_each_part_equals_a_loop_over_queries_and_facts(part, scale, seed, time):
    facts = random_facts(seed)
    graph = graph_of(facts)
    off = {key: value for name, changes in OFF.items() if name != part for key, value in changes.items()}
    model = tiny_model(graph, seed, history=off)
    for parameter in model.parameters():
        parameter *= scale
    z = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64)
    queries, past = all_queries(time), Past(facts, time)
    scores = scores_of_the_past(model, z, queries, graph)
    expected = torch.stack(
        [
            FORMULAS[part](model, z, past, s, r, time)
            for s, r in zip(queries.subject.tolist(), queries.relation.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)


def naive_pairs(part, z, query, relation, walks, pairs):
    """`FactAttention` with vectors for all walks and pairs."""
    of_query, other, seen, recency, count, same = fact_columns(walks)
    key = part.key[seen] * (1 + part.key_recency[recency]) + part.key_count[count] + part.other(z)[other]
    extra = part.recency[recency] + part.count[count]
    extra = extra + torch.where(same == 1, part.same_recency[recency] + part.same_count[count], 0)
    weight = (query[of_query] * key).sum(-1) + extra
    total = torch.zeros(walks.num_pairs, dtype=z.dtype)
    pointer = torch.log1p(total.index_add(0, walks.pair, weight.clamp(max=12).exp()))
    of_query, _, _, *features = pair_columns(walks, pairs, NUM_ENTITIES)
    hidden = sum(rows[column] for rows, column in zip(part.features, features, strict=True))
    own = relation[of_query]
    return pointer + torch.relu(hidden * (1 + part.gain[own]) + part.bias[own]) @ part.out


def naive_paths(part, z, query, relation, walks, pairs):
    of_query, other, seen, first_recency, then, recency, count = path_columns(walks)
    first = part.first[seen] * (1 + part.first_recency[first_recency])
    second = part.second[then]
    ending = second + part.second_recency[recency] + part.second_count[count] + part.other(z)[other]
    weight = (query[of_query] * (first * (1 + second) + ending)).sum(-1) + part.bias
    total = torch.zeros(walks.num_pairs, dtype=z.dtype)
    return torch.log1p(total.index_add(0, walks.pair, weight.clamp(max=10).exp()))


NAIVE = {"facts": naive_pairs, "paths": naive_paths}
OTHERS_OFF = {"facts": OFF["paths"] | OFF["popularity"], "paths": OFF["pairs"] | OFF["popularity"]}


def shuffled(walks, random):
    """The same walks in another order, and a third of them twice."""
    size = len(walks.pair)
    order = [*range(size), *range(0, size, 3)]
    random.shuffle(order)
    order = torch.tensor(order, dtype=torch.int64)
    run, offsets = rows_from_runs(walks.pattern.row[order])
    first = None if walks.first is None else UniqueRows(walks.first.columns, walks.first.index[run])
    pattern = CSRPattern.of(offsets, walks.pattern.column[order], len(walks.end))
    return replace(walks, query=walks.query[run], first=first, pattern=pattern, pair=walks.pair[order])


def check_gradients(found, expected, inputs):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad(score, inputs, grad, retain_graph=True, allow_unused=True, materialize_grads=True)
        for score in (found, expected)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("part", NAIVE)
@given(st.integers(0, 1000), st.integers(0, 9), st.booleans(), st.randoms(use_true_random=False))
@example(0, 0, False, None)  # nothing is past
@settings(max_examples=12, deadline=None)
def test_scores_and_gradients_are_those_of_vectors_for_all_walks(part, seed, time, shuffle, random):
    graph = graph_of(random_facts(seed))
    model = tiny_model(graph, seed, history=OTHERS_OFF[part])
    queries, history = all_queries(time), history_before(graph, model.config.history, time)
    joined = joined_of(history, queries)
    walks, pairs = parts_of(joined)[part]
    walks = shuffled(walks, random) if shuffle and random else walks
    layout = layout_of(history, replace(joined, **{part: walks}))
    z = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64, requires_grad=True)
    _, *by_part = model.split_query_vectors(model.query_vectors(z[layout.row], layout))
    query, layer = {"facts": (by_part[0], model.pair_attention), "paths": (by_part[1], model.path_attention)}[part]
    (found,) = model.walk_scores(z[layout.ends], *by_part, layout)
    expected = NAIVE[part](layer, z, query, queries.relation, walks, pairs)
    check_gradients(found, expected, (z, *layer.parameters()))


@given(st.integers(0, 1000), st.integers(0, 9))
@example(0, 0)  # nothing is past
@settings(max_examples=12, deadline=None)
def test_popularity_and_its_gradients_are_those_of_vectors_for_all_objects(seed, time):
    graph = graph_of(random_facts(seed))
    model = tiny_model(graph, seed, history=OFF["pairs"] | OFF["paths"])
    part, queries, history = model.popularity, all_queries(time), history_before(graph, model.config.history, time)
    layout = layout_of(history, joined_of(history, queries))
    relation, other, recency, count = popular_columns(layout.popularity, NUM_ENTITIES)
    score = (part.relation[relation] * (part.recency[recency] + part.count[count])).sum(-1)
    score = score + part.recency_bias[recency] + part.count_bias[count]
    table = torch.zeros(len(part.relation), NUM_ENTITIES, dtype=torch.float64).index_put((relation, other), score)
    expected = table[queries.relation]
    model.decoder = NoDecoder()
    z = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64, requires_grad=True)
    check_gradients(model.scores(z, layout).view_as(expected), expected, (z, *part.parameters()))
    position, object_ = layout.popularity.by_query(NUM_ENTITIES)
    by_query = torch.zeros_like(expected).flatten().index_add(0, position, part(layout.popularity)[object_])
    torch.testing.assert_close(by_query.view_as(expected), expected, rtol=1e-10, atol=1e-10)


def test_scores_are_the_sum_of_the_dense_part_and_all_others():
    facts = random_facts(0)
    graph = graph_of(facts)
    model = tiny_model(graph)
    z, queries, past = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64), all_queries(6), Past(facts, 6)
    scores = scores_of(model, z, queries, graph)
    for row in range(0, len(queries), 7):
        subject, relation = int(queries.subject[row]), int(queries.relation[row])
        expected = model.decoder(z[subject][None], model.relation[relation][None])[0] @ z.T
        expected = expected + sum(formula(model, z, past, subject, relation, 6) for formula in FORMULAS.values())
        torch.testing.assert_close(scores[row], expected, rtol=1e-10, atol=1e-10)


def test_nothing_is_added_where_nothing_was_seen():
    graph = graph_of([(0, 0, 1, 3)])
    model = tiny_model(graph)
    z, queries = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64), queries_of([(0, 0), (7, 1)], time=2)
    assert not scores_of_the_past(model, z, queries, graph).any()
