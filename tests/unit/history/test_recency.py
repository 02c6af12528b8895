from collections import defaultdict
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.history.recency import KeyTable, RecencyIndex, reaches, thresholds

WIDTH = 10
logs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9)), max_size=40)
groups = st.lists(st.integers(0, 6), max_size=6)  # 4, 5 and 6 are never seen


class Log:
    """A log of (group, item, time), and the index that has received all of it before `end`."""

    def __init__(self, rows, end, tie=None):
        self.rows, self.end = rows, 0
        keys = sorted({group * WIDTH + item for group, item, _ in rows})
        self.table = KeyTable(torch.tensor(keys, dtype=torch.int64))
        self.index = RecencyIndex(self.table, WIDTH, tie)
        self.insert_until(end)

    def insert_until(self, end):
        for time in range(self.end, end):
            keys = [group * WIDTH + item for group, item, at in self.rows if at == time]
            places = self.table.places(torch.tensor(keys, dtype=torch.int64))
            self.table.insert(places, time)
            self.index.insert(places)
        self.end = max(self.end, end)


def recent(log, requested, end, limit=None, tie=None):
    return Log(log, end, tie).index.recent(torch.tensor(requested, dtype=torch.int64), limit)


def rows_of(found):
    columns = (found.row, found.item, found.last, found.count)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def brute_recent(log, groups, end, limit):
    found = []
    for row, group in enumerate(groups):
        times = defaultdict(set)
        for owner, item, time in log:
            if owner == group and time < end:
                times[item].add(time)
        latest = sorted((max(seen), len(seen), item) for item, seen in times.items())
        latest = latest if limit is None else latest[max(0, len(latest) - limit) :]
        found += [(row, item, last, count) for last, count, item in latest]
    return found


@given(logs, groups, st.integers(0, 13), st.one_of(st.none(), st.integers(0, 8)))
@settings(max_examples=200)
def test_recent_items_are_those_a_walk_through_the_log_finds(log, requested, end, limit):
    assert rows_of(recent(log, requested, end, limit)) == brute_recent(log, requested, end, limit)


@given(logs, st.lists(st.integers(0, 10), min_size=1, max_size=4), st.one_of(st.none(), st.integers(0, 8)))
def test_look_ups_are_right_at_every_time_on_the_way(log, times, limit):
    past = Log(log, 0)
    every = torch.arange(4)
    for time in sorted(times):
        past.insert_until(time)
        assert rows_of(past.index.recent(every, limit)) == brute_recent(log, range(4), time, limit)


@given(logs, st.randoms(use_true_random=False), st.integers(0, 10), st.integers(0, 4))
def test_the_order_of_the_log_does_not_matter(log, random, end, limit):
    shuffled = log.copy()
    random.shuffle(shuffled)
    assert rows_of(recent(log, range(4), end, limit)) == rows_of(recent(shuffled, range(4), end, limit))


def table_rows(table):
    """First, last, count, streak and squared gaps of each key that was seen."""
    columns = (table.keys, table.first, table.last, table.count, table.streak, table.squared_gaps)
    return {key: tuple(row) for key, *row in zip(*(column.tolist() for column in columns), strict=True) if row[2]}


def brute_table(log, end):
    times_of = defaultdict(set)
    for group, item, time in log:
        if time < end:
            times_of[group * WIDTH + item].add(time)
    rows = {}
    for key, times in times_of.items():
        streak = next(length for length in range(1, 99) if max(times) - length not in times)
        gaps = [later - earlier for earlier, later in pairwise(sorted(times))]
        rows[key] = (min(times), max(times), len(times), streak, sum(gap**2 for gap in gaps))
    return rows


# Few keys, so that streaks of several snapshots, and gaps between them, are there.
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 9)), max_size=40), st.integers(0, 10))
@settings(max_examples=200)
def test_a_table_has_what_a_walk_through_the_times_of_each_key_finds(log, end):
    assert table_rows(Log(log, end).table) == brute_table(log, end)


