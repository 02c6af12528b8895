import sys
import unicodedata

import pyarrow as pa
import pytest

from gam_kg.ingest.names import FOLDS, as_integers, clean_names, fold_names, look_alikes, strip_names

CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]


def test_white_space_and_control_characters_around_a_name_are_stripped_and_those_inside_stay():
    names = pa.array(["\ufeff a b \x07\n", "\u00a0x\ty\u2003", None, " ", "Å\x85"], pa.large_string())
    assert strip_names(names).to_pylist() == ["a b", "x\ty", None, "", "Å"]


def test_no_other_character_is_stripped():
    blank = {char for char in CHARACTERS if char.isspace() or unicodedata.category(char) == "Cc"} | {"\ufeff", "\u200b"}
    found = strip_names(pa.array([f"{char}a{char}" for char in CHARACTERS])).to_pylist()
    assert [name != "a" for name in found] == [char not in blank for char in CHARACTERS]


def test_a_name_without_anything_around_it_is_the_same():
    names = ["", "Ünï code", "a.b", "^x$", "e\u0301", "李 雷"]
    assert strip_names(pa.array(names)).to_pylist() == names


def test_folds_make_names_equal_that_differ_in_the_given_respect_only():
    names = pa.chunked_array([["A  B", "a\u0301"], [None]])
    assert fold_names(names, ()).to_pylist() == ["A  B", "a\u0301", None]
    assert fold_names(names, ["case"]).to_pylist() == ["a  b", "a\u0301", None]
    assert fold_names(names, ["blanks"]).to_pylist() == ["A B", "a\u0301", None]
    assert fold_names(names, ["unicode"]).to_pylist() == ["A  B", "\u00e1", None]
    assert fold_names(names, FOLDS).to_pylist() == ["a b", "\u00e1", None]


def test_clean_names_are_stripped_and_folded():
    assert clean_names(pa.array([" A  B\n", None]), ["blanks"]).to_pylist() == ["A B", None]


@pytest.mark.parametrize("names", [["1", "x"], ["1", "01"], ["1", "+2"], ["9223372036854775808"], ["1", "1.0"]])
def test_names_of_which_one_is_no_int64_stay_text(names):
    assert as_integers(pa.array(names, pa.large_string())).to_pylist() == names


def test_integers_come_back_as_integers_to_the_last_digit():
    numbers = [-(2**63), -1, 0, 7, 2**63 - 1]
    found = as_integers(pa.array(map(str, numbers), pa.large_string()))
    assert found.equals(pa.array(numbers, pa.int64()))


def test_look_alikes_are_grouped_in_the_order_of_the_names():
    names = pa.array(["Obama", "x", "a b", "obama", "\u00e1", "a  b", "OBAMA", "a\u0301", "y"], pa.large_string())
    groups = [["Obama", "obama", "OBAMA"], ["a b", "a  b"], ["\u00e1", "a\u0301"]]
    assert look_alikes(names, 10) == (3, groups)
    assert look_alikes(names, 1) == (3, groups[:1])
    assert look_alikes(pa.array([], pa.large_string()), 10) == (0, [])
