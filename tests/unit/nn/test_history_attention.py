from dataclasses import replace

import pytest
import torch
from graphs import (
    HISTORY,
    NUM_ENTITIES,
    Past,
    all_queries,
    graph_of,
    history_before,
    queries_of,
    random_facts,
    tiny_model,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gam_kg.config import HistoryConfig
from gam_kg.data.past import NEVER, History, log_bucket
from gam_kg.nn.history_attention import PairScores, add_pair_scores, popular_products, popularity_table
from gam_kg.nn.history_plan import HistoryPlan, PopularityPlan

CONFIG = HistoryConfig(**HISTORY)
OFF = {
    "pairs": {"recent": 0, "same_relation": 0},
    "paths": {"two_hop_first": 0, "two_hop_second": 0},
    "popularity": {"popular": 0},
}


def bucket(value):
    return int(log_bucket(torch.tensor(value)))


def pair_scores(model, z, past, subject, relation, time):
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
            recency, count = bucket(time - last), bucket(times)
            recencies.append(recency)
            key = part.key[seen] * (1 + part.key_recency[recency]) + part.key_count[count]
            weight = query @ (key + part.other.weight @ z[other]) + part.recency[recency] + part.count[count]
            if is_same:
                weight = weight + part.same_recency[recency] + part.same_count[count]
                same = (recency, count)
            total = total + torch.exp(weight.clamp(max=12))
        told = (*same, min(recencies), bucket(len(recencies)))
        hidden = sum(rows[column] for rows, column in zip(part.features, told, strict=True))
        mlp = torch.relu(hidden * (1 + part.gain[relation]) + part.bias[relation]) @ part.out
        scores[candidate] = torch.log(1 + total) + mlp
    return scores


def scores_of_the_past(model, z, queries, graph):
    """All but the dense part of the scores."""
    history = history_before(graph, model.config.history, queries.time).look_up(queries)
    past, scores = history.popularity, torch.zeros(len(queries), NUM_ENTITIES, dtype=torch.float64)
    if past is not None:
        score = model.popularity(PopularityPlan.of(past))
        scores = popularity_table(past.row, past.other, score, len(past.relations), NUM_ENTITIES)[past.query_row]
    plan = HistoryPlan.of(history, queries, NUM_ENTITIES)
    return add_pair_scores(scores, model.history_scores(z[plan.ends], model.query_vectors(z, queries), plan))


def path_scores(model, z, past, subject, relation, time):
    part = model.path_attention
    query = part.query[relation] + part.subject.weight @ z[subject]
    totals = torch.zeros(NUM_ENTITIES, dtype=z.dtype)
    for r1, neighbour, last1, _ in past.facts_of(subject, CONFIG.two_hop_first):
        for r2, candidate, last2, times in past.facts_of(neighbour, CONFIG.two_hop_second):
            if candidate == subject:
                continue
            second = part.second[r2]
            key = part.first[r1] * (1 + part.first_recency[bucket(time - last1)]) * (1 + second)
            key = key + part.second_recency[bucket(time - last2)] + part.second_count[bucket(times)]
            key = key + second + part.other.weight @ z[candidate]
            totals[candidate] += torch.exp((query @ key + part.bias).clamp(max=10))
    return torch.log(1 + totals)


def popularity_scores(model, z, past, subject, relation, time):
    part = model.popularity
    scores = torch.zeros(NUM_ENTITIES, dtype=z.dtype)
    for candidate, last, times in past.popular(relation, CONFIG.popular):
        recency, count = bucket(time - last), bucket(times)
        features = part.recency[recency] + part.count[count]
        scores[candidate] = part.relation[relation] @ features + part.recency_bias[recency] + part.count_bias[count]
    return scores


FORMULAS = {"pairs": pair_scores, "paths": path_scores, "popularity": popularity_scores}


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


def naive_pairs(part, z, query, relation, past):
    """`PairAttention` with vectors for all links and pairs."""
    key = part.key[past.entry_relation] * (1 + part.key_recency[past.entry_recency])
    key = key + part.key_count[past.entry_count] + part.other(z)[past.entry_other]
    extra = part.recency[past.entry_recency] + part.count[past.entry_count]
    same = part.same_recency[past.entry_recency] + part.same_count[past.entry_count]
    extra = extra + torch.where(past.entry_same, same, 0)
    weight = (query[past.link_query] * key[past.link_entry]).sum(-1) + extra[past.link_entry]
    total = torch.zeros(len(past.pair_query), dtype=z.dtype)
    pointer = torch.log1p(total.index_add(0, past.link_pair, weight.clamp(max=12).exp()))
    hidden = sum(rows[column] for rows, column in zip(part.features, past.pair_features.unbind(1), strict=True))
    asked = relation[past.pair_query]
    return pointer + torch.relu(hidden * (1 + part.gain[asked]) + part.bias[asked]) @ part.out


def naive_paths(part, z, query, relation, past):
    first = part.first[past.first_relation] * (1 + part.first_recency[past.first_recency])
    second = part.second[past.second_relation]
    ending = second + part.second_recency[past.second_recency] + part.second_count[past.second_count]
    ending = ending + part.other(z)[past.second_other]
    key = first[past.path_first] * (1 + second)[past.path_second] + ending[past.path_second]
    weight = (query[past.link_query] * key[past.link_path]).sum(-1) + part.bias
    total = torch.zeros(len(past.pair_query), dtype=z.dtype)
    return torch.log1p(total.index_add(0, past.link_pair, weight.clamp(max=10).exp()))


def naive_popularity(part, z, query, relation, past):
    features = part.recency[past.recency] + part.count[past.count]
    score = (part.relation[past.relations[past.row]] * features).sum(-1)
    score = score + part.recency_bias[past.recency] + part.count_bias[past.count]
    table = torch.zeros(len(past.relations), NUM_ENTITIES, dtype=z.dtype)
    return table.index_put((past.row, past.other), score)[past.query_row]


NAIVE = {"pairs": naive_pairs, "paths": naive_paths, "popularity": naive_popularity}


def shuffled(past, random):
    """The same past with its links in another order, and a third of them twice."""
    (size,) = {len(value) for name, value in vars(past).items() if name.startswith("link_")}
    order = [*range(size), *range(0, size, 3)]
    random.shuffle(order)
    return replace(past, **{name: value[order] for name, value in vars(past).items() if name.startswith("link_")})


@pytest.mark.parametrize("part", NAIVE)
@given(st.integers(0, 1000), st.integers(0, 9), st.booleans(), st.randoms(use_true_random=False))
@example(0, 0, False, None)  # nothing is past
@settings(max_examples=12, deadline=None)
def test_scores_and_gradients_are_those_of_vectors_for_all_links(part, seed, time, shuffle, random):
    graph = graph_of(random_facts(seed))
    off = {key: value for name, changes in OFF.items() if name != part for key, value in changes.items()}
    model = tiny_model(graph, seed, history=off)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # some start from zero
    queries = all_queries(time)
    past = getattr(history_before(graph, model.config.history, queries.time).look_up(queries), part)
    past = shuffled(past, random) if shuffle and random and part != "popularity" else past
    z = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64, requires_grad=True)
    asked = model.query_vectors(z, queries)
    asked, layer = {
        "pairs": (asked[1], model.pair_attention),
        "paths": (asked[2], model.path_attention),
        "popularity": (asked[0], model.popularity),
    }[part]
    histories = {"pairs": None, "paths": None, "popularity": None, part: past}
    history = History(**histories)
    if part == "popularity":
        score = model.popularity(PopularityPlan.of(past))
        found = popularity_table(past.row, past.other, score, len(past.relations), NUM_ENTITIES)[past.query_row]
    else:
        plan = HistoryPlan.of(history, queries, NUM_ENTITIES)
        (pairs,) = model.history_scores(z[plan.ends], (asked, asked, asked), plan)
        found = pairs.score
    expected = NAIVE[part](layer, z, asked, queries.relation, past)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grad, inputs = torch.randn_like(expected), (z, *layer.parameters())
    gradients = [
        torch.autograd.grad(score, inputs, grad, retain_graph=True, allow_unused=True, materialize_grads=True)
        for score in (found, expected)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_scores_are_the_sum_of_the_dense_part_and_all_others():
    facts = random_facts(0)
    graph = graph_of(facts)
    model = tiny_model(graph)
    z, queries, past = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64), all_queries(6), Past(facts, 6)
    scores = model.scores(z, queries, history_before(graph, model.config.history, queries.time).look_up(queries))
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


def test_popularity_is_added_to_products_with_its_gradients():
    torch.manual_seed(0)
    sizes = (5, 3), (4, 3), (2, 4)
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    row = torch.tensor([0, 1, 1, 0, 1])
    query, candidates, popularity = inputs
    torch.testing.assert_close(popular_products(*inputs, row), query @ candidates.T + popularity[row])
    assert torch.autograd.gradcheck(lambda *values: popular_products(*values, row), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = popular_products(*(each.float() for each in inputs), row)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), query @ candidates.T + popularity[row], rtol=0.05, atol=0.05)


def test_pair_scores_are_added_with_their_gradients():
    torch.manual_seed(0)
    dense = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    first, second = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in (3, 2))
    where = torch.tensor([0, 2, 2]), torch.tensor([1, 0, 3])
    again = torch.tensor([0, 1]), torch.tensor([1, 2])

    def add(dense, first, second):
        return add_pair_scores(dense.clone(), [PairScores(*where, first), PairScores(*again, second)])

    expected = dense.detach().clone()
    expected[where] += first.detach()
    expected[again] += second.detach()
    torch.testing.assert_close(add(dense, first, second), expected)
    assert torch.autograd.gradcheck(add, (dense, first, second))
    assert add_pair_scores(dense, []) is dense
