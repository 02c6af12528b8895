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

from gam_kg.data.history import HistoryIndex
from gam_kg.data.partition import Partition
from gam_kg.distributed.neighbourhood import Neighbourhood
from gam_kg.nn.candidates import Candidates, Held, Shares, rows_of
from gam_kg.nn.noise import Noise
from gam_kg.nn.recurrence import Memory
from gam_kg.train import checkpoint
from gam_kg.train.loop import Trainer
from gam_kg.train.optimizer import RowAdamW
from gam_kg.train.step import StepSettings, backward_snapshot, entity_vectors, only_for

TIME, MANY, ALL = 4, 60, 10**9
PARTS = {
    "all parts": {},
    "no pairs": {"recent": 0, "same_relation": 0},
    "no paths": {"two_hop_first": 0},
    "recent facts beyond those by relation": {"recent": 50, "same_relation": 1, "two_hop_first": 0},
    "no popularity": {"popular": 0},
    "nothing": {"recent": 0, "same_relation": 0, "two_hop_first": 0, "popular": 0},
}


def graph_with_many(seed):
    """Most entities have no facts, so that there are some to draw."""
    return graph_of(random_facts(seed), num_entities=MANY)


def backward(model, graph, num_negatives, *, step=0, max_scores=10**9, history_links=ALL):
    model.zero_grad()
    memory = Memory.empty(graph.num_entities, 4, like=model.entity.detach())
    window = [Neighbourhood.of(graph.snapshot(time), graph.partition) for time in (TIME - 2, TIME - 1)]
    history = history_before(graph, model.config.history, TIME)
    given = StepSettings(0.1, max_scores, num_negatives=num_negatives, history_links=history_links)
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
def test_where_everything_is_drawn_it_is_the_step_over_all(part, seed):
    graph = graph_with_many(seed)
    model = tiny_model(graph, seed, history={**HISTORY, **PARTS[part]}, entity_dropout=0.4, dropout=0.3).train()
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
    found_loss, found = backward(model, graph, num_negatives, max_scores=50, history_links=5)
    assert found_loss == pytest.approx(loss, rel=1e-10)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-10)


NOTHING = torch.zeros(0, dtype=torch.int64)
shares = st.sampled_from([Shares(0.6, 0.3), Shares(1.0, 0.3), Shares(1.0, 1.0)])


def draw(queries, partition, num_negatives, shares, known=(NOTHING, NOTHING), seed=0):
    return Candidates.draw(queries, num_negatives, known, shares, partition.ids, partition, Noise(seed, 0))


@pytest.mark.parametrize("part", PARTS)
@given(st.integers(0, 1000), st.integers(1, 60), shares)
@settings(max_examples=30)
@torch.no_grad()
def test_each_query_meets_each_candidate_once_with_the_score_that_it_has_among_all(part, seed, num_negatives, share):
    graph = graph_with_many(seed)
    model = tiny_model(graph, seed, history={**HISTORY, **PARTS[part]})
    queries = graph.snapshot(TIME).queries
    index = history_before(graph, model.config.history, TIME)
    z = torch.randn(MANY, 4, dtype=torch.float64)
    expected = model.scores(z, queries, index.look_up(queries))
    past = index.find(queries)
    candidates = draw(queries, graph.partition, num_negatives, share, past.known_answers, seed)
    history = index.sampled(past, candidates)
    held = torch.unique(torch.cat([candidates.rows, queries.subject, queries.answer, *rows_of(history)]))
    found = model.sampled_scores(z[held], Held.of(held, MANY), candidates, queries, history)
    # What the history of a query has is met by itself or not at all, as are its answers, all of which are met.
    answers = set(zip(queries.answer_query.tolist(), queries.answer.tolist(), strict=True))
    whole = pairs_of(index.look_up(queries))
    extra = {(query, row) for query, row in whole if met(candidates, queries.subject[[query]], torch.tensor([row]))}
    assert pairs_of(history) == extra
    assert answers & whole <= extra
    extra |= answers
    assert len(found.query) == len(extra)
    for query, row in extra:
        scores = found.score[found.query == query]
        assert torch.isclose(scores, expected[query, row], rtol=1e-9).any()
    counts = torch.ones(found.dense.numel(), dtype=torch.bool).index_fill(0, found.replaced, False).view_as(found.dense)
    torch.testing.assert_close(found.dense[counts], expected[:, candidates.rows][counts], rtol=1e-10, atol=1e-10)
    left_out = {(query, row) for query, row in whole | answers if row in candidates.rows}
    at = torch.nonzero(~counts)
    assert set(zip(at[:, 0].tolist(), candidates.rows[at[:, 1]].tolist(), strict=True)) == left_out
    # Every answer is the target of its query once.
    asked, target = found.query[found.answers], found.score[found.answers]
    order = torch.argsort(asked * 1e6 + target)
    wanted = expected[queries.answer_query, queries.answer]
    wanted = wanted[torch.argsort(queries.answer_query * 1e6 + wanted)]
    torch.testing.assert_close(target[order], wanted, rtol=1e-9, atol=1e-10)
    assert torch.equal(found.log_weight[found.answers], torch.zeros(len(answers)))


def met(candidates, subject, rows):
    coins = candidates.coins(rows)
    found = candidates.meets(subject, rows, coins)
    assert candidates.may_meet(rows, coins)[found].all()
    return found


def pairs_of(history):
    parts = [part for part in (history.pairs, history.paths) if part is not None]
    return {pair for part in parts for pair in zip(part.pair_query.tolist(), part.pair_other.tolist(), strict=True)}


