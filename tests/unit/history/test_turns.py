import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gam_kg.graph.snapshot import Queries
from gam_kg.history.turns import Turns

NUM_RELATIONS, WIDTH = 2, 5
answered = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 1), st.integers(0, 4)), max_size=60)


def turns_of(facts, own, end):
    """Turns of a rank that owns some items, after the snapshots before `end`, and its facts with their numbers."""
    distinct = sorted({(s * NUM_RELATIONS + r, item) for _, s, r, item in facts if item in own})
    keys = torch.tensor([query * WIDTH + item for query, item in distinct], dtype=torch.int64)
    turns = Turns(keys, WIDTH)
    for time in range(end):
        rows = torch.tensor([fact[1:] for fact in facts if fact[0] == time], dtype=torch.int64).reshape(-1, 3).T
        queries = Queries.of(time, rows)
        of_rank = torch.tensor(sorted(own))
        seen = torch.unique(((rows[0] * NUM_RELATIONS + rows[1]) * WIDTH + rows[2])[torch.isin(rows[2], of_rank)])
        turns.insert(queries, queries.subject * NUM_RELATIONS + queries.relation, torch.searchsorted(keys, seen))
    return turns, distinct


@given(answered, st.sets(st.integers(0, 4)), st.integers(0, 8))
@example({(0, 0, 0, 0), (1, 0, 0, 1)}, {0}, 2)  # a snapshot in which another rank alone has answers
def test_answers_since_are_those_of_all_ranks_after_the_last_time(facts, own, end):
    turns, distinct = turns_of(facts, own, end)
    expected, at = [], []
    for place, (query, item) in enumerate(distinct):
        times = {
            i: [t for t, s, r, i_ in facts if (s * NUM_RELATIONS + r, i_) == (query, i) and t < end] for i in range(5)
        }
        if times[item]:
            at.append(place)
            expected.append(sum(t > max(times[item]) for of_item in times.values() for t in of_item))
    query, row = torch.unique(torch.tensor([distinct[place][0] for place in at]).long(), return_inverse=True)
    assert turns.since(query, row, torch.tensor(at).long()).tolist() == expected


@given(answered, st.sets(st.integers(0, 4), min_size=1))
def test_cleared_turns_are_as_new(facts, own):
    turns, distinct = turns_of(facts, own, 7)
    turns.clear()
    every = torch.arange(len(distinct))
    query = torch.tensor([query for query, _ in distinct]).long()
    assert not turns.since(query, every, every).any()
