import math
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache

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
    NUM_RELATIONS,
    NUM_SNAPSHOTS,
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
from pair_past import features_of, query_of
from rules_by_hand import pair_rules_by_hand, rules_by_hand, together_by_hand
from strategies import horizons
from torch import nn

from gam_kg.history.confidence import BOUNDS
from gam_kg.history.pair_features import PARTS
from gam_kg.history.rule_walks import CONFIDENCES, RULE_PARTS
from gam_kg.history.walks import UniqueRows
from gam_kg.ops.sparse import CSRPattern, rows_from_runs

CONFIG = history_config()
OFF = {
    "pairs": {"recent": 0, "same_relation": 0},
    "paths": {"two_hop_first": 0, "two_hop_second": 0},
    "rules": {"rule_bodies": 0},
    "popularity": {"popular": 0},
    "confidences": {"rule_confidence": False},
}


def row_of(part, relation, horizon):
    """The row of a relation, or of several, for queries of a horizon."""
    return part.rows[relation] + math.log2(horizon) * part.slope[relation]


def pair_mlp(part, features, relation, horizon):
    """The score of a pair, of several pairs at once, from the bins of each feature."""
    found = zip(part.features, PARTS, strict=True)
    hidden = sum(feature_row(rows, feature, features[feature]) for rows, feature in found)
    hidden = hidden * (1 + row_of(part.gain, relation, horizon)) + row_of(part.bias, relation, horizon)
    return torch.relu(hidden) @ part.out


def feature_row(rows, feature, bins):
    """The row of a combination of bins, from the parameters of `FeatureRows`."""
    parts = [of_part[bin_] for of_part, bin_ in zip(rows.parts, bins, strict=True)]
    return sum(parts, rows.joint.view(*PARTS[feature], -1)[bins])


def gate_of(gate, past, subject, relation, now, horizon):
    """The factor of one query's inner products."""
    answers = past.answers_of(subject, relation, CONFIG.same_relation)
    bins = tuple(min(bin_, size - 1) for bin_, size in zip(query_of(answers, now), PARTS["query"], strict=True))
    row = feature_row(gate.past, "query", bins) * (1 + row_of(gate.relation, relation, horizon))
    return torch.exp((row.sum() + row_of(gate.bias, relation, horizon)[0]).clamp(-4, 2))


def fact_scores(model, z, past, subject, relation, now, horizon):
    """Scores of one query's candidates, one past fact at a time."""
    part = model.pair_attention
    query = row_of(part.query, relation, horizon) + part.subject.weight @ z[subject]
    entries = [(*row, False) for row in past.facts_of(subject, CONFIG.recent) if row[0] != relation]
    own = past.answers_of(subject, relation, CONFIG.same_relation)
    entries += [(relation, *row, True) for row in own]
    scores = torch.zeros(NUM_ENTITIES, dtype=z.dtype)
    for candidate in {entry[1] for entry in entries}:
        total = torch.zeros((), dtype=z.dtype)
        for seen, other, last, times, is_same in entries:
            if other != candidate:
                continue
            recency, count = bin_of(now - last), bin_of(times)
            key = part.key[seen] * (1 + part.key_recency[recency]) + part.key_count[count]
            weight = query @ (key + part.other.weight @ z[other]) + part.recency[recency] + part.count[count]
            if is_same:
                weight = weight + part.same_recency[recency] + part.same_count[count]
            total = total + torch.exp(weight.clamp(max=12))
        features = features_of(past, (subject, relation), candidate, now, CONFIG)
        scores[candidate] = torch.log(1 + total) + pair_mlp(part, features, relation, horizon)
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
    history = history_before(graph, model.config.history, queries.now)
    return model.scores(z, layout_of(history, joined_of(history, queries))).view(len(queries), NUM_ENTITIES)


