import torch
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.data.ragged import distinct, distinct_index, offsets_of, ragged_ranges

ranges = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=8)


@given(ranges)
def test_ragged_ranges_list_every_position_of_every_range(spans):
    start, length = torch.tensor(spans, dtype=torch.int64).reshape(-1, 2).T
    row, position = ragged_ranges(start, length)
    expected = [(i, first + step) for i, (first, size) in enumerate(spans) for step in range(size)]
    assert list(zip(row.tolist(), position.tolist(), strict=True)) == expected


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(6, 8))
def test_offsets_find_the_run_of_each_row(rows, num_rows):
    rows = sorted(rows)
    start, length = offsets_of(torch.tensor(rows, dtype=torch.int64), num_rows)
    assert length.tolist() == [rows.count(row) for row in range(num_rows)]
    assert start.tolist() == [sum(other < row for other in rows) for row in range(num_rows)]


@given(st.lists(st.integers(-(2**62), 2**62) | st.integers(-3, 3)))
def test_distinct_values_are_those_of_torch(values):
    values = torch.tensor(values, dtype=torch.int64)
    expected, index = torch.unique(values, return_inverse=True)
    assert torch.equal(distinct(values), expected)
    found = distinct_index(values)
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], index)
