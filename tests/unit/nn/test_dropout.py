import pytest
import torch
from torch.nn import functional

from gam_kg.nn.dropout import dropout, rrelu
from gam_kg.ops.counter_rng import CounterRNG

KEY = torch.arange(4000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_preserves_the_mean_and_drops_by_row(dtype):
    x, rows = torch.ones(len(KEY), 20, dtype=dtype), CounterRNG(0, 1).rows(KEY, "a")
    found = dropout(x, 0.4, rows, "a", training=True)
    assert found.dtype == dtype
    torch.testing.assert_close(found.unique(), torch.tensor([0, 1 / 0.6], dtype=dtype))
    assert float(found.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(found != 0, rows.dropout_mask(20, 0.4, "a"))
    part = dropout(x[5:9], 0.4, CounterRNG(0, 1).rows(KEY[5:9], "a"), "a", training=True)
    assert torch.equal(part, found[5:9])


def test_gradients_pass_where_values_do():
    x = torch.randn(30, 6, dtype=torch.float64, requires_grad=True)
    rows = CounterRNG(0, 1).rows(torch.arange(30), "a")
    assert torch.autograd.gradcheck(lambda x: dropout(x, 0.4, rows, "a", training=True), (x,))
    assert torch.autograd.gradcheck(lambda x: rrelu(x, rows, "a", training=True), (x,))


def test_slopes_of_negative_values_are_uniform_between_an_eighth_and_a_third():
    rows = CounterRNG(0, 1).rows(KEY, "a")
    slopes = -rrelu(torch.full((len(KEY), 20), -1.0), rows, "a", training=True).double()
    assert 1 / 8 <= slopes.min() < 0.126
    assert 0.332 < slopes.max() <= 1 / 3
    assert float(slopes.mean()) == pytest.approx((1 / 8 + 1 / 3) / 2, abs=0.001)
    positive = torch.rand(len(KEY), 20)
    assert torch.equal(rrelu(positive, rows, "a", training=True), positive)


@pytest.mark.parametrize("rng", [None, CounterRNG(0, 1)])
def test_evaluation_is_not_random(rng):
    x = torch.randn(10, 4)
    rows = None if rng is None else rng.rows(torch.arange(10), "a")
    assert torch.equal(dropout(x, 0.4, rows, "a", training=False), x)
    assert torch.equal(rrelu(x, rows, "a", training=False), functional.rrelu(x, training=False))
    assert torch.equal(dropout(x, 0.0, rows, "a", training=True), x)


def test_without_an_rng_it_is_that_of_torch():
    x = torch.randn(10, 4)
    calls = [
        (lambda: dropout(x, 0.4, None, "a", training=True), lambda: functional.dropout(x, 0.4)),
        (lambda: rrelu(x, None, "a", training=True), lambda: functional.rrelu(x, training=True)),
    ]
    for mine, theirs in calls:
        torch.manual_seed(3)
        found = mine()
        torch.manual_seed(3)
        assert torch.equal(found, theirs())


def test_the_generator_of_torch_is_left_alone():
    before, rows = torch.get_rng_state(), CounterRNG(0, 1).rows(torch.arange(5), "a")
    dropout(torch.ones(5, 3), 0.5, rows, "a", training=True)
    rrelu(torch.ones(5, 3), rows, "a", training=True)
    assert torch.equal(torch.get_rng_state(), before)
