from functools import partial
from itertools import chain

import pytest
import torch
from graphs import NUM_ENTITIES, graph_of, history_before, message_graphs, queries_of, random_facts, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring import score_table, sharded, step_loss
from torch.nn import functional

from gam_kg.config import TrainConfig
from gam_kg.graph.message_graph import Window
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training.draws import Draws, ModelFacts
from gam_kg.training.step_batch import divide_queries, step_queries

DIM = 4
assert_exact = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def rolled(model, graph, times):
    memory = model.empty_memory()
    for snapshot in message_graphs(graph, times):
        sharded(model).advance(memory, snapshot)
    return memory


def naive_vectors(model, graph, times, attached, dropped=None):
    """z of all entities after walking through `times` with full matrices, with gradients through the last `attached`.

    Every snapshot updates a dense [num_entities, dim] state in which the rows that are not active keep their value.
    """
    hidden, cell = torch.zeros(2, NUM_ENTITIES, DIM, dtype=torch.float64)
    last_seen = torch.full((NUM_ENTITIES,), -1)
    for position, time in enumerate(times):
        inside = position >= len(times) - attached
        if position == len(times) - attached:
            hidden, cell = hidden.detach(), cell.detach()
        rows = model.entity_rows(~dropped if inside and dropped is not None else None)
        snapshot = graph.snapshot(time)
        edges = torch.stack([snapshot.other, snapshot.anchor])
        x = functional.normalize(rows + hidden, dim=-1)
        after = model.lstm(
            model.gam(x, edges, snapshot.relation, model.relation), Memory(hidden, cell, last_seen), torch.tensor(time)
        )
        active = torch.bincount(snapshot.anchor, minlength=NUM_ENTITIES) > 0
        hidden = torch.where(active[:, None], after.hidden, hidden)
        cell = torch.where(active[:, None], after.cell, cell)
        last_seen = torch.where(active, time, last_seen)
    if not attached:
        hidden = hidden.detach()
    return functional.normalize(model.entity_rows(None if dropped is None else ~dropped) + hidden, dim=-1)


def gradients_of(value, model):
    torch.manual_seed(5)
    loss = (value * torch.randn_like(value)).sum()
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("window", [0, 1, 2, 3])
@pytest.mark.parametrize("drop", [False, True])
def test_gradients_flow_through_exactly_the_window(window, drop):
    graph = graph_of(random_facts(3, 40))
    model, rng = tiny_model(graph, entity_dropout=0.5), CounterRNG(2, 0) if drop else None
    dropped = None
    if rng is not None:
        dropped = rng.uniform(torch.arange(NUM_ENTITIES), "entity dropout") < 0.5
        assert 0 < dropped.sum() < NUM_ENTITIES
    times = graph.times[:5]
    memory = rolled(model, graph, times[: len(times) - window])
    snapshots = message_graphs(graph, times[len(times) - window :])
    own = None
    if rng is not None:
        draws = Draws(ModelFacts.of(model), rng)
        own, snapshots = draws.own(), [draws.graph(snapshot) for snapshot in snapshots]
    z = sharded(model).entity_vectors(memory, Window.of(snapshots), own=own)
    naive = naive_vectors(model, graph, times, window, dropped)
    assert_exact(z, naive)
    found = gradients_of(z, model)
    for mine, expected in zip(found, gradients_of(naive, model), strict=True):
        assert_exact(mine, expected)
    # One update more would give other gradients, so this distinguishes the window from a longer one.
    if not drop:
        longer = gradients_of(naive_vectors(model, graph, times, window + 1), model)
        assert not all(torch.allclose(mine, other) for mine, other in zip(found, longer, strict=True))


def test_a_window_leaves_the_stored_memory_as_it_was():
    graph = graph_of(random_facts(3))
    model = tiny_model(graph)
    memory = rolled(model, graph, [0])
    before = [column.clone() for column in vars(memory).values()]
    model.entity_vectors(memory, Window.of(message_graphs(graph, [1, 2]))).sum().backward()
    assert all(map(torch.equal, before, vars(memory).values()))


def gradients_after(model, graph, time, window, *, queries=None, **train):
    model.zero_grad()
    memory = rolled(model, graph, range(time - window))
    loss = step_loss(
        model,
        memory,
        message_graphs(graph, range(time - window, time)),
        graph.snapshot(time).queries if queries is None else queries,
        history_before(graph, model.config.history, time),
        CounterRNG(7, 0),
        **train,
    )
    gradients = (torch.zeros(1) if each.grad is None else each.grad for each in model.parameters())
    return loss, [grad.to_dense() if grad.is_sparse else grad.clone() for grad in gradients]


