from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.cross_entropy import Targets, sharded_cross_entropy

NOTHING = torch.zeros(0, dtype=torch.int64)


def table_targets(answers, num_candidates):
    """Targets of a table of all candidates; `answers` are the lists of each query's."""
    flat = [(query, answer) for query, each in enumerate(answers) for answer in each]
    query, candidate = torch.tensor(flat, dtype=torch.int64).reshape(-1, 2).T
    counts = torch.tensor([len(each) for each in answers], dtype=torch.int64)
    position = query * num_candidates + candidate
    return Targets(len(answers), num_candidates, num_candidates, query, position, counts, NOTHING, None, None, NOTHING)


def sampled_targets():
    """Three queries with two weighted columns and five pairs apart; two answers, one and one, which is a column."""
    return Targets(
        num_queries=3,
        num_columns=2,
        num_candidates=9,
        query=torch.tensor([0, 0, 1, 2]),
        position=torch.tensor([6, 8, 9, 4]),
        answers_per_query=torch.tensor([2, 1, 1]),
        apart_query=torch.tensor([0, 0, 0, 1, 1]),
        log_weight=torch.tensor([0.0, 1.5]),
        log_weight_apart=torch.tensor([0.0, 0.7, 0.0, 0.0, 2.0]),
        masked=torch.tensor([0, 3, 0]),
    )


TARGETS = {"table": table_targets([[0, 3], [], [4]], 5), "pairs apart": sampled_targets()}


def scores_for(targets, seed=0, scale=1.0):
    torch.manual_seed(seed)
    size = targets.num_queries * targets.num_columns + len(targets.apart_query)
    return (scale * torch.randn(size, dtype=torch.float64)).requires_grad_()


def loss_of(scores, targets, smoothing):
    """The loss, of a copy of the scores."""
    return sharded_cross_entropy(scores.clone(), targets, smoothing=smoothing, communicator=Communicator())


def naive(scores: Tensor, targets: Targets, smoothing: float) -> Tensor:
    """One query after another, each over the list of its own candidates."""
    width, loss = targets.num_columns, 0 * scores.sum()
    table_size, masked = targets.num_queries * width, targets.masked.tolist()
    weights = targets.log_weight, targets.log_weight_apart
    log_weight = torch.zeros(width) if targets.log_weight is None else torch.cat(weights)
    for query in range(targets.num_queries):
        columns = [column for column in range(width) if query * width + column not in masked]
        apart = [pair for pair, owner in enumerate(targets.apart_query.tolist()) if owner == query]
        own = scores[[query * width + column for column in columns] + [table_size + pair for pair in apart]]
        weight = log_weight[columns + [width + pair for pair in apart]].double().exp()
        normaliser = torch.log((weight * own.exp()).sum())
        mean = (weight * own).sum() / targets.num_candidates
        for hit in scores[targets.position[targets.query == query]]:
            loss = loss - (1 - smoothing) * (hit - normaliser) - smoothing * (mean - normaliser)
    return loss