def test_rows_that_are_not_read_get_no_gradient():
    graph = graph_with_many(1)
    model = tiny_model(graph)
    backward(model, graph, 5)
    grad = model.entity.grad
    assert grad is not None
    assert grad.is_sparse
    rows = grad._indices()[0]
    assert len(rows) == len(rows.unique()) < MANY


@pytest.mark.parametrize("num_negatives, history_links", [(20, ALL), (20, 4), (4, 8), (MANY, 4)])
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


@given(st.integers(0, 1000), st.integers(1, 80), shares, st.integers(1, 4))
@settings(max_examples=30)
def test_every_rank_draws_its_part_of_the_same_candidates(seed, num_negatives, share, world_size):
    queries = graph_with_many(seed % 7).snapshot(3).queries
    subject, other = (torch.randint(MANY, (30,), generator=torch.Generator().manual_seed(seed + n)) for n in range(2))
    whole = draw(queries, Partition(MANY, 8), num_negatives, share, (subject, other), seed)
    ids, weights = [], []
    about = torch.arange(10).repeat_interleave(MANY)
    every = torch.arange(MANY).repeat(10)
    expected, found_met = met(whole, about, every), torch.zeros(len(every), dtype=torch.bool)
    for rank in range(world_size):
        part = Partition(MANY, 8, rank, world_size)
        own = part.owns(other)
        found = draw(queries, part, num_negatives, share, (subject[own], part.rows(other[own])), seed)
        assert torch.equal(found.rows, found.rows.unique())
        ids.append(part.ids[found.rows])
        weights.append(found.log_weight)
        mine = torch.isin(every, part.ids)
        found_met[mine] = met(found, about[mine], part.rows(every[mine]))
    order = torch.argsort(torch.cat(ids))
    assert torch.equal(torch.cat(ids)[order], whole.rows)
    assert torch.equal(torch.cat(weights)[order], whole.log_weight)
    assert torch.equal(found_met, expected)
    assert met(whole, queries.subject[queries.answer_query], queries.answer).all()
    answers = torch.unique(queries.answer)
    own = whole.rows[whole.log_weight == 0] if num_negatives < MANY else answers
    assert len(own) == min(len(answers), num_negatives)
    assert torch.isin(own, answers).all()
    drawn = whole.log_weight[~torch.isin(whole.rows, own)]
    if len(drawn):
        assert float(drawn.exp().sum()) == pytest.approx(MANY - len(own), rel=1e-5)


def test_a_history_is_met_as_often_as_its_share_says():
    queries, partition = graph_with_many(1).snapshot(3).queries, Partition(MANY)
    rows = torch.arange(MANY)
    stranger, asked = torch.full_like(rows, MANY - 1), queries.subject[queries.answer_query]
    share, known = Shares(known=0.7, other=0.2), (stranger[:30], rows[:30])
    draws = [draw(queries, partition, 10, share, known, seed) for seed in range(600)]
    for subject, other, expected in (
        (*known, 0.7),
        (stranger[30:], rows[30:], 0.2),
        (asked, queries.answer, 1.0),
    ):
        assert torch.allclose(draws[0].share(subject, other), torch.tensor(expected))
        found = torch.stack([met(one, subject, other) for one in draws]).double()
        assert float(found.mean()) == pytest.approx(expected, abs=0.02)


def test_known_answers_come_first_and_take_half_of_the_links_at_most():
    assert Shares.of(100, 10, 1000) == Shares(1.0, 90 / 990)
    assert Shares.of(100, 200, 1000) == Shares(0.25, 50 / 800)
    assert Shares.of(100, 300, 400) == Shares(0.25, 0.25)
    assert Shares.of(100, 30, 60) == Shares.of(100, 0, 0) == Shares(1.0, 1.0)


def test_a_step_has_shares_by_the_links_of_all_of_its_queries(monkeypatch):
    graph = graph_of(random_facts(3, 400))
    model, read = tiny_model(graph, history={**HISTORY, "recent": 50}), []

    def noted(index, found, sample):
        known, others = len(found.known_answers[0]), found.num_links - len(found.known_answers[0])
        read.append((known * sample.shares.known + others * sample.shares.other, len(found.asked.queries)))
        return sampled(index, found, sample)

    sampled = HistoryIndex.sampled
    monkeypatch.setattr(HistoryIndex, "sampled", noted)
    for links in (2, 6, ALL):
        backward(model, graph, 10, history_links=links)
    (two, queries), (six, _), (every, _) = read
    assert two == pytest.approx(2 * queries)
    assert six == pytest.approx(6 * queries)
    assert every > 8 * queries


@given(st.integers(0, 1000), st.sets(st.integers(0, 9), min_size=1))
@settings(max_examples=30)
def test_a_window_for_some_rows_tells_them_what_the_whole_window_does(seed, rows):
    graph, read = graph_of(random_facts(seed)), torch.tensor(sorted(rows))
    model = tiny_model(graph, seed, dropout=0.3).train()
    window = [Neighbourhood.of(graph.snapshot(time), graph.partition) for time in (TIME - 2, TIME - 1)]
    weight, found = torch.randn(len(read), 4, dtype=torch.float64), []
    for asked in (window, only_for(window, read)):
        model.zero_grad()
        z = entity_vectors(model, Memory.empty(graph.num_entities, 4, like=model.entity), asked, noise=Noise(1, 1))
        (z[read] * weight).sum().backward()
        found.append({"z": z[read].detach(), **gradients_of(model)})
    for name, expected in found[0].items():
        torch.testing.assert_close(
            found[1][name], expected, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: name + text
        )
    if len(read) == 1:
        assert sum(len(one.active) for one in window) > sum(len(one.wanted) for one in only_for(window, read))


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
