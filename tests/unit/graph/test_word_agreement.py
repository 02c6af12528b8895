from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from graphs import features_of

from gam_kg.graph.name_words import NameWords
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.graph.word_agreement import HALF_ENTITIES, HALF_LIFT, LEAST, word_agreement

PEOPLE, PLACES, RELATIONS, VALID_START = 120, 12, 2, 6


def name_of(person):
    """A country, which people act by, and a first name, which says nothing."""
    return f"{('ada', 'bo', 'cy', 'di')[person // 3 % 4]} (land{person % 3})"


NAMES = [name_of(person) for person in range(PEOPLE)] + [f"place{number}" for number in range(PLACES)]


def facts_of(seed=0):
    """Each person has facts in train with places of the own country, and after it with any."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(PEOPLE), 8)
    time = random.integers(0, VALID_START + 3, len(person))
    country = np.where(time < VALID_START, person % 3, random.integers(0, 3, len(person)))
    place = PEOPLE + country * 4 + random.integers(0, 4, len(person))
    return np.stack([person, random.integers(0, RELATIONS, len(person)), place, time], 1)


def graph_of(facts):
    sizes = {"num_entities": PEOPLE + PLACES, "num_relations": RELATIONS}
    return TemporalGraph.from_facts(facts, **sizes, valid_start=VALID_START, test_start=VALID_START + 1)


def agreement_of(graph, names=NAMES, features=None):
    words = NameWords.of(names, known=graph.trained.tolist(), features=features)
    return dict(zip(words.words, word_agreement(words, graph, lambda value: value).tolist(), strict=True))


def by_hand(facts, members, everybody):
    """The lift of a group, from all pairs of its members, and their number."""
    seen = {entity: Counter() for entity in everybody}
    for subject, relation, other, time in facts.tolist():
        if time < VALID_START:
            seen[subject][relation, other] += 1
            seen[other][relation + RELATIONS, subject] += 1
    known = [entity for entity in everybody if seen[entity]]

    def chance(entities):
        pairs = list(combinations([entity for entity in entities if entity in known], 2))
        agree = [
            sum(count * seen[b][key] for key, count in seen[a].items()) / seen[a].total() / seen[b].total()
            for a, b in pairs
        ]
        return sum(agree) / len(pairs)

    return chance(members) / chance(known) - 1, sum(entity in known for entity in members)


@pytest.mark.parametrize("seed", range(3))
def test_a_word_says_as_much_as_the_pairs_that_share_it_agree_beyond_chance(seed):
    facts = facts_of(seed)
    found = agreement_of(graph_of(facts))
    for country in range(3):
        members = [person for person in range(PEOPLE) if person % 3 == country]
        lift, number = by_hand(facts, members, range(PEOPLE + PLACES))
        expected = lift / (lift + HALF_LIFT) * number / (number + HALF_ENTITIES)
        assert found[f"land{country}"] == pytest.approx(expected, rel=0.25)
        assert expected > 0.2
    assert max(found[first] for first in ("ada", "bo", "cy", "di")) < 0.1


def test_what_happens_after_training_says_nothing():
    facts = facts_of()
    later = facts[:, 3] >= VALID_START
    changed = facts.copy()
    changed[later, 2] = PEOPLE
    assert agreement_of(graph_of(facts)) == agreement_of(graph_of(changed))


def test_those_who_never_meet_do_not_agree():
    """However much each of them repeats itself."""
    meeting = np.repeat([(person, 0, PEOPLE + person, time) for person in range(6) for time in range(3)], 5, axis=0)
    crowd = [(person, 0, PEOPLE + 6 + person % 6, 0) for person in range(6, PEOPLE)]
    names = ["apart" if person < 6 else f"person{person}" for person in range(PEOPLE + PLACES)]
    assert agreement_of(graph_of(np.concatenate([meeting, crowd])), names) == {"apart": LEAST}


def test_newcomers_with_a_word_say_nothing_of_it():
    facts = facts_of()
    newcomers = facts[:, 0] < PEOPLE // 2
    later = facts.copy()
    later[newcomers, 3] = VALID_START
    graph, words = graph_of(later), ("land0", "land1", "land2")
    renamed = [f"new{person}" if person < PEOPLE // 2 else name for person, name in enumerate(NAMES)]
    found, expected = agreement_of(graph), agreement_of(graph, renamed)
    assert [found[word] for word in words] == pytest.approx([expected[word] for word in words], rel=1e-12)
    assert min(found[word] for word in words) > 0.1


def test_a_word_without_two_who_are_known_says_the_least():
    facts = facts_of()
    only_one = facts[(facts[:, 0] % 3 != 2) | (facts[:, 0] == 2) | (facts[:, 3] >= VALID_START)]
    words = NameWords.of(NAMES)
    graph = graph_of(only_one)
    found = dict(zip(words.words, word_agreement(words, graph, lambda value: value).tolist(), strict=True))
    assert found["land2"] == LEAST
    assert found["land1"] > 0.2
    nobody = graph_of(facts[facts[:, 3] >= VALID_START])
    assert set(word_agreement(words, nobody, lambda value: value).tolist()) == {LEAST}


def test_features_were_given_for_what_they_say():
    rows = [(person, "colour = red", 1.0) for person in range(0, PEOPLE, 7)]
    found = agreement_of(graph_of(facts_of()), features=features_of(rows))
    assert found["colour = red"] == 1
    assert found["land0"] == agreement_of(graph_of(facts_of()))["land0"]


@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_find_together_what_one_finds(world_size):
    graph = graph_of(facts_of())
    words = NameWords.of(NAMES, known=graph.trained.tolist())
    expected = word_agreement(words, graph, lambda value: value)
    summed: list[torch.Tensor] = []
    for step in range(3):  # each pass gets one sum further
        parts, found = [], []
        for rank in range(world_size):
            calls = iter(range(3))

            def total(value, calls=calls, parts=parts, step=step):
                call = next(calls)
                if call == step:
                    parts.append(value)
                return summed[call] if call < step else value

            found.append(word_agreement(words, graph.shard(rank, world_size), total))
        summed.append(sum(parts, start=torch.zeros(())))
    for one in found:
        torch.testing.assert_close(one, expected, rtol=1e-12, atol=1e-12)
