import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.ops.counter_rng import CounterRNG, normal_rows

keys = st.lists(st.integers(0, 2**62), min_size=1, max_size=12)
KEY = torch.arange(4000)


@given(keys, st.randoms(use_true_random=False), st.integers(0, 2**40), st.integers(0, 10**6))
def test_the_numbers_of_a_row_depend_neither_on_other_rows_nor_on_their_order(key, random, seed, step):
    rng, picked = CounterRNG(seed, step), [random.randrange(len(key)) for _ in key]
    whole = rng.rows(torch.tensor(key), "a", "b")
    some = rng.rows(torch.tensor(key)[picked], "a", "b")
    assert torch.equal(some.bits(5, "a"), whole.bits(5, "a")[picked])
    assert torch.equal(some.uniform(5, "a"), whole.uniform(5, "a")[picked])
    assert torch.equal(some.dropout_mask(5, 0.3, "a"), whole.dropout_mask(5, 0.3, "a")[picked])
    assert torch.equal(whole.uniform(3, "a"), whole.uniform(5, "a")[:, :3])
    assert torch.equal(rng.uniform(torch.tensor(key), "a"), whole.uniform(1, "a")[:, 0])


def test_keys_of_either_integer_dtype_give_the_same_numbers():
    rng = CounterRNG(2**40, 3)
    assert torch.equal(rng.rows(KEY.int(), "a").bits(5, "a"), rng.rows(KEY, "a").bits(5, "a"))


def differs(one, other):
    """Neither alike nor opposite, element by element."""
    correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1]
    return float((one == other).double().mean()) < 0.001 and abs(float(correlation)) < 0.05


def test_another_seed_step_site_row_or_column_gives_other_numbers():
    draws = {
        "first": CounterRNG(0, 0).rows(KEY, "a").uniform(8, "a"),
        "seed": CounterRNG(1, 0).rows(KEY, "a").uniform(8, "a"),
        "step": CounterRNG(0, 1).rows(KEY, "a").uniform(8, "a"),
        "earlier step": CounterRNG(0, -1).rows(KEY, "a").uniform(8, "a"),
        "site": CounterRNG(0, 0).rows(KEY, "b").uniform(8, "b"),
        "rows": CounterRNG(0, 0).rows(KEY + len(KEY), "a").uniform(8, "a"),
        "next rows": CounterRNG(0, 0).rows(KEY + 1, "a").uniform(8, "a"),
        "columns": CounterRNG(0, 0).rows(KEY, "a").uniform(16, "a")[:, 8:],
        "next columns": CounterRNG(0, 0).rows(KEY, "a").uniform(9, "a")[:, 1:],
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
    found = CounterRNG(seed, 3).rows(KEY, site).uniform(50, site)
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
def test_the_share_dropped_is_the_share_requested(share):
    mask = CounterRNG(0, 3).rows(KEY, "a").dropout_mask(50, share, "a")
    assert mask.dtype == torch.bool
    assert float(mask.double().mean()) == pytest.approx(1 - share, abs=0.004)
    if share == 0:
        assert mask.all()


def test_the_generator_of_torch_is_left_alone():
    before = torch.get_rng_state()
    CounterRNG(0, 1).rows(torch.arange(5), "a").uniform(3, "a")
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
def test_a_normal_row_depends_on_its_own_key_only(key, random, seed):
    picked = [random.randrange(len(key)) for _ in range(random.randrange(len(key) + 1))]
    whole = normal_rows(torch.tensor(key), 5, seed, "a")
    # Vectorised and scalar cosines may differ in the last bit.
    some = normal_rows(torch.tensor(key)[picked], 5, seed, "a")
    torch.testing.assert_close(some, whole[picked], rtol=1e-6, atol=1e-6)
    assert not torch.equal(whole, normal_rows(torch.tensor(key), 5, seed + 1, "a"))
    assert not torch.equal(whole, normal_rows(torch.tensor(key), 5, seed, "b"))


def test_rows_made_in_blocks_are_those_made_at_once(monkeypatch):
    whole = normal_rows(torch.arange(50), 4, 0, "a")
    monkeypatch.setattr("gam_kg.ops.counter_rng._ROWS_AT_ONCE", 7)
    torch.testing.assert_close(normal_rows(torch.arange(50), 4, 0, "a"), whole, rtol=1e-6, atol=1e-6)
