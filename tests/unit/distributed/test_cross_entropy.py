import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from gam_kg.distributed.sharded_softmax import Targets, sharded_cross_entropy
from gam_kg.distributed.topology import Topology


def targets_of(answers):
    flat = [(query, answer) for query, each in enumerate(answers) for answer in each]
    query, candidate = torch.tensor(flat, dtype=torch.int64).reshape(-1, 2).T
    return Targets(query, candidate, torch.tensor([len(each) for each in answers], dtype=torch.int64))


def loss_of(scores, targets, smoothing):
    """The loss, of a copy of the scores."""
    return sharded_cross_entropy(
        scores.clone(), targets, num_candidates=scores.shape[1], smoothing=smoothing, topology=Topology()
    )


@st.composite
def cases(draw):
    num_candidates = draw(st.integers(1, 6))
    answers = st.lists(st.integers(0, num_candidates - 1), unique=True)
    return num_candidates, draw(st.lists(answers, max_size=5))


@given(cases(), st.sampled_from([0.0, 0.1, 0.6]), st.sampled_from([1.0, 100.0]), st.integers(0, 100))
@settings(max_examples=60)
def test_loss_and_gradients_are_those_of_torch(case, smoothing, scale, seed):
    num_candidates, answers = case
    torch.manual_seed(seed)
    scores = (scale * torch.randn(len(answers), num_candidates, dtype=torch.float64)).requires_grad_()
    targets = targets_of(answers)
    found = loss_of(scores, targets, smoothing)
    expected = functional.cross_entropy(
        scores[targets.query], targets.candidate, label_smoothing=smoothing, reduction="sum"
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(3 * loss, scores)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_those_of_finite_differences(smoothing):
    torch.manual_seed(0)
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    targets = targets_of([[0, 3], [], [4]])
    (found,) = torch.autograd.grad(loss_of(scores, targets, smoothing), scores)
    step = 1e-6
    for row, column in torch.cartesian_prod(torch.arange(3), torch.arange(5)).tolist():
        shift = torch.zeros_like(scores)
        shift[row, column] = step
        with torch.no_grad():
            up, down = (loss_of(scores + sign * shift, targets, smoothing) for sign in (1, -1))
        assert found[row, column].item() == pytest.approx((up - down).item() / (2 * step), abs=1e-8)


def test_huge_scores_stay_finite():
    scores = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = loss_of(scores, targets_of([[1]]), 0.0)
    assert loss.item() == pytest.approx(2e4)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[1, -1, 0]]


def test_a_second_backward_is_refused_rather_than_wrong():
    scores = torch.randn(2, 3, requires_grad=True)
    loss = loss_of(scores, targets_of([[0], [1]]), 0.1)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
