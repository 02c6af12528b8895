import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from gam_kg.nn.noise import Noise, dropout, normal_rows, rrelu

keys = st.lists(st.integers(0, 2**62), min_size=1, max_size=12)
KEY = torch.arange(4000)


@given(keys, st.randoms(use_true_random=False), st.integers(0, 2**40), st.integers(0, 10**6))
def test_the_noise_of_a_row_depends_neither_on_other_rows_nor_on_their_order(key, random, seed, step):
    noise, picked = Noise(seed, step), [random.randrange(len(key)) for _ in key]
    whole = noise.rows(torch.tensor(key))
    some = noise.rows(torch.tensor(key)[picked])
    assert torch.equal(some.bits(5, "a"), whole.bits(5, "a")[picked])
    assert torch.equal(some.uniform(5, "a"), whole.uniform(5, "a")[picked])
    assert torch.equal(some.keeps(5, 0.3, "a"), whole.keeps(5, 0.3, "a")[picked])
    assert torch.equal(whole.uniform(3, "a"), whole.uniform(5, "a")[:, :3])
    assert torch.equal(noise.uniform(torch.tensor(key), "a"), whole.uniform(1, "a")[:, 0])


def differs(one, other):
    """Neither alike nor opposite, element by element."""
    correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1]
    return float((one == other).double().mean()) < 0.001 and abs(float(correlation)) < 0.05


