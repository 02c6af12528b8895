"""Steps over sampled candidates: the same as over all where all are drawn, and right on average where few are."""

import pytest
import torch
from graphs import (
    HISTORY,
    graph_of,
    history_before,
    message_graphs,
    random_facts,
    random_features,
    tiny_config,
    tiny_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring import score_table, sharded, step_loss

from gam_kg.config import HistoryConfig, TrainConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.graph.message_graph import Window
from gam_kg.graph.partition import Partition
from gam_kg.history.sampling import InclusionProbabilities, Sample
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training import checkpoint, step_batch
from gam_kg.training.draws import Draws, ModelFacts
from gam_kg.training.optimizer import RowAdamW
from gam_kg.training.step_batch import make_batch, only_for, query_block
from gam_kg.training.trainer import Trainer

TIME, MANY, ALL = 4, 60, 10**9
PARTS = {
    "all parts": {},
    "no pairs": {"recent": 0, "same_relation": 0},
    "no paths": {"two_hop_first": 0},
    "recent facts beyond those by relation": {"recent": 50, "same_relation": 1, "two_hop_first": 0},
    "no rules": {"rule_bodies": 0},
    "no confidence of rules": {"rule_confidence": False},
    "no popularity": {"popular": 0},
    "nothing": {
        "recent": 0,
        "same_relation": 0,
        "two_hop_first": 0,
        "rule_bodies": 0,
        "popular": 0,
        "rule_confidence": False,
    },
}


def graph_with_many(seed):
    """Most entities have no facts, so that there are some to draw."""
    return graph_of(random_facts(seed), num_entities=MANY)


def backward(model, graph, num_negatives, *, step=0, **train):
    """Loss and gradients of a step with queries ahead; over all entities where `num_negatives` is None."""
    model.zero_grad()
    if num_negatives is not None:
        train = {"candidates": "sampled", "num_negatives": num_negatives, "history_links": ALL, **train}
    window, queries = message_graphs(graph, (TIME - 2, TIME - 1)), graph.snapshot(TIME).queries
    history = history_before(graph, model.config.history, TIME)
    ahead, rng = graph.snapshot(TIME + 1).queries.seen_from(TIME), CounterRNG(3, step)
    loss = step_loss(model, model.empty_memory(), window, queries, history, rng, [ahead], **train)
    return float(loss), gradients_of(model)


def gradients_of(model):
    found = {}
    for name, parameter in model.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found[name] = (grad.to_dense() if grad.is_sparse else grad).clone()
    return found


@pytest.mark.parametrize("part", PARTS)
@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=6)
def test_where_everything_is_drawn_it_is_the_step_over_all(part, seed, with_features):
    graph, features = graph_with_many(seed), random_features(MANY, seed) if with_features else None
    history = {**HISTORY, **PARTS[part]}
    model = tiny_model(graph, seed, features, history=history, entity_dropout=0.4, dropout=0.3).train()
    loss, expected = backward(model, graph, None)
    found_loss, found = backward(model, graph, MANY)
    assert found_loss == pytest.approx(loss, rel=1e-10)
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: name + text
        )


@pytest.mark.parametrize("num_negatives", [1, 12, MANY])
def test_blocks_of_queries_change_nothing(num_negatives):
    graph = graph_with_many(1)
    model = tiny_model(graph)
    loss, expected = backward(model, graph, num_negatives, history_links=5)
    found_loss, found = backward(model, graph, num_negatives, max_logits=50, history_links=5)
    assert found_loss == pytest.approx(loss, rel=1e-10)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-10)


NOTHING = torch.zeros(0, dtype=torch.int64)
probabilities = st.sampled_from(
    [InclusionProbabilities(0.6, 0.3), InclusionProbabilities(1.0, 0.3), InclusionProbabilities(1.0, 1.0)]
)


def draw(queries, partition, num_negatives, probability, known=(NOTHING, NOTHING), seed=0):
    return Sample.draw(queries, num_negatives, known, probability, partition, CounterRNG(seed, 0))


