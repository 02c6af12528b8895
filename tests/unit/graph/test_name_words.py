from gam_kg.graph.name_words import NameWords


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


def test_no_names_are_no_words():
    found = NameWords.of([])
    assert (found.words, found.offsets.tolist(), found.word.tolist()) == ((), [0], [])


def test_names_that_training_does_not_know_add_no_words():
    names = ["Police (Australia)", "Minister (Australia)", "Envoy (France)"]
    assert NameWords.of(names).words == ("australia",)
    found = NameWords.of(names, known=[True, False, True])
    assert found.words == ()
    assert len(found.offsets) == 4