def test_another_seed_step_site_row_or_column_gives_other_noise():
    draws = {
        "first": Noise(0, 0).rows(KEY).uniform(8, "a"),
        "seed": Noise(1, 0).rows(KEY).uniform(8, "a"),
        "step": Noise(0, 1).rows(KEY).uniform(8, "a"),
        "earlier step": Noise(0, -1).rows(KEY).uniform(8, "a"),
        "site": Noise(0, 0).rows(KEY).uniform(8, "b"),
        "rows": Noise(0, 0).rows(KEY + len(KEY)).uniform(8, "a"),
        "next rows": Noise(0, 0).rows(KEY + 1).uniform(8, "a"),
        "columns": Noise(0, 0).rows(KEY).uniform(16, "a")[:, 8:],
        "next columns": Noise(0, 0).rows(KEY).uniform(9, "a")[:, 1:],
    }
    names = list(draws)
    for position, name in enumerate(names):
        for other in names[position + 1 :]:
            assert differs(draws[name], draws[other]), (name, other)
    columns = draws["first"].T
    assert all(differs(columns[one], columns[two]) for one in range(8) for two in range(one))


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
@pytest.mark.parametrize("site", ["gam dropout", "x"])
def test_numbers_are_uniform(seed, site):
    found = Noise(seed, 3).rows(KEY).uniform(50, site)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() < 1
    found = found.double()
    assert float(found.mean()) == pytest.approx(0.5, abs=0.003)
    assert float(found.var()) == pytest.approx(1 / 12, abs=0.001)
    assert torch.histc(found, 20, 0, 1).div_(found.numel()).sub_(0.05).abs().max() < 0.003
    assert (found.mean(0) - 0.5).abs().max() < 0.02
    assert (found.mean(1) - 0.5).abs().max() < 0.25


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.5, 0.9, 1.0])
def test_the_share_dropped_is_the_share_asked_for(share):
    kept = Noise(0, 3).rows(KEY).keeps(50, share, "a")
    assert kept.dtype == torch.bool
    assert float(kept.double().mean()) == pytest.approx(1 - share, abs=0.004)
    if share == 0:
        assert kept.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_keeps_the_mean_and_drops_by_row(dtype):
    x, rows = torch.ones(len(KEY), 20, dtype=dtype), Noise(0, 1).rows(KEY)
    found = dropout(x, 0.4, rows, "a", training=True)
    assert found.dtype == dtype
    torch.testing.assert_close(found.unique(), torch.tensor([0, 1 / 0.6], dtype=dtype))
    assert float(found.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(found != 0, rows.keeps(20, 0.4, "a"))
    part = dropout(x[5:9], 0.4, Noise(0, 1).rows(KEY[5:9]), "a", training=True)
    assert torch.equal(part, found[5:9])


def test_gradients_pass_where_values_do():
    x = torch.randn(30, 6, dtype=torch.float64, requires_grad=True)
    rows = Noise(0, 1).rows(torch.arange(30))
    assert torch.autograd.gradcheck(lambda x: dropout(x, 0.4, rows, "a", training=True), (x,))
    assert torch.autograd.gradcheck(lambda x: rrelu(x, rows, "a", training=True), (x,))


def test_slopes_of_negative_values_are_uniform_between_an_eighth_and_a_third():
    rows = Noise(0, 1).rows(KEY)
    slopes = -rrelu(torch.full((len(KEY), 20), -1.0), rows, "a", training=True).double()
    assert 1 / 8 <= slopes.min() < 0.126
    assert 0.332 < slopes.max() <= 1 / 3
    assert float(slopes.mean()) == pytest.approx((1 / 8 + 1 / 3) / 2, abs=0.001)
    positive = torch.rand(len(KEY), 20)
    assert torch.equal(rrelu(positive, rows, "a", training=True), positive)


@pytest.mark.parametrize("noise", [None, Noise(0, 1)])
def test_evaluation_has_no_noise(noise):
    x = torch.randn(10, 4)
    rows = None if noise is None else noise.rows(torch.arange(10))
    assert torch.equal(dropout(x, 0.4, rows, "a", training=False), x)
    assert torch.equal(rrelu(x, rows, "a", training=False), functional.rrelu(x, training=False))
    assert torch.equal(dropout(x, 0.0, rows, "a", training=True), x)


def test_without_noise_it_is_that_of_torch():
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


def test_noise_leaves_the_generator_of_torch_alone():
    before, rows = torch.get_rng_state(), Noise(0, 1).rows(torch.arange(5))
    dropout(torch.ones(5, 3), 0.5, rows, "a", training=True)
    normal_rows(torch.arange(5), 3, 0, "a")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(params=[torch.float32, torch.float64])
def default_dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def test_rows_are_standard_normal(default_dtype):
    found = normal_rows(KEY, 50, 0, "a")
    assert found.dtype == default_dtype
    assert found.isfinite().all()
    found = found.double()
    assert float(found.mean()) == pytest.approx(0, abs=0.01)
    assert float(found.var()) == pytest.approx(1, abs=0.02)
    for bound, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert float((found.abs() < bound).double().mean()) == pytest.approx(share, abs=0.004)
    correlation = torch.corrcoef(found.T) - torch.eye(50)
    assert correlation.abs().max() < 0.08


@given(keys, st.randoms(use_true_random=False), st.integers(0, 100))
@settings(max_examples=30)
def test_any_keys_have_the_rows_they_have_among_others(key, random, seed):
    picked = [random.randrange(len(key)) for _ in range(random.randrange(len(key) + 1))]
    whole = normal_rows(torch.tensor(key), 5, seed, "a")
    # Vectorised and scalar cosines may differ in the last bit.
    some = normal_rows(torch.tensor(key)[picked], 5, seed, "a")
    torch.testing.assert_close(some, whole[picked], rtol=1e-6, atol=1e-6)
    assert not torch.equal(whole, normal_rows(torch.tensor(key), 5, seed + 1, "a"))
    assert not torch.equal(whole, normal_rows(torch.tensor(key), 5, seed, "b"))


def test_many_rows_are_those_of_few(monkeypatch):
    whole = normal_rows(torch.arange(50), 4, 0, "a")
    monkeypatch.setattr("gam_kg.nn.noise._ROWS_AT_ONCE", 7)
    torch.testing.assert_close(normal_rows(torch.arange(50), 4, 0, "a"), whole, rtol=1e-6, atol=1e-6)
