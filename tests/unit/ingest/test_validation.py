from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pytest

from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import DataError
from gam_kg.ingest.timestamps import TimeForm
from gam_kg.ingest.validation import FACTS, RENAMED, check_schema, validate
from gam_kg.schemas import QUARANTINE

COLUMNS = ColumnsConfig()
MICROS = 86_400_000_000


def table_of(timestamp, **columns):
    size = len(timestamp)
    base = {name: pa.array(["a"] * size) for name in ("subject", "relation", "object")}
    return pa.table({**base, "timestamp": timestamp, **columns})


def reasons(table, **options):
    found = validate(table, COLUMNS, "f.parquet", 0, **options)
    assert found.good.schema == FACTS
    assert found.quarantined.schema == QUARANTINE
    rows = sorted(found.good["row"].to_pylist() + found.quarantined["row"].to_pylist())
    assert rows == list(range(len(table))), "every row is good or quarantined, once"
    return dict(zip(found.quarantined["row"].to_pylist(), found.quarantined["reason"].to_pylist(), strict=True))


@pytest.mark.parametrize("name", ["subject", "relation", "object"])
def test_missing_and_empty_names(name):
    table = table_of(pa.array([1, 2, 3, 4]), **{name: pa.array([None, "", " \t ", " name "])})
    assert reasons(table) == {0: f"null_{name}", 1: f"empty_{name}", 2: f"empty_{name}"}
    good = validate(table, COLUMNS, "f", 0).good
    assert good[name].to_pylist() == ["name"]
    assert good["notes"][0].as_py() & RENAMED


def test_names_are_stripped_and_folded_and_changes_are_noted():
    names = pa.array(["A  b", "\ufeffa B\r\n", "a b", "\x00 \u200b"])
    table = table_of(pa.array([1, 2, 3, 4]), object=names)
    found = validate(table, COLUMNS, "f", 0, folds=["case", "blanks"])
    assert found.good["object"].to_pylist() == ["a b"] * 3
    assert [note & RENAMED for note in found.good["notes"].to_pylist()] == [RENAMED, RENAMED, 0]
    assert found.quarantined["reason"].to_pylist() == ["empty_object"]
    assert found.quarantined["object"].to_pylist() == ["\x00 \u200b"]
    assert validate(table, COLUMNS, "f", 0).good["object"].to_pylist() == ["A  b", "a B", "a b"]


@pytest.mark.parametrize("column", ["subject", "relation", "object", "timestamp", "split"])
@pytest.mark.parametrize("encode", [lambda array: array, lambda array: array.dictionary_encode()])
def test_text_that_is_no_utf8_is_quarantined_and_shown(column, encode):
    good = {"timestamp": b"2020-01-01", "split": b"train"}.get(column, b"a")
    octets = pa.array([good, b"M\xfcller", None if column == "subject" else good], pa.binary())
    split = {"split": ["train"] * 3} if column != "split" else {}
    table = table_of(pa.array(["2020-01-01"] * 3), **split)
    table = table.drop_columns([column]) if column in table.column_names else table
    table = table.append_column(column, encode(octets.view(pa.string())))
    expected = {1: "invalid_utf8"} | ({2: "null_subject"} if column == "subject" else {})
    assert reasons(table) == expected
    assert validate(table, COLUMNS, "f", 0).quarantined[column][0].as_py() == r"M\xfcller"


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([5, None, -3], pa.int8()), {1: "null_timestamp"}),
        (pa.array([5, 2**63, 2**62 + 1], pa.uint64()), {1: "out_of_range_timestamp", 2: "out_of_range_timestamp"}),
        (pa.array([0, 2**62, -(2**62) - 1], pa.int64()), {2: "out_of_range_timestamp"}),
        (pa.array([date(2020, 1, 1), None], pa.date32()), {1: "null_timestamp"}),
        (
            pa.array([0, 2**31 - 1, -(2**31)], pa.int32()).cast(pa.date32()),
            dict.fromkeys((1, 2), "out_of_range_timestamp"),
        ),
        (pa.array([0, 2**62], pa.int64()).cast(pa.timestamp("s")), {1: "out_of_range_timestamp"}),
        (
            pa.array(["2020-01-01", "soon", None, "2020-02-30", "", "0000-01-01"]),
            {2: "null_timestamp", 5: "out_of_range_timestamp", **dict.fromkeys((1, 3, 4), "unparseable_timestamp")},
        ),
    ],
)
def test_timestamps_that_cannot_be_used(column, expected):
    assert reasons(table_of(column)) == expected


