import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.ops.ragged import ragged_ranges, row_ranges, select, sort_with_positions, unique, unique_inverse

ranges = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=8)
dtypes = pytest.mark.parametrize("dtype", [torch.int32, torch.int64])


@dtypes
@given(ranges)
def test_ragged_ranges_list_every_position_of_every_range(dtype, spans):
    start, length = torch.tensor(spans, dtype=dtype).reshape(-1, 2).T
    row, position = ragged_ranges(start, length)
    expected = [(i, first + step) for i, (first, size) in enumerate(spans) for step in range(size)]
    assert list(zip(row.tolist(), position.tolist(), strict=True)) == expected


@dtypes
@given(st.lists(st.integers(0, 5), max_size=20), st.integers(6, 8))
def test_row_ranges_find_the_range_of_each_row(dtype, rows, num_rows):
    rows = sorted(rows)
    start, length = row_ranges(torch.tensor(rows, dtype=dtype), num_rows)
    assert length.tolist() == [rows.count(row) for row in range(num_rows)]
    assert start.tolist() == [sum(other < row for other in rows) for row in range(num_rows)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9))))
def test_a_selection_is_that_of_a_mask(rows):
    mask, value = (
        torch.tensor([row[i] for row in rows], dtype=dtype) for i, dtype in ((0, torch.bool), (1, torch.int64))
    )
    table = torch.stack([value, -value], 1)
    found = select(mask, value, table)
    assert torch.equal(found[0], value[mask])
    assert torch.equal(found[1], table[mask])


def integers(dtype):
    largest = 2**62 if dtype == torch.int64 else 2**31 - 1
    return st.lists(st.integers(-largest, largest) | st.integers(-3, 3)) | st.lists(st.integers(0, 2**20))


@dtypes
@given(st.data())
def test_unique_values_and_sorts_are_those_of_torch(dtype, data):
    values = torch.tensor(data.draw(integers(dtype)), dtype=dtype)
    expected, inverse = torch.unique(values, return_inverse=True)
    found = (unique(values), *unique_inverse(values), *sort_with_positions(values))
    for mine, theirs in zip(found, (expected, expected, inverse, *torch.sort(values, stable=True)), strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
