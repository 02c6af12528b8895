import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.ops import ragged
from gam_kg.ops.ragged import (
    insert_at,
    places_in,
    ragged_ranges,
    row_ranges,
    select,
    sort_with_positions,
    true_positions,
    unique,
    unique_counts,
    unique_inverse,
)

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
    largest = torch.iinfo(dtype).max
    some = st.integers(-largest - 1, largest) | st.integers(-3, 3)
    return st.lists(some) | st.lists(st.integers(0, 2**20)) | st.lists(st.integers(0, 9))


@dtypes
@given(st.data())
def test_unique_values_and_sorts_are_those_of_torch(dtype, data):
    values = torch.tensor(data.draw(integers(dtype)), dtype=dtype)
    expected, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    found = unique(values), *unique_inverse(values), *unique_counts(values), *sort_with_positions(values)
    of_torch = expected, expected, inverse, expected, counts, *torch.sort(values, stable=True)
    for mine, theirs in zip(found, of_torch, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


@given(st.lists(st.booleans()))
def test_inserted_values_get_their_positions(is_new):
    values = torch.arange(len(is_new))
    mask = torch.tensor(is_new, dtype=torch.bool)
    assert torch.equal(insert_at(values[~mask], values[mask], torch.nonzero(mask)[:, 0]), values)


@pytest.mark.parametrize("bits", [1, 15, 16, 17, 40, 55, 60, 62])
def test_many_numbers_of_any_range_are_sorted_with_their_positions(bits):
    values = torch.randint(-(2**bits) // 2, 2**bits // 2, (3000,), generator=torch.Generator().manual_seed(bits))
    values[1000:2000] = values[:1000]
    found, order = sort_with_positions(values)
    expected, positions = torch.sort(values, stable=True)
    assert torch.equal(found, expected)
    assert torch.equal(order, positions)


@pytest.mark.parametrize("many", [0, 10**9])
@given(st.lists(st.integers(-9, 9)), st.lists(st.integers(-12, 12)))
def test_places_in_a_table_are_those_of_torch(many, table, keys):
    table, keys = (torch.tensor(values, dtype=torch.int64) for values in (sorted(table), keys))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged, "_MANY_KEYS", many)
        found = places_in(table, keys)
    assert found.dtype == torch.int64
    assert torch.equal(found, torch.searchsorted(table, keys))


@given(st.lists(st.booleans()))
def test_true_positions_are_those_of_torch(values):
    mask = torch.tensor(values, dtype=torch.bool)
    assert torch.equal(true_positions(mask), torch.nonzero(mask)[:, 0])
