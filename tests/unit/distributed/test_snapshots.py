import pytest
from graphs import graph_of
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.distributed import snapshots
from gam_kg.distributed.snapshots import _group_sizes

MOST, ROWS = snapshots._SNAPSHOTS_AHEAD, 12


def group_sizes(sizes, times):
    """Groups of snapshots where a group may have `ROWS` anchored facts."""
    graph = graph_of([(number, 0, number + 1, time) for time, size in enumerate(sizes) for number in range(size)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "SLAB_ROWS", ROWS)
        return list(_group_sizes(graph, times))


@given(st.lists(st.integers(0, 9), max_size=60))
def test_groups_are_all_snapshots_and_small_unless_one_alone_is_large(sizes):
    groups = group_sizes(sizes, range(len(sizes)))
    assert sum(groups) == len(sizes)
    assert all(1 <= number <= MOST for number in groups)
    first = 0
    for number in groups:
        rows = [2 * size for size in sizes[first : first + number]]
        assert sum(rows) <= ROWS or sum(size > 0 for size in rows) == 1
        first += number


def test_small_snapshots_go_together_as_far_as_is_allowed():
    assert group_sizes([0] * 40, range(40)) == [MOST, MOST, 8]
    assert group_sizes([1] * 13, range(13)) == [6, 6, 1]
    assert group_sizes([], []) == []
