"""Steps over sampled candidates: the same as over all where all are drawn, and right on average where few are."""

import pytest
import torch
from graphs import (
    HISTORY,
    graph_of,
    history_before,
    random_facts,
    tiny_config,
    tiny_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.data.partition import Partition
from gam_kg.distributed.neighbourhood import Neighbourhood
from gam_kg.nn.candidates import Candidates, place, rows_of
from gam_kg.nn.noise import Noise
from gam_kg.nn.recurrence import Memory
from gam_kg.train import checkpoint
from gam_kg.train.loop import Trainer
from gam_kg.train.optimizer import RowAdamW
from gam_kg.train.step import StepSettings, backward_snapshot

TIME, MANY = 4, 60
PARTS = {
    "all parts": {},
    "no pairs": {"recent": 0, "same_relation": 0},
    "no paths": {"two_hop_first": 0},
    "no popularity": {"popular": 0},
    "nothing": {"recent": 0, "same_relation": 0, "two_hop_first": 0, "popular": 0},
}


def graph_with_many(seed):
    """Most entities have no facts, so that there are some to draw."""
    return graph_of(random_facts(seed), num_entities=MANY)


def backward(model, graph, num_negatives, *, step=0, max_scores=10**9):
    model.zero_grad()
    memory = Memory.empty(graph.num_entities, 4, like=model.entity.detach())
    window = [Neighbourhood.of(graph.snapshot(time), graph.partition) for time in (TIME - 2, TIME - 1)]
    history = history_before(graph, model.config.history, TIME)
    given = StepSettings(0.1, max_scores, num_negatives=num_negatives)
    loss = backward_snapshot(model, memory, window, graph.snapshot(TIME).queries, history, Noise(3, step), given)
    return float(loss), gradients_of(model)


def gradients_of(model):
    found = {}
    for name, parameter in model.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found[name] = (grad.to_dense() if grad.is_sparse else grad).clone()
    return found


@pytest.mark.parametrize("part", PARTS)
@given(st.integers(0, 1000))
@settings(max_examples=5)
def test_where_all_entities_are_drawn_it_is_the_step_over_all(part, seed):
    graph = graph_with_many(seed)
    model = tiny_model(graph, seed, history={**HISTORY, **PARTS[part]}, entity_dropout=0.4, dropout=0.3).train()
    loss, expected = backward(model, graph, None)
    found_loss, found = backward(model, graph, MANY)
    assert found_loss == pytest.approx(loss, rel=1e-10)
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: name + text
        )


@pytest.mark.parametrize("num_negatives", [0, 12, MANY])
def test_blocks_of_queries_change_nothing(num_negatives):
    graph = graph_with_many(1)
    model = tiny_model(graph)
    loss, expected = backward(model, graph, num_negatives)
    found_loss, found = backward(model, graph, num_negatives, max_scores=50)
    assert found_loss == pytest.approx(loss, rel=1e-10)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-10)