def assert_same_loss_and_gradients(scores, targets, smoothing, expected):
    found = loss_of(scores, targets, smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(3 * loss, scores, materialize_grads=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


@st.composite
def tables(draw):
    num_candidates = draw(st.integers(1, 6))
    answers = st.lists(st.integers(0, num_candidates - 1), unique=True)
    return table_targets(draw(st.lists(answers, max_size=5)), num_candidates)


@st.composite
def samples(draw):
    """Any targets with weights; every query has a pair apart that is an answer, and perhaps answers among the rest."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    num_queries, num_columns, num_apart = (draw(st.integers(low, 4)) for low in (1, 0, 0))
    num_apart, size = num_apart + num_queries, num_queries * num_columns
    apart_query = torch.randint(num_queries, (num_apart,), generator=generator)
    apart_query[:num_queries] = torch.arange(num_queries)
    masked = draw(st.lists(st.integers(0, size - 1))) if size else []
    owner = [position // num_columns for position in range(size)] + apart_query.tolist()
    others = st.sampled_from(sorted(set(range(size + num_apart)) - set(masked)))
    position = sorted(draw(st.sets(others)) | set(range(size, size + num_queries)))
    query = torch.tensor([owner[at] for at in position])
    log_weight = torch.rand(num_columns + num_apart, generator=generator)
    log_weight[:num_columns] = 2.5 * torch.randint(2, (num_columns,), generator=generator)
    return Targets(
        num_queries,
        num_columns,
        50,
        query,
        torch.tensor(position),
        torch.bincount(query, minlength=num_queries),
        apart_query,
        *log_weight.tensor_split([num_columns]),
        torch.tensor(masked, dtype=torch.int64),
    )


smoothings = st.sampled_from([0.0, 0.1, 0.6])


@given(tables(), smoothings, st.sampled_from([1.0, 100.0]), st.integers(0, 100))
@settings(max_examples=60)
def test_loss_and_gradients_of_a_table_are_those_of_torch(targets, smoothing, scale, seed):
    scores, answer = scores_for(targets, seed, scale), targets.position - targets.query * targets.num_columns
    table = scores.view(targets.num_queries, targets.num_columns)
    expected = functional.cross_entropy(table[targets.query], answer, label_smoothing=smoothing, reduction="sum")
    assert_same_loss_and_gradients(scores, targets, smoothing, expected)


@given(st.one_of(samples(), tables()), smoothings, st.integers(0, 100))
@settings(max_examples=120)
def test_loss_and_gradients_are_those_of_lists_of_candidates(targets, smoothing, seed):
    scores = scores_for(targets, seed, 3.0)
    assert_same_loss_and_gradients(scores, targets, smoothing, naive(scores, targets, smoothing))


@given(tables(), smoothings)
def test_a_table_is_a_sample_of_all_candidates_with_weight_one(targets, smoothing):
    scores, weights = scores_for(targets), torch.zeros(targets.num_columns)
    weighted = replace(targets, log_weight=weights, log_weight_apart=weights[:0])
    assert_same_loss_and_gradients(scores, weighted, smoothing, loss_of(scores, targets, smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("case", TARGETS)
def test_gradients_are_those_of_finite_differences(case, smoothing):
    scores, targets = scores_for(TARGETS[case]), TARGETS[case]
    (found,) = torch.autograd.grad(loss_of(scores, targets, smoothing), scores)
    step = 1e-6
    for position in range(len(scores)):
        shift = torch.zeros_like(scores)
        shift[position] = step
        with torch.no_grad():
            up, down = (loss_of(scores + sign * shift, targets, smoothing) for sign in (1, -1))
        assert found[position].item() == pytest.approx((up - down).item() / (2 * step), abs=1e-8)


def test_what_is_masked_has_neither_influence_nor_gradient():
    scores, targets = scores_for(sampled_targets()), sampled_targets()
    expected = loss_of(scores, targets, 0.1)
    (gradient,) = torch.autograd.grad(expected, scores)
    assert torch.nonzero(gradient == 0)[:, 0].tolist() == sorted(set(targets.masked.tolist()))
    with torch.no_grad():
        scores[targets.masked] = 1e6
    assert torch.equal(loss_of(scores, targets, 0.1), expected)


@pytest.mark.parametrize("num_apart", [0, 1, 2, 3])
def test_huge_scores_stay_finite(num_apart):
    scores = torch.tensor([1e4, -1e4, 0.0], requires_grad=True)
    targets = replace(
        table_targets([[1]], 3),
        num_columns=3 - num_apart,
        apart_query=torch.zeros(num_apart, dtype=torch.int64),
        log_weight=torch.zeros(3 - num_apart) if num_apart else None,
        log_weight_apart=torch.zeros(num_apart) if num_apart else None,
    )
    loss = loss_of(scores, targets, 0.0)
    assert loss.item() == pytest.approx(2e4)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [1, -1, 0]


@pytest.mark.parametrize("case", TARGETS)
def test_a_second_backward_is_refused_rather_than_wrong(case):
    loss = loss_of(scores_for(TARGETS[case]), TARGETS[case], 0.1)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
