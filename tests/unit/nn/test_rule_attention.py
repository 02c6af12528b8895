import math

import pytest
import torch
from columns import confidence_columns, joined_of, joined_rule_columns, layout_of
from graphs import NUM_ENTITIES, NUM_RELATIONS, all_queries, graph_of, history_before, random_facts, tiny_model
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gam_kg.config import HistoryConfig
from gam_kg.history.confidence import BOUNDS, Confidences
from gam_kg.history.query_kinds import QueryKinds
from gam_kg.history.rule_walks import CONFIDENCES, RULE_PARTS
from gam_kg.nn.rule_attention import ConfidenceScore, RuleAttention

ONLY_RULES = {
    **dict.fromkeys(("recent", "same_relation", "two_hop_first", "popular"), 0),
    "rule_confidence": False,
}


def row_of(part, relation, horizon):
    return part.rows[relation] + math.log2(horizon) * part.slope[relation]


def naive(part, z, queries, joined):
    """The sum over rules, each with vectors of its own, as a table of all candidates."""
    query, row, relation, recency, kind = joined_rule_columns(joined)
    of_query = row_of(part.query, queries.relation, queries.horizon) + part.subject(z[queries.subject])
    key = part.body[relation] * (1 + part.recency[recency]) * (1 + part.kind()[kind])
    weight = (of_query[query] * key).sum(-1) + part.kind_bias[kind] + part.recency_bias[recency]
    total = torch.zeros(len(queries), NUM_ENTITIES, dtype=z.dtype)
    return torch.log1p(total.index_put((query, row), weight.clamp(max=10).exp(), accumulate=True))


@pytest.mark.parametrize("scale", [1.0, 6.0])  # at the larger one the upper bound of the weights acts
@pytest.mark.parametrize("horizon", [1, 3])
@given(st.integers(0, 1000), st.integers(1, 9))
@example(0, 1)  # no rule has two hits
@settings(max_examples=8, deadline=None)
def test_scores_and_gradients_are_those_of_a_sum_over_rules(scale, horizon, seed, time):
    graph = graph_of(random_facts(seed))
    model = tiny_model(graph, seed, history=ONLY_RULES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= scale
    queries, history = (
        all_queries(time + horizon - 1).seen_from(time),
        history_before(graph, model.config.history, time),
    )
    joined = joined_of(history, queries)
    layout = layout_of(history, joined)
    z = torch.randn(NUM_ENTITIES, 4, dtype=torch.float64, requires_grad=True)
    _, *by_part = model.split_query_vectors(model.query_vectors(z[layout.row], layout))
    found, *_ = model.walk_scores(z[layout.ends], *by_part, layout)
    table = torch.zeros(len(queries) * NUM_ENTITIES, dtype=z.dtype).index_put(
        (layout.all_positions[: len(found)],), found
    )
    expected = naive(model.rule_attention, z, queries, joined)
    torch.testing.assert_close(table.view_as(expected), expected, rtol=1e-10, atol=1e-10)
    check_gradients(table.view_as(expected), expected, (z, *model.rule_attention.parameters()))


def check_gradients(found, expected, inputs):
    grad = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad(score, inputs, grad, retain_graph=True, allow_unused=True, materialize_grads=True)
        for score in (found, expected)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_at_the_start_a_rule_weighs_about_its_confidence():
    part = RuleAttention(2 * NUM_RELATIONS, 4, HistoryConfig())
    of_kind = part.kind_bias.detach().view(RULE_PARTS).exp()
    torch.testing.assert_close(of_kind, torch.tensor(CONFIDENCES)[:, None].expand(RULE_PARTS))


@pytest.mark.parametrize("horizon", [1, 3])
@given(st.integers(0, 1000), st.integers(0, 8))
@example(0, 0)  # nothing is past
@settings(max_examples=8, deadline=None)
def test_scores_of_confidences_and_gradients_are_those_of_vectors_for_all_pairs(horizon, seed, now):
    graph = graph_of(random_facts(seed))
    model = tiny_model(graph, seed)
    part, queries = model.confidence, all_queries(now, horizon)
    history = history_before(graph, model.config.history, now)
    joined = joined_of(history, queries)
    query, _, bin_ = confidence_columns(joined)
    relation = queries.relation[query]
    row = row_of(part.relation, relation, horizon)
    expected = part.value[bin_] + (row * part.bins[bin_]).sum(-1)
    found = part(joined.confidences, layout_of(history, joined).kinds)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    check_gradients(found, expected, tuple(part.parameters()))


def test_at_the_start_candidates_are_ordered_about_as_by_their_probability():
    part = ConfidenceScore(2 * NUM_RELATIONS, HistoryConfig())
    with torch.no_grad():
        part.relation.rows.zero_()
        probability = torch.tensor([2 ** (-step / 7) for step in range(91)], dtype=torch.float64)
        bin_ = torch.bucketize(probability, BOUNDS, right=True)
        kinds = QueryKinds(torch.tensor([0]), torch.tensor([1]))
        found = part(Confidences(torch.zeros_like(bin_), bin_), kinds)
        none = part(Confidences(*torch.zeros(2, 1, dtype=torch.int64)), kinds)
    expected = torch.log1p(probability / 0.002).float() / 2
    torch.testing.assert_close(found, expected, rtol=0, atol=math.log(2) / 8 + 1e-6)
    assert float(none) < float(found.min())