@pytest.mark.parametrize(
    "column",
    [
        pa.array([date(1960, 5, 6)], pa.date32()),
        pa.array([date(1960, 5, 6)], pa.date64()),
        pa.array([datetime(1960, 5, 6)], pa.timestamp("s")),
        pa.array([datetime(1960, 5, 6)], pa.timestamp("ms")),
        pa.array([datetime(1960, 5, 6)], pa.timestamp("ns")),
        pa.array([datetime(1960, 5, 6)], pa.timestamp("us", "UTC")),
        pa.array(["1960-05-06"]),
        pa.array(["1960-05-06T02:00:00+02:00"], pa.large_string()),
        pa.array(["1960-05-05 19:00-05"]),
        pa.array(["1960-05-06"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_all_forms_of_a_time_agree(column):
    good = validate(table_of(column), COLUMNS, "f", 0).good
    assert good["timestamp"].to_pylist() == [(date(1960, 5, 6) - date(1970, 1, 1)).days * MICROS]


def test_instants_are_on_the_clock_of_the_zone():
    column = pa.array([0], pa.int64()).cast(pa.timestamp("s", "Asia/Tokyo"))
    assert validate(table_of(column), COLUMNS, "f", 0).good["timestamp"].to_pylist() == [0]
    form = TimeForm("Europe/Berlin")
    assert validate(table_of(column), COLUMNS, "f", 0, form=form).good["timestamp"].to_pylist() == [MICROS // 24]


def test_an_end_in_the_hour_that_the_clock_shows_again_is_not_before_its_start():
    # Berlin's clock went back from 03:00 to 02:00 on 2024-10-27, at 01:00 UTC.
    starts = pa.array(["2024-10-27T00:50Z", "2024-10-27T00:50Z", "2024-10-27T02:50+02:00"])
    ends = pa.array(["2024-10-27T01:10Z", "2024-10-27T00:40Z", "2024-10-27T02:49:59+02:00"])
    table, form = table_of(starts, end_timestamp=ends), TimeForm("Europe/Berlin")
    assert reasons(table, form=form) == {1: "end_before_start", 2: "end_before_start"}
    good = validate(table, COLUMNS, "f", 0, form=form).good
    assert good["end"].to_pylist() == good["timestamp"].to_pylist()


def test_nanoseconds_before_1970_round_down():
    column = pa.array([-1], pa.int64()).cast(pa.timestamp("ns"))
    assert validate(table_of(column), COLUMNS, "f", 0).good["timestamp"].to_pylist() == [-1]


def test_ends():
    ends = pa.array([None, 5, 4, 2**63], pa.uint64())
    table = table_of(pa.array([5, 5, 5, 5]), end_timestamp=ends)
    assert reasons(table) == {2: "end_before_start", 3: "out_of_range_timestamp"}
    assert validate(table, COLUMNS, "f", 0).good["end"].to_pylist() == [None, 5]


def test_splits():
    table = table_of(pa.array([1, 2, 3, 4]), split=pa.array(["train", "dev", None, " test\n"]).dictionary_encode())
    assert reasons(table) == {1: "unknown_split", 2: "unknown_split"}
    assert validate(table, COLUMNS, "f", 0).good["split"].to_pylist() == ["train", "test"]
    assert reasons(table, use_split=False) == {}


def test_the_quarantine_has_the_original_values_and_place():
    table = pa.table(
        {
            "s": pa.array([None, 7], pa.int32()),
            "subject": ["not used", "not used"],
            "relation": pa.array(["r", "r"]).dictionary_encode(),
            "object": pa.array(["o", None], pa.large_string()),
            "timestamp": pa.array([0, 10**6]).cast(pa.timestamp("us", "Europe/Berlin")),
            "split": ["train", "train"],
        }
    )
    found = validate(table, ColumnsConfig(subject="s"), "f.parquet", 100).quarantined.to_pylist()
    assert found[1] == {
        "file": "f.parquet",
        "row": 101,
        "reason": "null_object",
        "subject": "7",
        "relation": "r",
        "object": None,
        "timestamp": "1970-01-01 00:00:01.000000Z",
        "end_timestamp": None,
        "split": "train",
    }
    assert found[0]["subject"] is None


def test_integer_names_become_decimals():
    table = table_of(
        pa.array([1, 1]), subject=pa.array([7, -8], pa.int16()), object=pa.array([2**64 - 1, 0], pa.uint64())
    )
    good = validate(table, COLUMNS, "f", 0).good
    assert good["subject"].to_pylist() == ["7", "-8"]
    assert good["object"].to_pylist() == [str(2**64 - 1), "0"]


def test_empty_and_chunked_tables():
    assert reasons(table_of(pa.array([], pa.int64()))) == {}
    two = pa.concat_tables([table_of(pa.array([1])), table_of(pa.array([None], pa.int64()))])
    assert reasons(two) == {1: "null_timestamp"}


@pytest.mark.parametrize(
    ("column", "type", "words"),
    [
        ("subject", pa.float64(), ["'subject'", "double", "integers", "Int64"]),
        ("relation", pa.bool_(), ["'relation'", "bool", "string"]),
        ("object", pa.binary(), ["'object'", "binary"]),
        ("timestamp", pa.float32(), ["'timestamp'", "float", "date32"]),
        ("timestamp", pa.time64("us"), ["'timestamp'", "time64"]),
        ("end_timestamp", pa.float64(), ["'end_timestamp'", "double"]),
        ("end_timestamp", pa.date32(), ["'end_timestamp'", "integers in", "dates in"]),
        ("split", pa.int64(), ["'split'", "int64"]),
    ],
)
def test_wrong_types_are_refused_by_name(column, type, words):
    types = {
        "subject": pa.string(),
        "relation": pa.string(),
        "object": pa.string(),
        "timestamp": pa.int64(),
        column: type,
    }
    with pytest.raises(DataError) as error:
        check_schema(pa.schema(types), COLUMNS, "some.parquet")
    for word in ["some.parquet", *words]:
        assert word in str(error.value)


def test_missing_columns_are_named_with_those_there_are():
    with pytest.raises(
        DataError, match=r"f.parquet: no column 'object', 'timestamp'; it has 'subject', 'relation', 'o'"
    ):
        check_schema(
            pa.schema({"subject": pa.string(), "relation": pa.string(), "o": pa.string()}), COLUMNS, "f.parquet"
        )


def test_validation_does_not_depend_on_where_the_table_is_cut():
    rng = np.random.default_rng(0)
    texts = np.array(["a", "", None], dtype=object)
    table = table_of(pa.array(rng.integers(0, 9, 50)), subject=pa.array(texts[rng.integers(0, 3, 50)], pa.string()))
    whole = validate(table, COLUMNS, "f", 0)
    halves = [validate(table.slice(0, 20), COLUMNS, "f", 0), validate(table.slice(20), COLUMNS, "f", 20)]
    assert pa.concat_tables([half.good for half in halves]).equals(whole.good.combine_chunks())
    assert pa.concat_tables([half.quarantined for half in halves]).equals(whole.quarantined.combine_chunks())