@pytest.mark.parametrize("decoder", ["mlp", "distmult"])
@pytest.mark.parametrize("window", [0, 2])
def test_a_step_has_the_loss_and_gradients_of_one_plain_graph(decoder, window):
    graph = graph_of(random_facts(1))
    model = tiny_model(graph, decoder=decoder)
    time, smoothing = 4, 0.1
    loss, found = gradients_after(model, graph, time, window, label_smoothing=smoothing)

    model.zero_grad()
    z = naive_vectors(model, graph, range(time), window)
    queries = graph.snapshot(time).queries
    scores = score_table(model, z, queries, history_before(graph, model.config.history, time))
    expected = functional.cross_entropy(scores[queries.answer_query], queries.answer, label_smoothing=smoothing)
    expected.backward()
    assert_exact(loss, expected.detach())
    for mine, parameter in zip(found, model.parameters(), strict=True):
        if parameter.grad is None:
            assert not mine.any()
        else:
            assert_exact(mine, parameter.grad)


@pytest.mark.parametrize("max_scores", [1, 2 * NUM_ENTITIES, 5 * NUM_ENTITIES + 3])
@pytest.mark.parametrize("entity_dropout", [0.0, 0.5])
def test_blocks_of_queries_give_the_gradients_of_one_block(max_scores, entity_dropout):
    graph = graph_of(random_facts(2))
    model = tiny_model(graph, entity_dropout=entity_dropout)
    whole, parts = (gradients_after(model, graph, 4, 2, max_logits=most) for most in (10**9, max_scores))
    assert_exact(parts[0], whole[0])
    for part, expected in zip(parts[1], whole[1], strict=True):
        assert_exact(part, expected)


@pytest.mark.parametrize("horizon", [1, 2, 4])
@pytest.mark.parametrize("candidates", [{}, {"candidates": "sampled", "num_negatives": 3, "history_links": 6}])
def test_a_step_sees_nothing_at_or_after_its_time(horizon, candidates):
    facts = random_facts(2)
    queries = graph_of(facts).snapshot(4).queries
    ahead = [graph_of(facts).snapshot(3 + horizon).queries.seen_from(4)] if horizon > 1 else []
    settings = {"queries": queries, "ahead": ahead, **candidates}
    past = facts[facts[:, 3] < 4]
    altered = random_facts(9)
    others = past, [*past.tolist(), *altered[altered[:, 3] >= 4].tolist()]
    loss, expected = gradients_after(tiny_model(graph_of(facts)), graph_of(facts), 4, 2, **settings)
    for other in others:
        model = tiny_model(graph_of(facts))
        other_loss, found = gradients_after(model, graph_of(other), 4, 2, **settings)
        assert torch.equal(loss, other_loss)
        assert all(map(torch.equal, found, expected))


def ids_of(queries):
    return list(zip(queries.subject.tolist(), queries.relation.tolist(), strict=True))


def answers_of(queries):
    pairs = ids_of(queries)
    return [
        (*pairs[q], answer) for q, answer in zip(queries.answer_query.tolist(), queries.answer.tolist(), strict=True)
    ]


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 6))
@settings(max_examples=50)
def test_steps_divide_the_queries_of_a_snapshot_exactly(seed, answers_per_step, most):
    graph = graph_of(random_facts(seed))
    config = TrainConfig(answers_per_step=answers_per_step, max_steps_per_snapshot=most)
    for time in graph.times:
        queries = graph.snapshot(time).queries
        steps = step_queries(queries, config, seed)
        assert len(steps) == min(most, max(1, round(len(queries.answer) / answers_per_step)))
        assert sorted(chain.from_iterable(map(ids_of, steps))) == sorted(ids_of(queries))
        assert sorted(chain.from_iterable(map(answers_of, steps))) == sorted(answers_of(queries))


def test_the_division_into_steps_is_a_function_of_the_seed():
    queries = graph_of(random_facts(0)).snapshot(3).queries
    config = TrainConfig(answers_per_step=3)
    first, again, other = (list(map(ids_of, step_queries(queries, config, seed))) for seed in (5, 5, 6))
    assert first == again
    assert first != other


@given(st.integers(0, 12), st.integers(1, 60))
def test_blocks_divide_queries_in_order_within_the_limit(num_queries, max_scores):
    queries = queries_of([(number, 0) for number in range(num_queries)], time=1)
    blocks = [block for block in divide_queries(queries, NUM_ENTITIES, max_scores) if len(block)]
    assert list(chain.from_iterable(map(ids_of, blocks))) == ids_of(queries)
    assert all(len(block) == 1 or len(block) * NUM_ENTITIES <= max_scores for block in blocks)
