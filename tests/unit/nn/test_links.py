from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gam_kg.nn.links import Links, link_runs, linked_products

WIDTH = 3
assert_exact = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


@st.composite
def links(draw):
    """Links by left row, in any order on the right, some twice; rows without any."""
    num_right = draw(st.integers(1, 5))
    return num_right, draw(st.lists(st.lists(st.integers(0, num_right - 1), max_size=6), max_size=5))


def tensors_of(num_right, rows, dtype=torch.float64):
    count = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])
    right_of = torch.tensor([right for row in rows for right in row], dtype=torch.int64)
    left = torch.randn(len(rows), WIDTH, dtype=dtype, requires_grad=True)
    right = torch.randn(num_right, WIDTH, dtype=dtype, requires_grad=True)
    return left, right, offsets, right_of


@given(links(), st.integers(0, 1000))
@example((2, [[0, 0, 1], [], [0]]), 0)  # a link twice, a row without any
@example((3, [[], []]), 0)  # no links
@example((1, []), 0)  # no rows
@settings(max_examples=60, deadline=None)
def test_products_and_gradients_are_those_of_a_loop_over_links(found, seed):
    torch.manual_seed(seed)
    left, right, offsets, right_of = tensors_of(*found)
    products = linked_products(left, right, Links.of(offsets, right_of, len(right)))
    left_of = torch.repeat_interleave(offsets.diff())
    expected = (left[left_of] * right[right_of]).sum(1)
    assert_exact(products, expected)
    grad = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(products, (left, right), grad),
        torch.autograd.grad(expected, (left, right), grad),
        strict=True,
    ):
        assert_exact(mine, theirs)


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    left, right, offsets, right_of = tensors_of(4, [[3, 1, 1], [], [0, 3], [2]])
    assert torch.autograd.gradcheck(linked_products, (left, right, Links.of(offsets, right_of, len(right))))


@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16])
def test_products_are_of_the_wider_dtype_and_gradients_of_their_own(narrow):
    left, right, offsets, right_of = tensors_of(2, [[0, 1], [1]], torch.float32)
    half = left.detach().to(narrow).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        products = linked_products(half, right, Links.of(offsets, right_of, len(right)))
    assert products.dtype == torch.float32
    torch.testing.assert_close(products, (half.float()[[0, 0, 1]] * right[right_of]).sum(1))
    products.sum().backward()
    assert half.grad.dtype == narrow
    assert right.grad.dtype == torch.float32


@given(st.lists(st.integers(0, 3), max_size=12))
def test_runs_give_each_link_its_key(keys):
    key = torch.tensor(keys, dtype=torch.int64)
    run, offsets = link_runs(key)
    assert torch.equal(run.repeat_interleave(offsets.diff()), key)
    assert (offsets.diff() > 0).all()
    assert (run.diff() != 0).all()
