import pyarrow as pa

from gam_kg.ingest.names import FOLDS, fold_names, strip_names


def test_white_space_and_control_characters_around_a_name_are_stripped_and_those_inside_stay():
    names = pa.array(["\ufeff a b \x07\n", "\u00a0x\ty\u2003", None, " ", "Å\x85"], pa.large_string())
    assert strip_names(names).to_pylist() == ["a b", "x\ty", None, "", "Å"]


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
