"""Whether the files of a folder have ids or names is decided once, and refused where it cannot be known."""

import itertools

import pytest
from imported import imported, refused, rows

NUMBERS = [f"{(number * 11) % 25:06d}" for number in range(25)]  # zero-padded, each another's id
CODES = [str((number * 11) % 25) for number in range(25)]


def listing(names):
    return "".join(f"{name}\t{number}\n" for number, name in enumerate(names))


def facts_of(tokens):
    return "".join(f"{a}\t0\t{b}\t{day}\n" for day, (a, b) in enumerate(itertools.pairwise(tokens)))


def pairs(out):
    return [(row[0], row[2]) for row in rows(out)]


def test_zero_padded_numbers_are_names(folder, out):
    imported(folder(train=facts_of(NUMBERS), entity2id=listing(NUMBERS)), out)
    assert pairs(out) == [*itertools.pairwise(NUMBERS)]


def test_ids_have_names_that_are_zero_padded_numbers(folder, out):
    imported(folder(train=facts_of(range(25)), entity2id=listing(NUMBERS)), out)
    assert pairs(out) == [*itertools.pairwise(NUMBERS)]


def test_one_name_that_is_no_id_makes_all_of_them_names(folder, out):
    names = [*CODES, "Iran"]
    imported(folder(train=facts_of(names), entity2id=listing(names)), out)
    assert pairs(out) == [*itertools.pairwise(names)]


def test_the_last_file_decides_too(folder, out):
    names = [*CODES, "Iran"]
    imported(folder(train=facts_of(CODES), test="Iran\t0\t3\t99\n", entity2id=listing(names)), out)
    assert pairs(out) == [*itertools.pairwise(CODES), ("Iran", "3")]


def test_entities_may_be_ids_and_relations_names(folder, out):
    imported(folder(train="0\tConsult\t1\t5\n"), out)
    assert rows(out) == [("China", "Consult", "Iran", 5)]


def test_two_readings_are_refused(folder, out):
    message = refused(imported, folder(train="1\t0\t2\t5\n", entity2id=listing("125")), out)
    assert "train.txt, line 1: the entity '1' may be a name or the id of '2'" in message
    assert "remove entity2id.txt" in message


def test_two_readings_that_agree_are_one(folder, out):
    imported(folder(train="1\t0\t2\t5\n", entity2id=listing("012")), out)
    assert rows(out) == [("1", "Make statement", "2", 5)]


@pytest.mark.parametrize("token", ["01", "+1", "-0", "1.0", "٣", "9"])
def test_what_only_looks_like_an_id_is_none(folder, out, token):
    message = refused(imported, folder(train="0\t0\t1\t5\n", valid=f"\n0\t0\t{token}\t5\n"), out)
    assert f"valid.txt, line 2: entity '{token}' is no id" in message
    assert "2 of 3 are" in message


@pytest.mark.parametrize("tokens", [["0", "1", "Iran"], ["Iran", "1", "0"]])
def test_ids_and_names_are_not_mixed(folder, out, tokens):
    message = refused(imported, folder(train=facts_of(tokens)), out)
    assert "entity 'Iran' is no id" in message
    assert "throughout" in message


@pytest.mark.parametrize("tokens", [["Iran", "China", "2"], ["2", "China", "Iran"]])
def test_names_and_an_id_are_not_mixed(folder, out, tokens):
    assert "entity '2' is no name" in refused(imported, folder(train=facts_of(tokens)), out)


@pytest.mark.parametrize(
    ("entities", "found"),
    [("7\t5\n9\t6\n", "neither is numbered"), ("0\t1\n1\t0\n2\t3\n3\t2\n", "both are numbered")],
)
def test_a_file_of_names_that_can_be_read_in_two_ways_is_refused(folder, out, entities, found):
    message = refused(imported, folder(train="0\t0\t1\t5\n", entity2id=entities), out)
    assert "entity2id.txt: either column" in message
    assert found in message
    assert "remove it if the files of facts have names" in message


def test_a_padded_id_is_none(folder, out):
    message = refused(imported, folder(train="0\t0\t1\t5\n", entity2id="China\t00\nIran\t01\n"), out)
    assert "entity2id.txt, line 1" in message
    assert "leading zeros" in message


def test_names_are_stripped_and_counted(folder, out):
    entities = " China \t0\n\u200bIran\t1\n"
    summary = imported(folder(train="China\t0\t Iran\u00a0\t5\n China\t0\tIran\t6\n", entity2id=entities), out)
    assert pairs(out) == [("China", "Iran")] * 2
    assert summary.num_stripped == 2
    assert "2 names" in "\n".join(summary.lines())


def test_a_name_of_control_characters_is_refused(folder, out):
    files = {"train": "a\tr\tb\t5\na\tr\t\x01\t6\n", "entity2id": None, "relation2id": None}
    assert "train.txt, line 2" in refused(imported, folder(**files), out)
