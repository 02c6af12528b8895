import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.ingest.open_facts import OPEN, carry, each_snapshot, positions

NO_FACTS = np.empty((0, 4), np.int64)

# Few names and times, so that facts meet; lengths below zero have no end.
row = st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 1), st.integers(0, 5), st.integers(-2, 4))
updates = st.lists(st.tuples(st.lists(row, max_size=6), st.integers(0, 2)), max_size=5)


def as_rows(rows):
    return np.array(rows, np.int64).reshape(-1, 5)


def at_once(rows, last):
    """All facts after some rows, a row at a time."""
    closed = {row[:4] for row in rows if row[4] < OPEN}
    holding = [row for row in rows if row[4] < OPEN or row[:4] not in closed]
    return {(*row[:3], at) for row in holding for at in range(row[3], (last if row[4] == OPEN else row[4]) + 1)}


@given(updates)
def test_updates_one_by_one_add_what_all_rows_say_at_once(updates):
    known, facts, open_facts, last = [], set(), NO_FACTS, -1
    for rows, later in updates:
        closed = {row[:4] for row in known if row[4] < OPEN}
        still_open = {row[:4] for row in known} - closed
        given = []
        for *key, start, length in rows:
            fact = (*key, start)
            stop = OPEN if length < 0 else start + length
            if stop == OPEN and fact in closed:
                continue  # it would open again
            given.append((*fact, max(stop, last) if fact in still_open else stop))
        ends = [row[3] if row[4] == OPEN else row[4] for row in given]
        last_before, last = last, max([last, *ends]) + later
        added, open_facts = carry(open_facts, as_rows(given), last_before, last)
        known += given
        found = [tuple(fact) for fact in added.tolist()]
        assert found == sorted(set(found), key=lambda fact: (fact[3], *fact[:3]))
        facts |= set(found)
        assert facts == at_once(known, last)
        opened = {row[:4] for row in known} - {row[:4] for row in known if row[4] < OPEN}
        assert [tuple(fact) for fact in open_facts.tolist()] == sorted(opened)


def test_open_facts_are_carried_closed_and_opened():
    open_facts = np.array([[0, 0, 1, 2], [0, 0, 2, 3]])
    rows = as_rows([(0, 0, 1, 2, 6), (5, 0, 5, 6, OPEN), (7, 1, 8, 5, 5)])
    added, after = carry(open_facts, rows, 4, 7)
    assert added.tolist() == [
        *([0, 0, 1, 5], [0, 0, 2, 5], [7, 1, 8, 5]),
        *([0, 0, 1, 6], [0, 0, 2, 6], [5, 0, 5, 6]),
        *([0, 0, 2, 7], [5, 0, 5, 7]),
    ]
    assert after.tolist() == [[0, 0, 2, 3], [5, 0, 5, 6]]


def test_an_update_without_rows_carries_open_facts_and_a_repeated_open_row_adds_nothing():
    open_facts = np.array([[3, 1, 4, 0]])
    for rows in ([], [(3, 1, 4, 0, OPEN)]):
        added, after = carry(open_facts, as_rows(rows), 8, 9)
        assert added.tolist() == [[3, 1, 4, 9]]
        assert after.tolist() == open_facts.tolist()
        assert not len(carry(open_facts, as_rows(rows), 8, 8)[0])


def test_an_end_in_the_last_stored_snapshot_closes_without_a_new_fact():
    added, after = carry(np.array([[3, 1, 4, 0]]), as_rows([(3, 1, 4, 0, 8)]), 8, 8)
    assert not len(added)
    assert not len(after)


def test_runs_are_written_out():
    run, facts = each_snapshot(as_rows([(1, 2, 3, 4, 6), (1, 2, 3, 5, 4), (9, 9, 9, 0, 0)]))
    assert run.tolist() == [0, 0, 0, 2]
    assert facts.tolist() == [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 6], [9, 9, 9, 0]]


def test_the_first_of_equal_facts_is_found():
    facts = np.array([[1, 1, 1, 1], [2, 2, 2, 2], [1, 1, 1, 1]])
    assert positions(facts, np.array([[2, 2, 2, 2], [1, 1, 1, 1], [1, 1, 1, 2]])).tolist() == [1, 0, -1]
    assert positions(NO_FACTS, facts).tolist() == [-1, -1, -1]
