from collections import defaultdict

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gam_kg.graph.snapshot import Queries
from gam_kg.history.recency import KeyTable
from gam_kg.history.turns import Turns

NUM_RELATIONS, NUM_ROWS = 2, 5
answered = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 1), st.integers(0, 4)), max_size=60)


def inserted(facts, own, end):
    """Turns of a rank that owns some answers, after the snapshots before `end`; its queries, relations and answers."""
    known = sorted({(s * NUM_RELATIONS + r, r, answer) for _, s, r, answer in facts if answer in own})
    table = KeyTable(torch.tensor([query * NUM_ROWS + answer for query, _, answer in known]).long())
    answers = KeyTable(torch.tensor(sorted({r * NUM_ROWS + answer for _, r, answer in known})).long())
    turns = Turns(table, answers, NUM_RELATIONS, NUM_ROWS)
    for time in range(end):
        rows = torch.tensor([fact[1:] for fact in facts if fact[0] == time]).long().reshape(-1, 3).T
        seen = sorted((s * NUM_RELATIONS + r) * NUM_ROWS + answer for s, r, answer in rows.T.tolist() if answer in own)
        places = torch.searchsorted(table.keys, torch.tensor(seen).long())
        table.insert(places, time)
        turns.insert(Queries.of(time, rows), places)
    return turns, known


def found_by(turns, known, places):
    """What a look-up finds for the facts at some places."""
    query, relation, answer = torch.tensor([known[place] for place in places]).long().reshape(-1, 3).T
    places = torch.tensor(places).long()
    queries, of_fact = torch.unique(query, return_inverse=True)
    since, distinct = turns.of_candidate(relation, answer, places)
    return turns.of_query(queries, of_fact, places).tolist(), since.tolist(), distinct.tolist()


@given(answered, st.sets(st.integers(0, 4)), st.integers(0, 8))
@example({(0, 0, 0, 0), (1, 0, 0, 1)}, {0}, 2)  # a snapshot in which another rank alone has answers
def test_facts_since_are_those_of_all_ranks_after_the_last_time(facts, own, end):
    turns, known = inserted(facts, own, end)
    times = defaultdict(list)
    for time, s, r, answer in facts:
        if time < end:
            times[s * NUM_RELATIONS + r, r, answer].append(time)
    places = [place for place, fact in enumerate(known) if fact in times]

    def since(of_group, last):
        return sum(time > last for fact in of_group for time in times[fact])

    expected = []
    for query, relation, answer in (known[place] for place in places):
        last, of_candidate = (
            max(times[query, relation, answer]),
            [fact for fact in times if fact[1:] == (relation, answer)],
        )
        of_query = [fact for fact in times if fact[0] == query]
        expected.append((since(of_query, last), since(of_candidate, last), len(of_candidate)))
    assert list(zip(*found_by(turns, known, places), strict=True)) == expected


@given(answered, st.sets(st.integers(0, 4), min_size=1))
def test_cleared_turns_are_as_new(facts, own):
    turns, known = inserted(facts, own, 7)
    turns.clear()
    zeros = [0] * len(known)
    assert found_by(turns, known, range(len(known))) == (zeros, zeros, zeros)
