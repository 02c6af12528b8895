from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gam_kg.ops.sparse import CSRPattern, csr_offsets, rows_from_runs, sddmm, sort_by_row, spmm

WIDTH = 3
assert_exact = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


index_dtypes = pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])


@st.composite
def matrices(draw):
    """The columns of each row's entries, in any order, some twice; rows without any."""
    num_columns = draw(st.integers(1, 5))
    return num_columns, draw(st.lists(st.lists(st.integers(0, num_columns - 1), max_size=6), max_size=5))


def tensors_of(num_columns, rows, dtype=torch.float64):
    offsets = csr_offsets(torch.tensor([len(row) for row in rows], dtype=torch.int64))
    column = torch.tensor([column for row in rows for column in row], dtype=torch.int64)
    left = torch.randn(len(rows), WIDTH, dtype=dtype, requires_grad=True)
    right = torch.randn(num_columns, WIDTH, dtype=dtype, requires_grad=True)
    return left, right, offsets, column


@index_dtypes
@given(matrices(), st.integers(0, 1000))
@example((2, [[0, 0, 1], [], [0]]), 0)  # an entry twice, a row without any
@example((3, [[], []]), 0)  # no entries
@example((1, []), 0)  # no rows
@settings(max_examples=60, deadline=None)
def test_products_and_gradients_are_those_of_a_loop_over_entries(index_dtype, matrix, seed):
    torch.manual_seed(seed)
    left, right, offsets, column = tensors_of(*matrix)
    pattern = CSRPattern.of(offsets, column.to(index_dtype), len(right))
    assert {pattern.offsets.dtype, pattern.row.dtype, pattern.column.dtype} == {index_dtype}
    products = sddmm(left, right, pattern)
    row = torch.repeat_interleave(offsets.diff())
    expected = (left[row] * right[column]).sum(1)
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
    left, right, offsets, column = tensors_of(4, [[3, 1, 1], [], [0, 3], [2]])
    assert torch.autograd.gradcheck(sddmm, (left, right, CSRPattern.of(offsets, column, len(right))))


@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16])
def test_products_are_of_the_wider_dtype_and_gradients_of_their_own(narrow):
    left, right, offsets, column = tensors_of(2, [[0, 1], [1]], torch.float32)
    half = left.detach().to(narrow).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        products = sddmm(half, right, CSRPattern.of(offsets, column, len(right)))
    assert products.dtype == torch.float32
    torch.testing.assert_close(products, (half.float()[[0, 0, 1]] * right[column]).sum(1))
    products.sum().backward()
    assert half.grad.dtype == narrow
    assert right.grad.dtype == torch.float32


@given(st.lists(st.integers(0, 3), max_size=12))
def test_rows_from_runs_give_each_entry_its_key(keys):
    key = torch.tensor(keys, dtype=torch.int64)
    run, offsets = rows_from_runs(key)
    assert torch.equal(run.repeat_interleave(offsets.diff()), key)
    assert (offsets.diff() > 0).all()
    assert (run.diff() != 0).all()


@index_dtypes
@given(matrices(), st.integers(0, 1000))
def test_a_sparse_product_is_the_dense_one(index_dtype, matrix, seed):
    torch.manual_seed(seed)
    _, right, offsets, column = tensors_of(*matrix)
    value, row = torch.randn(len(column), dtype=right.dtype), torch.repeat_interleave(offsets.diff())
    dense = torch.zeros(len(offsets) - 1, len(right), dtype=right.dtype)
    dense.index_put_((row, column), value, accumulate=True)
    assert_exact(spmm(offsets.to(index_dtype), column.to(index_dtype), value, right), dense @ right)


@index_dtypes
@given(matrices(), st.data())
def test_the_pattern_of_some_rows_has_their_entries(index_dtype, matrix, data):
    num_columns, rows = matrix
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5)) if rows else []
    _, _, offsets, column = tensors_of(num_columns, rows)
    pattern = CSRPattern.of(offsets, column.to(index_dtype), num_columns)
    found, entry = pattern.select(torch.tensor(picked, dtype=index_dtype), num_columns)
    _, _, *expected = tensors_of(num_columns, [rows[row] for row in picked])
    assert [found.offsets.tolist(), found.column.tolist()] == [part.tolist() for part in expected]
    assert torch.equal(column[entry.long()], found.column.long())
    assert torch.equal(pattern.row[entry.long()].long(), torch.tensor(picked)[found.row.long()])


@index_dtypes
@given(st.lists(st.integers(0, 3), max_size=12))
def test_sorting_by_row_is_stable(index_dtype, rows):
    order, offsets = sort_by_row(torch.tensor(rows, dtype=index_dtype), 5)
    assert order.tolist() == sorted(range(len(rows)), key=lambda entry: rows[entry])
    assert offsets.tolist() == [sum(row < bound for row in rows) for bound in range(6)]
    assert offsets.dtype == index_dtype
