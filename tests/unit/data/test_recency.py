from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.data.recency import RecencyIndex, SeenKeys

WIDTH = 10
logs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9)), max_size=40)
groups = st.lists(st.integers(0, 6), max_size=6)  # 4, 5 and 6 are never seen


class Told:
    """An index over a log of (group, item, time) that has been told of all before a time."""

    def __init__(self, log, as_of, tie=None):
        self.log, self.as_of = log, 0
        keys = sorted({group * WIDTH + item for group, item, _ in log})
        self.seen = SeenKeys(torch.tensor(keys, dtype=torch.int64))
        self.index = RecencyIndex(self.seen, WIDTH, tie)
        self.tell(as_of)

    def tell(self, as_of):
        for time in range(self.as_of, as_of):
            keys = [group * WIDTH + item for group, item, at in self.log if at == time]
            ids = self.seen.find(torch.tensor(keys, dtype=torch.int64))
            self.seen.add(ids, time)
            self.index.add(ids)
        self.as_of = max(self.as_of, as_of)


def recent(log, wanted, as_of, limit=None, tie=None):
    return Told(log, as_of, tie).index.recent(torch.tensor(wanted, dtype=torch.int64), limit)


def rows_of(found):
    columns = (found.row, found.item, found.last, found.count)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def brute_recent(log, groups, as_of, limit):
    found = []
    for row, group in enumerate(groups):
        times = defaultdict(set)
        for owner, item, time in log:
            if owner == group and time < as_of:
                times[item].add(time)
        latest = sorted((max(seen), len(seen), item) for item, seen in times.items())
        kept = latest if limit is None else latest[max(0, len(latest) - limit) :]
        found += [(row, item, last, count) for last, count, item in kept]
    return found


@given(logs, groups, st.integers(0, 13), st.one_of(st.none(), st.integers(0, 8)))
@settings(max_examples=200)
def test_recent_items_are_those_a_walk_through_the_log_finds(log, wanted, as_of, limit):
    assert rows_of(recent(log, wanted, as_of, limit)) == brute_recent(log, wanted, as_of, limit)


@given(logs, st.lists(st.integers(0, 10), min_size=1, max_size=4), st.one_of(st.none(), st.integers(0, 8)))
def test_answers_are_right_at_every_time_on_the_way(log, times, limit):
    told = Told(log, 0)
    every = torch.arange(4)
    for time in sorted(times):
        told.tell(time)
        assert rows_of(told.index.recent(every, limit)) == brute_recent(log, range(4), time, limit)


@given(logs, st.randoms(use_true_random=False), st.integers(0, 10), st.integers(0, 4))
def test_the_order_of_the_log_does_not_matter(log, random, as_of, limit):
    shuffled = log.copy()
    random.shuffle(shuffled)
    assert rows_of(recent(log, range(4), as_of, limit)) == rows_of(recent(shuffled, range(4), as_of, limit))


@given(logs, st.integers(0, 10))
def test_what_was_seen_is_forgotten_when_cleared(log, as_of):
    told = Told(log, 10)
    told.seen.clear()
    told.index.clear()
    assert rows_of(told.index.recent(torch.arange(4))) == []
    told.as_of = 0
    told.tell(as_of)
    assert rows_of(told.index.recent(torch.arange(4))) == brute_recent(log, range(4), as_of, None)


def test_an_item_repeated_more_often_than_the_limit_does_not_hide_the_others():
    log = [(0, 7, time) for time in range(100)] + [(0, 3, 0), (0, 4, 1)]
    assert rows_of(recent(log, [0], 100, 2)) == [(0, 4, 1, 1), (0, 7, 99, 100)]


def test_room_is_bounded_by_the_distinct_keys_however_often_they_are_seen():
    log = [(group, item, time) for group in range(3) for item in range(4) for time in range(50) if (item + time) % 3]
    told = Told(log, 50)
    assert len(told.index._written) == 2 * 12
    assert rows_of(told.index.recent(torch.arange(3), 3)) == brute_recent(log, range(3), 50, 3)


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


@given(divided(), groups, st.integers(0, 10), st.one_of(st.integers(0, 8), st.just(50)))
@settings(max_examples=300)
def test_parts_of_an_index_find_with_its_cut_exactly_what_the_whole_finds(case, wanted, as_of, limit):
    log, part_of, tie = case
    whole = Told(log, as_of, lambda item: tie[item]).index
    asked = torch.tensor(wanted, dtype=torch.int64)
    cut = whole.cut(asked, limit)
    found = []
    for part in range(4):
        mine = [row for row in log if part_of[row[1]] == part]
        found.append(recent(mine, wanted, as_of, cut, lambda item: tie[item]))
    assert ordered_rows(found, tie) == rows_of(whole.recent(asked, limit))


@given(divided(), groups, st.integers(0, 10), st.one_of(st.none(), st.integers(0, 8)))
@settings(max_examples=100)
def test_the_tie_orders_items_alike_in_recency_and_count(case, wanted, as_of, limit):
    log, _, tie = case
    found = recent(log, wanted, as_of, limit, lambda item: tie[item])
    every = brute_recent(log, wanted, as_of, None)
    expected = []
    for row in range(len(wanted)):
        mine = sorted((one for one in every if one[0] == row), key=lambda one: (one[2], one[3], int(tie[one[1]])))
        expected += mine if limit is None else mine[max(0, len(mine) - limit) :]
    assert rows_of(found) == expected


@pytest.mark.parametrize("limit", [0, 1, 5, None])
def test_no_groups_find_nothing(limit):
    assert rows_of(recent([(0, 1, 2)], [], 5, limit)) == []
    assert rows_of(recent([], [0, 1], 5, limit)) == []