def path_scores(model, z, past, subject, relation, now, horizon):
    part = model.path_attention
    query = row_of(part.query, relation, horizon) + part.subject.weight @ z[subject]
    totals = torch.zeros(NUM_ENTITIES, dtype=z.dtype)
    for r1, neighbour, last1, _ in past.facts_of(subject, CONFIG.two_hop_first):
        for r2, candidate, last2, times in past.ends_of(neighbour, CONFIG):
            if candidate == subject:
                continue
            second = part.second[r2]
            key = part.first[r1] * (1 + part.first_recency[bin_of(now - last1)]) * (1 + second)
            key = key + part.second_recency[bin_of(now - last2)] + part.second_count[bin_of(times)]
            key = key + second + part.other.weight @ z[candidate]
            totals[candidate] += torch.exp((query @ key + part.bias).clamp(max=10))
    return torch.log(1 + totals)


def popularity_scores(model, z, past, subject, relation, now, horizon):
    part = model.popularity
    scores = torch.zeros(NUM_ENTITIES, dtype=z.dtype)
    for candidate, last, times in past.popular(relation, CONFIG.popular):
        recency, count = bin_of(now - last), bin_of(times)
        features = part.recency[recency] + part.count[count]
        scores[candidate] = row_of(part.relation, relation, horizon) @ features
        scores[candidate] += part.recency_bias[recency] + part.count_bias[count]
    return scores


@lru_cache(maxsize=1)
def rules_of(past):
    """Exposures and hits of rules before the end of a past."""
    facts = [(*key, time) for key, times in past.seen.items() if key[1] < NUM_RELATIONS for time in times]
    return rules_by_hand(facts, NUM_SNAPSHOTS, CONFIG.rule_bodies)


def rule_scores(model, z, past, subject, relation, now, horizon):
    part, (exposures, hits) = model.rule_attention, rules_of(past)
    query = row_of(part.query, relation, horizon) + part.subject.weight @ z[subject]
    rows, bias = part.kind().view(*RULE_PARTS, -1), part.kind_bias.view(RULE_PARTS)
    totals = torch.zeros(NUM_ENTITIES, dtype=z.dtype)
    for seen, entity, last, _ in past.facts_of(subject, CONFIG.rule_bodies):
        group, recency = (seen, entity, relation), bin_of(now - last)
        heads = sorted((hits[(*group, answer)], answer) for answer in range(NUM_ENTITIES))[-CONFIG.rule_heads :]
        for number, answer in heads:
            if number < 2:
                continue
            confidence = next(at for at, bound in enumerate(CONFIDENCES) if number / (exposures[group] + 30) <= bound)
            kind = bin_of(number), confidence, int(answer == entity)
            key = part.body[seen] * (1 + part.recency[recency]) * (1 + rows[kind])
            weight = query @ key + bias[kind] + part.recency_bias[recency]
            totals[answer] += torch.exp(weight.clamp(max=10))
    return torch.log(1 + totals)


@lru_cache(maxsize=1)
def pair_rules_of(past):
    facts = [(*key, time) for key, times in past.seen.items() if key[1] < NUM_RELATIONS for time in times]
    return pair_rules_by_hand(facts, NUM_SNAPSHOTS, CONFIG.recent)


def confidence_scores(model, z, past, subject, relation, now, horizon):
    part, rules = model.confidence, defaultdict(lambda: ([], []))
    exposures, hits = pair_rules_of(past)
    for seen, other, last, _ in past.facts_of(subject, CONFIG.recent):
        kind = relation, seen, bin_of(now - last)
        rules[other][0].append(hits[kind] / (exposures[kind] + 30))
    exposures, hits = rules_of(past)
    for seen, entity, *_ in past.facts_of(subject, CONFIG.rule_bodies):
        group = seen, entity, relation
        for answer in range(NUM_ENTITIES):
            if hits[(*group, answer)] >= CONFIG.rule_count:
                rules[answer][1].append(hits[(*group, answer)] / (exposures[group] + 30))
    scores = torch.zeros(NUM_ENTITIES, dtype=z.dtype)
    for candidate, of_kinds in rules.items():
        bin_ = sum(together_by_hand(*of_kinds) >= bound for bound in BOUNDS)
        scores[candidate] = part.value[bin_] + row_of(part.relation, relation, horizon) @ part.bins[bin_]
    return scores