@given(st.integers(0, 1000), st.integers(0, 30), st.sampled_from(sorted(PARTS)))
@settings(max_examples=20)
@torch.no_grad()
def test_each_query_meets_each_candidate_once_with_the_score_that_it_has_among_all(seed, num_negatives, part):
    graph = graph_with_many(seed)
    model = tiny_model(graph, seed, history={**HISTORY, **PARTS[part]})
    queries = graph.snapshot(TIME).queries
    history = history_before(graph, model.config.history, TIME).look_up(queries)
    z = torch.randn(MANY, 4, dtype=torch.float64)
    expected = model.scores(z, queries, history)
    candidates = Candidates.draw(queries, num_negatives, graph.partition, seed)
    held = torch.unique(torch.cat([candidates.rows, queries.subject, *rows_of(history)]))
    found = model.sampled_scores(z[held], held, candidates, queries, history)
    counts = torch.ones(found.dense.numel(), dtype=torch.bool).index_fill(0, found.replaced, False).view_as(found.dense)
    torch.testing.assert_close(found.dense[counts], expected[:, candidates.rows][counts], rtol=1e-10, atol=1e-10)
    # What the history of a subject has besides the step's own entities, each met once.
    extra = pairs_of(history) - own_pairs(queries, candidates)
    assert len(found.query) == len(extra)
    for query, row in extra:
        scores = found.score[found.query == query]
        assert torch.isclose(scores, expected[query, row], rtol=1e-9).any()
    drawn = candidates.rows[candidates.log_weight != 0]
    at = {(query, row) for query, row in extra if row in drawn.tolist()}
    columns = candidates.rows[found.replaced % len(candidates.rows)].tolist()
    assert set(zip((found.replaced // len(candidates.rows)).tolist(), columns, strict=True)) == at


def pairs_of(history):
    parts = [part for part in (history.pairs, history.paths) if part is not None]
    return {pair for part in parts for pair in zip(part.pair_query.tolist(), part.pair_other.tolist(), strict=True)}


def own_pairs(queries, candidates):
    certain = candidates.rows[candidates.log_weight == 0].tolist()
    return {(query, row) for query in range(len(queries)) for row in certain}


def test_rows_that_are_not_read_get_no_gradient():
    graph = graph_with_many(1)
    model = tiny_model(graph)
    backward(model, graph, 5)
    grad = model.entity.grad
    assert grad is not None
    assert grad.is_sparse
    rows = grad._indices()[0]
    assert len(rows) == len(rows.unique()) < MANY


def test_sums_over_samples_are_on_average_those_over_all():
    graph = graph_with_many(2)
    model = tiny_model(graph)
    # Scores of everything, so that what is drawn matters.
    with torch.no_grad():
        model.shared.mul_(3)
    exact, _ = backward(model, graph, None)
    losses = torch.tensor([backward(model, graph, 20, step=step)[0] for step in range(60)])
    error = float(losses.std()) / len(losses) ** 0.5
    assert float(losses.std()) > 1e-4, "a sample that never differs is no sample"
    # The logarithm of an unbiased sum is a little too low, here by less than the bound.
    assert abs(float(losses.mean()) - exact) < 4 * error + 0.02


@given(st.integers(0, 1000), st.integers(0, 80), st.integers(1, 4))
@settings(max_examples=30)
def test_every_rank_draws_its_part_of_the_same_candidates(seed, num_negatives, world_size):
    queries = graph_with_many(seed % 7).snapshot(3).queries
    whole = Candidates.draw(queries, num_negatives, Partition(MANY, 8), seed)
    ids, weights = [], []
    for rank in range(world_size):
        part = Partition(MANY, 8, rank, world_size)
        found = Candidates.draw(queries, num_negatives, part, seed)
        assert torch.equal(found.rows, found.rows.unique())
        ids.append(part.ids[found.rows])
        weights.append(found.log_weight)
    order = torch.argsort(torch.cat(ids))
    assert torch.equal(torch.cat(ids)[order], whole.rows)
    assert torch.equal(torch.cat(weights)[order], whole.log_weight)
    own = torch.unique(torch.cat([queries.subject, queries.answer]))
    assert (whole.log_weight[place(whole.rows, own)[0]] == 0).all()
    drawn = whole.log_weight[~torch.isin(whole.rows, own)]
    if len(drawn):
        assert float(drawn.exp().sum()) == pytest.approx(MANY - len(own), rel=1e-5)


def test_rows_with_a_gradient_step_as_adamw_and_others_stay():
    torch.manual_seed(0)
    dense, sparse = (torch.nn.Parameter(torch.arange(12.0).view(4, 3).clone()) for _ in range(2))
    settings = {"lr": 0.1, "weight_decay": 0.2}
    expected, found = torch.optim.AdamW([dense], **settings), RowAdamW([sparse], **settings, fused=True)
    rows = torch.tensor([2, 0])
    for _ in range(3):
        values = torch.randn(2, 3)
        dense.grad = torch.zeros_like(dense).index_copy(0, rows, values)
        sparse.grad = torch.sparse_coo_tensor(rows[None], values, (4, 3), check_invariants=True)
        expected.step()
        found.step()
    torch.testing.assert_close(sparse[rows], dense[rows])
    assert torch.equal(sparse[[1, 3]], torch.arange(12.0).view(4, 3)[[1, 3]])


def test_training_over_samples_learns_and_goes_on_from_a_checkpoint(tmp_path):
    config = tiny_config(candidates="sampled", num_negatives=3, epochs=2, learning_rate=0.01)
    graph = graph_of(random_facts(5))
    whole, first = Trainer(config, graph), Trainer(config, graph)
    list(whole.run())
    assert whole.position.metrics[1]["loss"] < whole.position.metrics[0]["loss"]
    for _, _ in zip(range(3), first.run(), strict=False):
        pass
    checkpoint.save(first, tmp_path)
    second = Trainer(config, graph)
    checkpoint.load(second, tmp_path)
    list(second.run())
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, second.model.state_dict()[name]), name