@given(logs, st.integers(0, 10))
def test_what_was_seen_is_forgotten_when_cleared(log, end):
    past = Log(log, 10)
    past.table.clear()
    past.index.clear()
    assert table_rows(past.table) == {}
    assert rows_of(past.index.recent(torch.arange(4))) == []
    past.end = 0
    past.insert_until(end)
    assert table_rows(past.table) == brute_table(log, end)
    assert rows_of(past.index.recent(torch.arange(4))) == brute_recent(log, range(4), end, None)


def test_an_item_repeated_more_often_than_the_limit_does_not_hide_the_others():
    log = [(0, 7, time) for time in range(100)] + [(0, 3, 0), (0, 4, 1)]
    assert rows_of(recent(log, [0], 100, 2)) == [(0, 4, 1, 1), (0, 7, 99, 100)]


def test_room_is_bounded_by_the_distinct_keys_however_often_they_are_seen():
    log = [(group, item, time) for group in range(3) for item in range(4) for time in range(50) if (item + time) % 3]
    past = Log(log, 50)
    assert len(past.index._written) == 2 * 12
    assert rows_of(past.index.recent(torch.arange(3), 3)) == brute_recent(log, range(3), 50, 3)


@st.composite
def divided(draw):
    """A log whose items are divided over parts, and what orders its items."""
    log = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 6)), max_size=60))
    part_of = draw(st.lists(st.integers(0, 3), min_size=10, max_size=10))
    order = draw(st.permutations(range(10)))
    return log, part_of, torch.tensor(order) * 7 - 30  # ties may be negative, as hashes are


def ordered_rows(parts, tie):
    """Rows of several look-ups, within a group from oldest to latest, the rarer first."""
    rows = [row for part in parts for row in rows_of(part)]
    return sorted(rows, key=lambda row: (row[0], row[2], row[3], int(tie[row[1]])))


@given(divided(), groups, st.integers(0, 10), st.one_of(st.integers(0, 8), st.just(50)))
@settings(max_examples=300)
def test_the_most_recent_of_parts_cut_at_their_least_are_those_of_the_whole(case, requested, end, limit):
    log, part_of, tie = case
    whole = Log(log, end, lambda item: tie[item]).index
    found, items = [], []
    for part in range(4):
        mine = [row for row in log if part_of[row[1]] == part]
        found.append(recent(mine, requested, end, limit, lambda item: tie[item]))
        items.append(torch.stack([found[-1].row, found[-1].last, found[-1].count, tie[found[-1].item]], 1))
    least = thresholds(torch.cat(items), torch.full((len(requested),), limit))
    parts = [one.where(reaches(rows, least)) for one, rows in zip(found, items, strict=True)]
    assert ordered_rows(parts, tie) == rows_of(whole.recent(torch.tensor(requested, dtype=torch.int64), limit))


@given(divided(), groups, st.integers(0, 10), st.one_of(st.none(), st.integers(0, 8)))
@settings(max_examples=100)
def test_the_tie_orders_items_alike_in_recency_and_count(case, requested, end, limit):
    log, _, tie = case
    found = recent(log, requested, end, limit, lambda item: tie[item])
    every = brute_recent(log, requested, end, None)
    expected = []
    for row in range(len(requested)):
        mine = sorted((one for one in every if one[0] == row), key=lambda one: (one[2], one[3], int(tie[one[1]])))
        expected += mine if limit is None else mine[max(0, len(mine) - limit) :]
    assert rows_of(found) == expected


@pytest.mark.parametrize("limit", [0, 1, 5, None])
def test_no_groups_find_nothing(limit):
    assert rows_of(recent([(0, 1, 2)], [], 5, limit)) == []
    assert rows_of(recent([], [0, 1], 5, limit)) == []


@given(st.sets(st.integers(0, 20)), st.lists(st.integers(0, 25)), st.integers(0, 9))
def test_a_table_tells_the_keys_that_it_has_from_others(keys, requested, time):
    table, requested = KeyTable(torch.tensor(sorted(keys), dtype=torch.int64)), torch.tensor(requested).long()
    place, known = table.find(requested)
    assert known.tolist() == [key in keys for key in requested.tolist()]
    assert torch.equal(table.keys[place[known]], requested[known])
    places = table.places(requested[known])
    assert table.keys[places].tolist() == sorted(set(requested[known].tolist()))
    table.insert(places, time)
    assert (table.last[place[known]] == time).all()
    assert int(table.count.sum()) == len(places)
