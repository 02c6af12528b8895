from math import prod

import pytest
import torch
from columns import bin_of
from hypothesis import example, given
from hypothesis import strategies as st
from pair_past import novelty_of, place_of, rhythm_of, unpacked

from gam_kg.history.bins import NEVER
from gam_kg.history.found import PastAnswers
from gam_kg.history.pair_features import PARTS, UNSEEN, combined, place_among_answers, query_feature, rhythm
from gam_kg.history.recency import KeyTable, Recent

some_times = st.one_of(
    st.sets(st.integers(0, 12), min_size=1),
    st.sets(st.integers(0, 400), min_size=1, max_size=30),
    st.builds(lambda first, step, number: set(range(first, first + step * number, step)), *[st.integers(1, 40)] * 3),
)


def table_of(*facts):
    """A table that has seen each fact at some times."""
    table = KeyTable(torch.arange(len(facts)))
    for time in sorted(set().union(*facts)):
        table.insert(torch.tensor([place for place, times in enumerate(facts) if time in times]), time)
    return table


@given(some_times, st.integers(1, 300))
@example({0, 1, 3, 5, 7, 10}, 2)  # gaps whose mean square is just a bound
@example({2**31, 2**32, 2**33}, 2**31)
def test_the_rhythm_of_a_fact_is_that_of_its_times(times, later):
    now = max(times) + later
    # Another fact before it, so that its place is not the only one.
    found = rhythm(table_of({0}, times), torch.tensor([1]), now)
    assert unpacked("rhythm", int(found)) == rhythm_of(times, now)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 90)), min_size=1, max_size=6), st.integers(1, 40))
def test_an_answer_has_its_place_among_all_and_a_query_its_past(answers, later):
    last, count = torch.tensor(answers).T
    row, now = torch.zeros(len(answers), dtype=torch.int64), int(last.max()) + later
    together = PastAnswers(last.max()[None], count.sum()[None], torch.tensor([len(answers)]))
    found = place_among_answers(Recent(row, row, last, count, row), together)
    assert [unpacked("place", code) for code in found.tolist()] == [place_of(*one, answers) for one in answers]
    past = unpacked("query", int(query_feature(together, now)))
    assert past == (bin_of(later), min(bin_of(int(count.sum())), PARTS["query"][1] - 1), novelty_of(answers))


def test_a_query_without_answers_was_never_seen():
    never = PastAnswers(torch.tensor([-1]), torch.tensor([0]), torch.tensor([0]))
    assert unpacked("query", int(query_feature(never, 5))) == (NEVER, 0, 0)


@pytest.mark.parametrize("feature", PARTS)
def test_each_combination_of_bins_has_a_number_of_its_own(feature):
    grid = torch.cartesian_prod(*(torch.arange(size) for size in PARTS[feature]))
    assert torch.equal(combined(feature, *grid.T), torch.arange(prod(PARTS[feature])))
    # Of all parts but the first, which has a bin for everything, the last bin is open.
    above = combined(feature, grid[-1, 0], *(grid[-1, 1:] + 5))
    assert int(above) == prod(PARTS[feature]) - 1


def test_what_was_never_seen_has_a_number_that_nothing_seen_has():
    numbers = {name: unpacked(name, number) for name, number in UNSEEN.items()}
    assert numbers == {
        "same": (NEVER, 0),
        "rhythm": (0, 0, 0),
        "place": (NEVER, 0),
        "turn": (17, 0, 0),
        "own_turn": (17, 0, 0),
    }