def sampled_batch(graph, history, num_negatives, probability, seed):
    """The batch of one step over the queries of `TIME` whose candidates are drawn with given probabilities."""
    config = TrainConfig(candidates="sampled", num_negatives=num_negatives)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_batch.InclusionProbabilities, "of", lambda *_: probability)
        draws = Draws(ModelFacts.of(tiny_model(graph)), CounterRNG(seed, 0))
        return make_batch([graph.snapshot(TIME).queries], [], history, config, draws, Communicator())


@pytest.mark.parametrize("part", PARTS)
@given(st.integers(0, 1000), st.integers(1, 60), probabilities)
@settings(max_examples=30)
@torch.no_grad()
def test_each_query_includes_each_candidate_once_with_the_score_that_it_has_among_all(
    part, seed, num_negatives, probability
):
    graph = graph_with_many(seed)
    model = tiny_model(graph, seed, history={**HISTORY, **PARTS[part]})
    queries = graph.snapshot(TIME).queries
    history = history_before(graph, model.config.history, TIME)
    z = torch.randn(MANY, 4, dtype=torch.float64)
    expected = score_table(model, z, queries, history)
    whole = pairs_of_past(query_block(history, queries, Communicator()).layout)
    sample = draw(queries, graph.partition, num_negatives, probability, history.find(queries).known_answers, seed)
    batch = sampled_batch(graph, history, num_negatives, probability, seed)
    (block,), rows = batch.blocks, batch.rows.index
    layout, targets = block.layout, block.targets
    scores = sharded(model).scores(z[rows], block)
    # Of its past a query includes a candidate apart or not at all, and so it does all of its answers.
    answers = set(zip(queries.answer_query.tolist(), queries.answer.tolist(), strict=True))
    included = {(query, row) for query, row in whole if includes(sample, queries.subject[[query]], torch.tensor([row]))}
    assert pairs_of_past(layout, rows) == included
    assert answers & whole <= included
    apart = pairs_apart(layout, rows)
    assert len(apart) == len(set(apart)) == layout.num_apart
    assert set(apart) == included | answers
    assert targets.apart_query.tolist() == [query for query, _ in apart]
    of_table, of_apart = scores.tensor_split([layout.num_queries * layout.num_columns])
    query, row = torch.tensor(apart, dtype=torch.int64).reshape(-1, 2).T
    torch.testing.assert_close(of_apart, expected[query, row], rtol=1e-9, atol=1e-10)
    # The others are columns, of which what is in the past of a query, or an answer, does not count.
    assert torch.equal(rows[layout.columns], sample.column_rows)
    table, at = of_table.view(layout.num_queries, layout.num_columns), targets.masked
    counts = torch.ones(table.numel(), dtype=torch.bool).index_fill(0, at, False).view_as(table)
    torch.testing.assert_close(table[counts], expected[:, sample.column_rows][counts], rtol=1e-10, atol=1e-10)
    masked = {(query, row) for query, row in whole | answers if row in sample.column_rows}
    at = torch.nonzero(~counts)
    assert set(zip(at[:, 0].tolist(), sample.column_rows[at[:, 1]].tolist(), strict=True)) == masked
    # Every answer is a target of its query once, and stands for itself alone.
    number = targets.position - len(of_table)
    target = [(apart[at][0], apart[at][1]) for at in number.tolist()]
    assert sorted(target) == sorted(answers)
    assert targets.query.tolist() == [query for query, _ in target]
    assert not targets.log_weight_apart[number].any()


def includes(sample, subject, rows):
    draws = sample.draws(rows)
    found = sample.includes(subject, rows, draws)
    assert sample.may_include(rows, draws)[found].all()
    return found


