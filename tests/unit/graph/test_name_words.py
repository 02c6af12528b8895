from itertools import pairwise

import pytest
import torch
from graphs import features_of
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.graph.name_words import NameWords
from gam_kg.ingest.names import split_words


def words_of(found: NameWords, entity: int) -> set[str]:
    start, stop = found.offsets[entity : entity + 2].tolist()
    return {found.words[word] for word in found.word[start:stop].tolist()}


def test_shared_words_are_found_whatever_their_case_and_punctuation():
    found = NameWords.of(["Police (Australia)", "police_force, AUSTRALIA", "Citizen", ""])
    assert found.words == ("australia", "police")
    assert [words_of(found, entity) for entity in range(4)] == [{"australia", "police"}] * 2 + [set(), set()]


def test_a_word_twice_in_one_name_is_not_shared():
    assert NameWords.of(["New New York", "Boston"]).words == ()


def test_known_words_stay_in_their_order_and_new_ones_ignored():
    found = NameWords.of(["b a", "c", "a c"], words=("b", "a"))
    assert found.words == ("b", "a")
    assert [words_of(found, entity) for entity in range(3)] == [{"a", "b"}, set(), {"a"}]
    assert found.word.dtype == found.offsets.dtype
    assert found.weight.tolist() == [0.5, 0.5, 1]


def test_no_names_are_no_words():
    found = NameWords.of([])
    assert (found.words, found.offsets.tolist(), found.word.tolist()) == ((), [0], [])


def test_names_that_training_does_not_know_add_no_words():
    names = ["Police (Australia)", "Minister (Australia)", "Envoy (France)"]
    assert NameWords.of(names).words == ("australia",)
    found = NameWords.of(names, known=[True, False, True])
    assert found.words == ()
    assert len(found.offsets) == 4


def test_features_are_words_beside_those_of_names():
    rows = [(0, "x =", 1.5), (0, "kind = a", 1.0), (1, "kind = a", 1.0), (2, "x =", -2.0), (2, "kind = b", 1.0)]
    found = NameWords.of(["red fox", "red hen", "owl"], features=features_of(rows))
    assert found.words == ("kind = a", "red", "x =")
    assert found.offsets.tolist() == [0, 3, 5, 6]
    assert found.word.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.weight.tolist() == [1, 1, 1.5, 1, 1, -2]
    without_names = NameWords.of([""] * 3, features=features_of(rows))
    assert without_names.words == ("kind = a", "x =")
    assert without_names.weight.tolist() == [1, 1.5, 1, -2]


def test_features_that_training_does_not_know_add_no_words():
    rows = [(0, "kind = a", 1.0), (1, "kind = a", 1.0), (1, "kind = b", 0.3), (2, "kind = b", 0.3)]
    found = NameWords.of([""] * 3, known=[True, True, False], features=features_of(rows))
    assert found.words == ("kind = a",)
    assert torch.equal(found.offsets, torch.tensor([0, 1, 2, 2]))


@pytest.mark.parametrize("name", ["x", "x =", "x = a", "kind = a"])
def test_no_name_has_a_word_of_features(name):
    found = NameWords.of([name, name], features=features_of([(0, "x =", 1.0), (1, "x =", 2.0), (0, "x = a", 1.0)]))
    assert [word for word in found.words if " " in word] == ["x ="]
    assert found.weight[found.word == found.words.index("x =")].tolist() == [1, 2]


@given(names=st.lists(st.text(st.sampled_from("abAB _(),-\t\n\x0b\x1c\x1f\xa0éßİ"), max_size=8), max_size=6))
def test_names_are_divided_as_their_words_are(names):
    found = NameWords.of(names, words=sorted({word for name in names for word in split_words(name)}))
    of_entity = [
        {found.words[word] for word in found.word[first:end].tolist()}
        for first, end in pairwise(found.offsets.tolist())
    ]
    assert of_entity == [split_words(name) for name in names]
