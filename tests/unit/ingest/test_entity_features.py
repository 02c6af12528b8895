from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from gam_kg.errors import DataError
from gam_kg.ingest.entity_features import EntityFeatures, check_columns
from gam_kg.ingest.feature_words import FARTHEST
from gam_kg.ingest.vocabulary import Vocabulary

KEY = "data.entity_features"
NAMES = ["ann", "bob", "cid", "late"]
TRAINED = np.array([True, True, True, False])


def read(columns, names=NAMES, folds=()):
    return EntityFeatures.of(KEY, {"x.parquet": pa.table({"entity": names, **columns})}, folds)


def encode(columns, names=NAMES, folds=()):
    """Entity → feature → weight, and the content. Each entity has a twin like it, as features must be shared."""
    table = pa.table({"entity": names, **columns})
    twins = table.set_column(0, "entity", pa.array([f"{name.strip()}2" for name in names]))
    read_twice = EntityFeatures.of(KEY, {"x.parquet": table, "twins.parquet": twins}, folds)
    vocabulary = Vocabulary(pa.array([*NAMES, *(f"{name}2" for name in NAMES)]))
    table, content = read_twice.encode(vocabulary, np.tile(TRAINED, 2))
    found = {name: {} for name in vocabulary.names.to_pylist()}
    for row in table.to_pylist():
        found[vocabulary.names[row["entity_id"]].as_py()][row["feature"]] = row["weight"]
    assert all(found[name] == found[f"{name}2"] for name in NAMES)
    return {name: found[name] for name in NAMES}, content


def features(values, names=NAMES):
    """The features of each entity in one column."""
    return [set(found) for found in encode({"x": values}, names)[0].values()]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2, 3, 7], pa.uint8()),
        pa.array([1.0, 2.0, 3.0, 7.0]),
        pa.array([1, 2, 3, 7], pa.float16()),
        pa.array([Decimal("1.0"), Decimal("2.0"), Decimal("3.0"), Decimal("7.0")]),
        pa.array([1, 2, 3, 7], pa.int64()).dictionary_encode(),
    ],
    ids=str,
)
def test_numbers_of_every_type_are_scaled_by_mean_and_deviation_of_entities_in_train(values):
    found, content = encode({"x": values})
    std = (2 / 3) ** 0.5
    assert content["columns"] == {"x": {"mean": pytest.approx(2), "std": pytest.approx(std)}}
    assert [found[name]["x ="] for name in NAMES] == pytest.approx([-1 / std, 0, 1 / std, FARTHEST])


def test_missing_numbers_are_no_features_and_true_is_one():
    found, content = encode({"x": [True, None, False, None], "y": [4.0, float("nan"), 2.0, 3.0]})
    assert content["columns"] == {"x": {"mean": 0.5, "std": 0.5}, "y": {"mean": 3, "std": 1}}
    assert found == {"ann": {"x =": 1, "y =": 1}, "bob": {}, "cid": {"x =": -1, "y =": -1}, "late": {"y =": 0}}


@pytest.mark.parametrize("values", [[1e308, -1e308, 0, 1e300], [1e-300, 2e-300, 3e-300, 1e308], [0, 0, 1e-320, 1.0]])
def test_extreme_numbers_stay_finite(values):
    numbers = [number for found in encode({"x": values})[0].values() for number in found.values()]
    assert len(numbers) == 4
    assert np.isfinite(numbers).all()
    assert np.abs(numbers).max() <= FARTHEST


@pytest.mark.parametrize("values", [[1, 1, 1, 2], [None, None, None, 2], [0, 0, 0, 0], [5, None, None, 6]], ids=str)
def test_numbers_alike_in_train_are_not_used(values, caplog):
    found, content = encode({"x": pa.array(values, pa.float64()), "y": ["a", "b", "a", "a"]})
    assert content["columns"]["x"] is None
    assert found["late"] == {"y = a": 1}
    assert "share no value of it, or have all the same number: ['x']" in caplog.text


def test_strings_without_blanks_are_categories_stripped_but_not_folded():
    assert features([" A", "a\n", "b_(c)", ""]) == [{"x = A"}, {"x = a"}, {"x = b_(c)"}, set()]


def test_strings_with_blanks_are_words_without_punctuation():
    expected = [{"x = the", "x = old", "x = o'neill"}, {"x = 7"}, set(), {"x = the"}]
    assert features(["The old, (O'Neill).", "7", None, "new; THE the -"]) == expected


def test_words_of_a_column_are_averaged_whatever_the_other_columns_have():
    columns = {"x": ["a b c", "c", "d e", "a c late"], "y": ["u", "v", "w", "v"], "z": [1, 2, 3, 2]}
    found, _ = encode(columns)
    assert found["ann"] == {
        "x = a": 1 / 3,
        "x = b": 1 / 3,
        "x = c": 1 / 3,
        "y = u": 1,
        "z =": pytest.approx(-(1.5**0.5)),
    }
    assert found["late"] == {"x = a": 1 / 2, "x = c": 1 / 2, "y = v": 1, "z =": 0}


def test_few_distinct_strings_are_categories_though_they_have_blanks():
    names = [f"person {number}" for number in range(20)]
    texts = ["New Zealand", "Costa Rica"] * 10
    read_alone = EntityFeatures.of(KEY, {"x": pa.table({"entity": names, "x": texts})}, ())
    for trained, kind in ((20, "category"), (10, "text")):
        _, content = read_alone.encode(Vocabulary(pa.array(names)), np.arange(20) < trained)
        assert content["columns"] == {"x": kind}