FORMULAS = {
    "pairs": fact_scores,
    "paths": path_scores,
    "rules": rule_scores,
    "popularity": popularity_scores,
    "confidences": confidence_scores,
}
WITH = {"confidences": ("pairs", "rules")}  # which are off where these are


@pytest.mark.parametrize("part", FORMULAS)
@pytest.mark.parametrize("scale", [1.0, 6.0])  # at the larger one the upper bounds of the weights act
@given(seed=st.integers(0, 1000), now=st.integers(0, 9), horizon=horizons)
@settings(max_examples=6)
@torch.no_grad()
def test_each_part_equals_a_loop_over_queries_and_facts(part, scale, seed, now, horizon):
    facts = random_facts(seed)
    graph = graph_of(facts)
    on = [part, *WITH.get(part, ())]
    off = {key: value for name, changes in OFF.items() if name not in on for key, value in changes.items()}
    model = tiny_model(graph, seed, history=off)
    for parameter in model.parameters():
        parameter *= scale
    z = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64)
    queries, past = all_queries(now, horizon), Past(facts, now)
    scores = scores_of_the_past(model, z, queries, graph)
    expected = torch.stack(
        [
            sum(FORMULAS[name](model, z, past, s, r, now, horizon) for name in on)
            for s, r in zip(queries.subject.tolist(), queries.relation.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)


def naive_pairs(part, z, query, queries, walks, pairs):
    """`FactAttention` with vectors for all walks and pairs."""
    of_query, other, seen, recency, count, same = fact_columns(walks)
    key = part.key[seen] * (1 + part.key_recency[recency]) + part.key_count[count] + part.other(z)[other]
    extra = part.recency[recency] + part.count[count]
    extra = extra + torch.where(same == 1, part.same_recency[recency] + part.same_count[count], 0)
    weight = (query[of_query] * key).sum(-1) + extra
    total = torch.zeros(walks.num_pairs, dtype=z.dtype)
    pointer = torch.log1p(total.index_add(0, walks.pair, weight.clamp(max=12).exp()))
    of_query, _, _, *columns = pair_columns(walks, pairs, NUM_ENTITIES)
    features = {name: torch.unravel_index(column, PARTS[name]) for name, column in zip(PARTS, columns, strict=True)}
    return pointer + pair_mlp(part, features, queries.relation[of_query], queries.horizon)


def naive_paths(part, z, query, queries, walks, pairs):
    of_query, other, seen, first_recency, then, recency, count = path_columns(walks)
    first = part.first[seen] * (1 + part.first_recency[first_recency])
    second = part.second[then]
    ending = second + part.second_recency[recency] + part.second_count[count] + part.other(z)[other]
    weight = (query[of_query] * (first * (1 + second) + ending)).sum(-1) + part.bias
    total = torch.zeros(walks.num_pairs, dtype=z.dtype)
    return torch.log1p(total.index_add(0, walks.pair, weight.clamp(max=10).exp()))


NAIVE = {"facts": naive_pairs, "paths": naive_paths}
OTHERS_OFF = {
    "facts": OFF["paths"] | OFF["rules"] | OFF["popularity"] | OFF["confidences"],
    "paths": OFF["pairs"] | OFF["rules"] | OFF["popularity"] | OFF["confidences"],
}


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
@given(st.integers(0, 1000), st.integers(0, 9), horizons, st.booleans(), st.randoms(use_true_random=False))
@example(0, 0, 1, False, None)  # nothing is past
@settings(max_examples=12, deadline=None)
def test_scores_and_gradients_are_those_of_vectors_for_all_walks(part, seed, now, horizon, shuffle, random):
    graph = graph_of(random_facts(seed))
    model = tiny_model(graph, seed, history=OTHERS_OFF[part])
    queries, history = all_queries(now, horizon), history_before(graph, model.config.history, now)
    joined = joined_of(history, queries)
    walks, pairs = parts_of(joined)[part]
    walks = shuffled(walks, random) if shuffle and random else walks
    layout = layout_of(history, replace(joined, **{part: walks}))
    z = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64, requires_grad=True)
    _, *by_part = model.split_query_vectors(model.query_vectors(z[layout.row], layout))
    query, layer = {"facts": (by_part[0], model.pair_attention), "paths": (by_part[1], model.path_attention)}[part]
    (found,) = model.walk_scores(z[layout.ends], *by_part, layout)
    expected = NAIVE[part](layer, z, query, queries, walks, pairs)
    check_gradients(found, expected, (z, *layer.parameters()))


@given(st.integers(0, 1000), st.integers(0, 9), horizons)
@example(0, 0, 1)  # nothing is past
@settings(max_examples=12, deadline=None)
def test_popularity_and_its_gradients_are_those_of_vectors_for_all_objects(seed, now, horizon):
    graph = graph_of(random_facts(seed))
    model = tiny_model(graph, seed, history=OFF["pairs"] | OFF["paths"] | OFF["rules"] | OFF["confidences"])
    part, queries = model.popularity, all_queries(now, horizon)
    history = history_before(graph, model.config.history, now)
    layout = layout_of(history, joined_of(history, queries))
    relation, other, recency, count = popular_columns(layout)
    score = (row_of(part.relation, relation, horizon) * (part.recency[recency] + part.count[count])).sum(-1)
    score = score + part.recency_bias[recency] + part.count_bias[count]
    table = torch.zeros(len(part.relation.rows), NUM_ENTITIES, dtype=torch.float64).index_put((relation, other), score)
    expected = table[queries.relation]
    model.decoder = NoDecoder()
    z = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64, requires_grad=True)
    check_gradients(model.scores(z, layout).view_as(expected), expected, (z, *part.parameters()))
    position, object_ = layout.popularity.by_query(NUM_ENTITIES)
    by_query = (
        torch.zeros_like(expected)
        .flatten()
        .index_add(0, position, part(layout.popularity.columns, layout.kinds)[object_])
    )
    torch.testing.assert_close(by_query.view_as(expected), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("horizon", [1, 3])
def test_scores_are_the_sum_of_the_dense_part_and_all_others(horizon):
    facts = random_facts(0)
    graph = graph_of(facts)
    model = tiny_model(graph)
    z, queries, past = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64), all_queries(6, horizon), Past(facts, 6)
    scores = scores_of(model, z, queries, graph)
    for row in range(0, len(queries), 7):
        subject, relation = int(queries.subject[row]), int(queries.relation[row])
        of_relation = model.relation[relation] + math.log2(horizon) * model.relation_slope[relation]
        expected = model.decoder(z[subject][None], of_relation[None])[0] @ z.T
        expected = expected * gate_of(model.gate, past, subject, relation, 6, horizon)
        for formula in FORMULAS.values():
            expected = expected + formula(model, z, past, subject, relation, 6, horizon)
        torch.testing.assert_close(scores[row], expected, rtol=1e-10, atol=1e-10)


def test_nothing_is_added_where_nothing_was_seen():
    graph = graph_of([(0, 0, 1, 3)])
    model = tiny_model(graph)
    z, queries = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64), queries_of([(0, 0), (7, 1)], time=2)
    assert not scores_of_the_past(model, z, queries, graph).any()


@pytest.mark.parametrize("horizon", [1, 2])
def test_slopes_have_no_part_in_the_next_snapshot_and_change_what_comes_later(horizon):
    graph = graph_of(random_facts(0))
    model = tiny_model(graph)
    z, queries = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64), all_queries(6, horizon)
    slopes = [value for name, value in model.named_parameters() if "slope" in name]
    assert len(slopes) == 10  # relation, three queries, gain, bias, confidence, popularity, two of the gate
    scores = scores_of(model, z, queries, graph)
    scores.square().sum().backward()
    for slope in slopes:
        assert (slope.grad is not None and bool(slope.grad.any())) == (horizon > 1)
    with torch.no_grad():
        for slope in slopes:
            before = slope.clone()
            slope.zero_()
            assert torch.equal(scores_of(model, z, queries, graph), scores) == (horizon == 1)
            slope.copy_(before)