def pairs_of_past(layout, rows=None):
    """Query and row of the shard of walks and rules; `rows` are those of the layout where it is of a sample."""
    number = sum(walks.num_pairs for walks in (layout.facts, layout.paths, layout.rules) if walks is not None)
    number += 0 if layout.confidences is None else len(layout.confidences.bin)
    positions = layout.all_positions[layout.num_apart : layout.num_apart + number]
    if rows is None:
        return set(zip(*(part.tolist() for part in (positions // MANY, positions % MANY)), strict=True))
    number = positions - layout.num_queries * layout.num_columns
    assert (number >= 0).all()
    return {pairs_apart(layout, rows)[at] for at in number.tolist()}


def pairs_apart(layout, rows):
    """Query and row of the shard of what is scored apart."""
    if layout.apart is None:
        return []
    return list(zip(layout.apart.row.tolist(), rows[layout.apart.column].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_all_candidates_are_read_those_that_only_rules_lead_to_too(monkeypatch, seed):
    laid_out, renumbered = [], step_batch._renumbered

    def record(layout, *arguments):
        laid_out.append(layout)
        return renumbered(layout, *arguments)

    monkeypatch.setattr(step_batch, "_renumbered", record)
    graph = graph_with_many(seed)
    history = history_before(
        graph, HistoryConfig(**{**HISTORY, "recent": 1, "same_relation": 0, "two_hop_first": 0}), TIME
    )
    batch = sampled_batch(graph, history, 2, InclusionProbabilities(1.0, 1.0), seed)
    assert any(len(layout.confidences.bin) for layout in laid_out)
    for block, layout in zip(batch.blocks, laid_out, strict=True):
        assert torch.equal(batch.rows.index[block.layout.apart.column], layout.apart.column)


def test_rows_that_are_not_read_get_no_gradient():
    graph = graph_with_many(1)
    model = tiny_model(graph)
    backward(model, graph, 5)
    grad = model.entity.grad
    assert grad is not None
    assert grad.is_sparse
    rows = grad._indices()[0]
    assert len(rows) == len(rows.unique()) < MANY


@pytest.mark.parametrize("num_negatives, history_links", [(20, ALL), (20, 8), (4, 8), (MANY, 8)])
def test_sums_over_samples_are_on_average_those_over_all(num_negatives, history_links):
    graph = graph_with_many(2)
    model = tiny_model(graph)
    # Scores of everything, so that what is drawn matters.
    with torch.no_grad():
        model.shared.mul_(3)
    exact, _ = backward(model, graph, None)
    losses = torch.tensor(
        [backward(model, graph, num_negatives, step=step, history_links=history_links)[0] for step in range(80)]
    )
    error = float(losses.std()) / len(losses) ** 0.5
    assert float(losses.std()) > 1e-4, "a sample that never differs is no sample"
    # The logarithm of an unbiased sum is too low, by about half its relative variance.
    assert -float(losses.var()) - 4 * error - 0.02 < float(losses.mean()) - exact < 4 * error


@given(st.integers(0, 1000), st.integers(1, 80), probabilities, st.integers(1, 4))
@settings(max_examples=30)
def test_every_rank_draws_its_part_of_the_same_candidates(seed, num_negatives, probability, world_size):
    queries = graph_with_many(seed % 7).snapshot(3).queries
    subject, other = (torch.randint(MANY, (30,), generator=torch.Generator().manual_seed(seed + n)) for n in range(2))
    whole = draw(queries, Partition(MANY, 8), num_negatives, probability, (subject, other), seed)
    ids, weights = [], []
    about = torch.arange(10).repeat_interleave(MANY)
    every = torch.arange(MANY).repeat(10)
    expected, included = includes(whole, about, every), torch.zeros(len(every), dtype=torch.bool)
    for rank in range(world_size):
        part = Partition(MANY, 8, rank, world_size)
        own = part.owns(other)
        found = draw(queries, part, num_negatives, probability, (subject[own], part.rows(other[own])), seed)
        assert torch.equal(found.column_rows, found.column_rows.unique())
        ids.append(part.ids[found.column_rows])
        weights.append(found.log_weight)
        mine = torch.isin(every, part.ids)
        included[mine] = includes(found, about[mine], part.rows(every[mine]))
    order = torch.argsort(torch.cat(ids))
    assert torch.equal(torch.cat(ids)[order], whole.column_rows)
    assert torch.equal(torch.cat(weights)[order], whole.log_weight)
    assert torch.equal(included, expected)
    assert includes(whole, queries.subject[queries.answer_query], queries.answer).all()
    answers = torch.unique(queries.answer)
    own = whole.column_rows[whole.log_weight == 0] if num_negatives < MANY else answers
    assert len(own) == min(len(answers), num_negatives)
    assert torch.isin(own, answers).all()
    drawn = whole.log_weight[~torch.isin(whole.column_rows, own)]
    if len(drawn):
        assert float(drawn.exp().sum()) == pytest.approx(MANY - len(own), rel=1e-5)


def test_a_past_candidate_is_drawn_as_often_as_its_probability_says():
    queries, partition = graph_with_many(1).snapshot(3).queries, Partition(MANY)
    rows = torch.arange(MANY)
    stranger, subjects = torch.full_like(rows, MANY - 1), queries.subject[queries.answer_query]
    probability, known = InclusionProbabilities(known=0.7, other=0.2), (stranger[:30], rows[:30])
    samples = [draw(queries, partition, 10, probability, known, seed) for seed in range(600)]
    for subject, other, expected in (
        (*known, 0.7),
        (stranger[30:], rows[30:], 0.2),
        (subjects, queries.answer, 1.0),
    ):
        assert torch.allclose(samples[0].probability(subject, other), torch.tensor(expected))
        found = torch.stack([includes(one, subject, other) for one in samples]).double()
        assert float(found.mean()) == pytest.approx(expected, abs=0.02)


def test_known_answers_come_first_and_take_half_of_the_walks_at_most():
    assert InclusionProbabilities.of(100, 10, 1000) == InclusionProbabilities(1.0, 90 / 990)
    assert InclusionProbabilities.of(100, 200, 1000) == InclusionProbabilities(0.25, 50 / 800)
    assert InclusionProbabilities.of(100, 300, 400) == InclusionProbabilities(0.25, 0.25)
    assert (
        InclusionProbabilities.of(100, 30, 60)
        == InclusionProbabilities.of(100, 0, 0)
        == InclusionProbabilities(1.0, 1.0)
    )


def test_a_step_has_probabilities_by_the_walks_of_all_of_its_queries(monkeypatch):
    graph = graph_of(random_facts(3, 400))
    model, read = tiny_model(graph, history={**HISTORY, "recent": 50}), []

    def noted(history, found, sample):
        known, probabilities = len(found.known_answers[0]), sample.probabilities
        others = found.num_walks - known
        read.append((known * probabilities.known + others * probabilities.other, len(found.groups.queries)))
        return join(history, found, sample)

    join = step_batch.join
    monkeypatch.setattr(step_batch, "join", noted)
    for links in (2, 6, ALL):
        backward(model, graph, 10, history_links=links)
    # Of each step, the queries of the next snapshot and those ahead.
    (two, queries), (six, _), (every, _) = torch.tensor(read).view(3, 2, 2).sum(1).tolist()
    assert two == pytest.approx(2 * queries)
    assert six == pytest.approx(6 * queries)
    assert every > 8 * queries


@given(st.integers(0, 1000), st.sets(st.integers(0, 9), min_size=1))
@settings(max_examples=30)
def test_a_window_for_some_rows_does_to_them_what_the_whole_window_does(seed, rows):
    graph, read = graph_of(random_facts(seed)), torch.tensor(sorted(rows))
    model = tiny_model(graph, seed, dropout=0.3).train()
    window = message_graphs(graph, (TIME - 2, TIME - 1))
    weight, found = torch.randn(len(read), 4, dtype=torch.float64), []
    for given_window in (window, only_for(window, read)):
        model.zero_grad()
        draws = Draws(ModelFacts.of(model), CounterRNG(1, 1))
        given_window = Window.of([draws.graph(snapshot) for snapshot in given_window])
        z = model.entity_vectors(model.empty_memory(), given_window, own=draws.own())
        (z[read] * weight).sum().backward()
        found.append({"z": z[read].detach(), **gradients_of(model)})
    for name, expected in found[0].items():
        torch.testing.assert_close(
            found[1][name], expected, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: name + text
        )
    if len(read) == 1:
        assert sum(len(one.active) for one in window) > sum(len(one.updated) for one in only_for(window, read))


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
    config = tiny_config(candidates="sampled", num_negatives=3, history_links=5, epochs=2, learning_rate=0.01)
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