def test_the_kind_of_a_column_is_that_of_entities_in_train():
    assert features(["a", "b", "c", "a b"])[3] == set()
    assert features(["a b", "b", "c", "a c"])[3] == {"x = a", "x = c"}
    assert features([None, None, None, "late one"]) == [set()] * 4


def test_what_no_two_entities_in_train_share_is_not_used(caplog):
    table, content = read({"x": ["a", "b", "c", "a"], "y": ["u", "u", "v", "v"]}).encode(
        Vocabulary(pa.array(NAMES)), TRAINED
    )
    assert table["feature"].to_pylist() == ["y = u", "y = u"]
    assert content["columns"] == {"x": None, "y": "category"}
    assert "share no value of it, or have all the same number: ['x']" in caplog.text


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2), pa.list_(pa.binary())],
    ids=str,
)
def test_lists_of_strings_are_categories_each_once(kind):
    values = pa.array([["u v", "w"], ["w", "w"], None, ["", None]], pa.list_(pa.string())).cast(kind)
    assert features(values) == [{"x = u v", "x = w"}, {"x = w"}, set(), set()]


def test_names_are_stripped_and_folded_as_those_of_facts_are():
    found, content = encode({"x": ["a", "b", "c"]}, [" ANN", "bob\t", "nobody"], folds=["case"])
    assert [name for name in NAMES if found[name]] == ["ann", "bob"]
    assert (content["rows"], content["unknown"]) == (2 * 2, 2 * 1)


def test_integers_may_be_names():
    table = EntityFeatures.of(KEY, {"x": pa.table({"entity": [7, 8], "x": [0, 4]})}, ())
    found, _ = table.encode(Vocabulary(pa.array(["8", "7"])), np.array([True, True]))
    assert found.to_pydict() == {"entity_id": [0, 1], "feature": ["x =", "x ="], "weight": [1, -1]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            pa.array([date(2020, 1, 1)] * 4),
            ["x.parquet: column 'x' has type date32[day], allowed: numbers", "the year"],
        ),
        (pa.array([0] * 4, pa.timestamp("us", "UTC")), ["timestamp[us, tz=UTC]", "the age"]),
        (pa.array([[1, 2]] * 4), ["list<item: int64>", "allowed: numbers", "a column of its own"]),
        (pa.array([{"a": 1}] * 4), ["struct<a: int64>", "or drop it"]),
        (pa.array([0.0, np.inf, 1.0, -np.inf]), ["'x' is infinite in row 1 of x.parquet, row 3 of x.parquet; give"]),
        (pa.array([b"a", b"\xff", None, b"b"]), ["'x' is no UTF-8 in row 1 of x.parquet"]),
        (pa.array([[b"a", b"b"], [b"c", b"\xff"], None, []]), ["'x' is no UTF-8 in row 1 of x.parquet"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_values_that_are_no_features_are_refused(values, words):
    with pytest.raises(DataError) as error:
        read({"x": values})
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["ann", None, "", " \n"], ["names no entity in row 1 of x.parquet, row 2 of x.parquet, row 3 of x.parquet"]),
        (["ann", "bob", "ann ", "c"], ["'ann' has several rows, row 0 of x.parquet, row 2 of x.parquet; give each"]),
        ([0.5, 1.0, 2.0, 3.0], ["column 'entity' has type double, allowed: strings, or any integers"]),
    ],
)
def test_names_that_are_none_or_not_distinct_are_refused(names, words):
    with pytest.raises(DataError) as error:
        read({"x": [1, 2, 3, 4]}, names)
    assert all(word in str(error.value) for word in words)


def test_tables_without_the_columns_that_they_need_are_refused():
    for names, words in (
        (["name", "x"], "no column 'entity', which names the entity of a row; it has 'name', 'x'"),
        (["entity"], "no column of features beside 'entity'"),
        (["entity", "x", "x"], "column 'x' stands twice"),
    ):
        with pytest.raises(DataError, match=f"^f.parquet: {words}"):
            check_columns(names, "f.parquet")


def test_rows_are_counted_within_their_files():
    tables = {f"{name}.parquet": pa.table({"entity": names}) for name, names in (("a", ["u", "v"]), ("b", ["w", "v"]))}
    tables = {name: table.append_column("x", pa.array([1, 2])) for name, table in tables.items()}
    with pytest.raises(DataError, match=r"'v' has several rows, row 1 of a.parquet, row 1 of b.parquet"):
        EntityFeatures.of(KEY, tables, ())


def test_features_of_other_entities_than_those_of_facts_are_refused():
    with pytest.raises(DataError, match=r"facts name none of its 1 entities, as 'anne'; did you mean 'ann'\?"):
        read({"x": [1]}, ["anne"]).encode(Vocabulary(pa.array(NAMES)), TRAINED)


def test_a_table_without_rows_is_refused():
    with pytest.raises(DataError, match=r"data.entity_features: 1 file\(s\) without a single row"):
        read({"x": pa.array([], pa.int64())}, pa.array([], pa.string()))


def test_row_numbers_that_pandas_writes_are_no_feature():
    frame = pd.DataFrame({"entity": NAMES, "x": [1, 2, 3, 4]}).iloc[[2, 0, 1, 3]]
    table = pa.Table.from_pandas(frame)
    assert table.column_names == ["entity", "x", "__index_level_0__"]
    found, content = EntityFeatures.of(KEY, {"x.parquet": table}, ()).encode(Vocabulary(pa.array(NAMES)), TRAINED)
    assert [*content["columns"]] == ["x"]
    assert len(found) == 4
