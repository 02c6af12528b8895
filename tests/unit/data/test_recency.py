from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.data.recency import RecencyIndex

logs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9)), max_size=40)


def index_of(log, tie=None):
    return RecencyIndex(*torch.tensor(log, dtype=torch.int64).reshape(-1, 3).T, tie)


def rows_of(recent):
    return list(zip(*(column.tolist() for column in vars(recent).values()), strict=True))


def brute_recent(log, groups, as_of, limit):
    found = []
    for row, group in enumerate(groups):
        times = defaultdict(set)
        for owner, item, time in log:
            if owner == group and time < as_of:
                times[item].add(time)
        latest = sorted((max(seen), item, len(seen)) for item, seen in times.items())
        kept = latest if limit is None else latest[max(0, len(latest) - limit) :]
        found += [(row, item, last, count) for last, item, count in kept]
    return found


def brute_occurrences(log, groups, as_of):
    found = []
    for row, group in enumerate(groups):
        seen = sorted({(time, item) for owner, item, time in log if owner == group and time < as_of})
        found += [(row, item, time, sum(i == item and t <= time for t, i in seen)) for time, item in seen]
    return found


groups = st.lists(st.integers(0, 6), max_size=6)  # 4, 5 and 6 are never seen


@given(logs, groups, st.integers(-2, 13), st.one_of(st.none(), st.integers(0, 8)))
@settings(max_examples=200)
def test_recent_items_are_those_a_walk_through_the_log_finds(log, wanted, as_of, limit):
    found = index_of(log).recent(torch.tensor(wanted, dtype=torch.int64), as_of, limit)
    assert rows_of(found) == brute_recent(log, wanted, as_of, limit)


@given(logs, groups, st.integers(-2, 13))
def test_occurrences_are_those_a_walk_through_the_log_finds(log, wanted, as_of):
    found = index_of(log).occurrences(torch.tensor(wanted, dtype=torch.int64), as_of)
    assert rows_of(found) == brute_occurrences(log, wanted, as_of)


@given(logs, st.randoms(use_true_random=False), st.integers(0, 10), st.integers(0, 4))
def test_the_order_of_the_log_does_not_matter(log, random, as_of, limit):
    shuffled = log.copy()
    random.shuffle(shuffled)
    every = torch.arange(4)
    assert rows_of(index_of(log).recent(every, as_of, limit)) == rows_of(index_of(shuffled).recent(every, as_of, limit))


def test_an_item_repeated_more_often_than_the_limit_does_not_hide_the_others():
    log = [(0, 7, time) for time in range(100)] + [(0, 3, 0), (0, 4, 1)]
    assert rows_of(index_of(log).recent(torch.tensor([0]), 100, 2)) == [(0, 4, 1, 1), (0, 7, 99, 100)]


def test_more_groups_than_64_bits_hold_are_refused():
    huge, none = torch.tensor([2**60]), torch.tensor([0])
    with pytest.raises(ValueError, match="time_unit"):
        RecencyIndex(huge, none, torch.tensor([100]))


@st.composite
def divided(draw):
    """A log whose items are divided over parts, and what orders its items."""
    log = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 6)), max_size=60))
    part_of = draw(st.lists(st.integers(0, 3), min_size=10, max_size=10))
    order = draw(st.permutations(range(10)))
    return log, part_of, torch.tensor(order) * 7 - 30  # ties may be negative, as hashes are


def ordered_rows(parts, tie):
    """Rows of several answers, within a group from oldest to latest, the rarer first."""
    rows = [row for part in parts for row in rows_of(part)]
    return sorted(rows, key=lambda row: (row[0], row[2], row[3], int(tie[row[1]])))


@given(divided(), groups, st.integers(-2, 10), st.one_of(st.integers(0, 8), st.just(50)))
@settings(max_examples=300)
def test_parts_of_an_index_find_with_its_cut_exactly_what_the_whole_finds(case, wanted, as_of, limit):
    log, part_of, tie = case
    wanted = torch.tensor(wanted, dtype=torch.int64)
    whole = index_of(log, lambda item: tie[item])
    cut = whole.cut(wanted, as_of, limit)
    found = []
    for part in range(4):
        mine = [row for row in log if part_of[row[1]] == part]
        found.append(index_of(mine, lambda item: tie[item]).recent(wanted, as_of, cut))
    expected = whole.recent(wanted, as_of, limit)
    assert ordered_rows(found, tie) == rows_of(expected)


@given(divided(), groups, st.integers(-2, 10), st.one_of(st.none(), st.integers(0, 8)))
@settings(max_examples=100)
def test_the_tie_orders_items_alike_in_recency_and_count(case, wanted, as_of, limit):
    log, _, tie = case
    found = index_of(log, lambda item: tie[item]).recent(torch.tensor(wanted, dtype=torch.int64), as_of, limit)
    every = brute_recent(log, wanted, as_of, None)
    expected = []
    for row in range(len(wanted)):
        mine = sorted((one for one in every if one[0] == row), key=lambda one: (one[2], one[3], int(tie[one[1]])))
        expected += mine if limit is None else mine[max(0, len(mine) - limit) :]
    assert rows_of(found) == expected
