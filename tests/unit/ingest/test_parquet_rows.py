import datetime as dt
import io
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gam_kg.errors import DataError
from gam_kg.ingest import parquet_rows
from gam_kg.ingest.parquet_footer import read_footer
from gam_kg.ingest.parquet_rows import MAX_BYTES_A_VALUE, damage_of, read_group, text_type
from gam_kg.parquet import open_file

ROWS = 1003


def written(table, **options):
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def read(data, *columns):
    """All rows of a file, after its footer is checked."""
    file = io.BytesIO(data)
    pieces, first_row = [], 0
    with damage_of("f.parquet is damaged"):
        num_groups = len(read_footer(file))
    for index in range(num_groups):
        names = columns or open_file(file).schema_arrow.names
        for piece in read_group(file, index, names, "f.parquet", first_row):
            pieces.append(piece)
            first_row += len(piece)
    return pa.concat_tables(pieces)


def facts(**extra):
    generator = random.Random(0)
    names = pa.array([None if i % 7 == 0 else f"name {generator.randrange(50)}" for i in range(ROWS)])
    return pa.table({"subject": names, "timestamp": pa.array(range(ROWS), pa.int64())} | extra)


TYPES = {
    "string_view": (pa.array(["a", "b", None], pa.string_view()), pa.large_string()),
    "binary": (pa.array([b"a", b"b", None]), pa.large_string()),
    "large_binary": (pa.array([b"a", b"b", None], pa.large_binary()), pa.large_string()),
    "large_string": (pa.array(["a", "b", None], pa.large_string()), pa.large_string()),
    "dictionary": (pa.array(["a", "b", None]).dictionary_encode(), None),
    "uint64": (pa.array([1, 2**63, None], pa.uint64()), None),
    "int8": (pa.array([-1, 5, None], pa.int8()), None),
    "date32": (pa.array([dt.date(1, 1, 1), dt.date(9999, 1, 1), None]), None),
    "nanoseconds": (pa.array([-5, 2**62, None], pa.timestamp("ns")), None),
    "zone": (pa.array([-5, 2**62, None], pa.timestamp("us", "Europe/Berlin")), None),
    "null": (pa.nulls(3), None),
}


@pytest.mark.parametrize("values, read_as", TYPES.values(), ids=TYPES)
def test_values_of_every_type_are_read_as_written(values, read_as):
    table = pa.table({"a": values})
    found = read(written(table))
    assert found["a"].type == text_type(values.type) == (read_as or values.type)
    assert found["a"].combine_chunks().equals(values.cast(read_as) if read_as else values)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("options", [{}, {"coerce_timestamps": "ms"}, {"version": "1.0"}, {"store_schema": False}])
def test_statistics_fit_timestamps_of_every_unit(unit, options):
    times = pa.array([dt.datetime(1960, 5, 1), dt.datetime(2024, 2, 29)]).cast(pa.timestamp(unit))
    data = written(pa.table({"t": times}), **options)
    assert read(data)["t"].cast(pa.timestamp("us")).to_pylist() == times.cast(pa.timestamp("us")).to_pylist()


@pytest.mark.parametrize("store_schema", [True, False])
def test_int96_timestamps_of_far_years_are_microseconds(store_schema):
    times = [dt.datetime(1, 1, 1), dt.datetime(1500, 6, 1, 12, 30, 15, 123456), dt.datetime(9999, 12, 31)]
    table = pa.table({"t": pa.array(times, pa.timestamp("us"))})
    data = written(table, use_deprecated_int96_timestamps=True, store_schema=store_schema)
    assert read(data)["t"].type == pa.timestamp("us")
    assert read(data)["t"].to_pylist() == times


def test_text_that_is_no_utf8_is_read_as_its_bytes():
    octets = pa.array([b"M\xfcller", b"ok", None])
    text = pa.StringArray.from_buffers(3, *octets.buffers()[1:], octets.buffers()[0])
    for values in (octets, text):
        found = read(written(pa.table({"a": values})))["a"]
        assert found.cast(pa.large_binary()).to_pylist() == octets.to_pylist()


def test_a_row_group_is_read_in_pieces_with_all_its_rows(monkeypatch):
    monkeypatch.setattr(parquet_rows, "_BATCH_ROWS", 64)
    table = facts()
    data = written(table, row_group_size=300)
    assert read(data).equals(table)
    assert max(len(piece) for piece in read_group(io.BytesIO(data), 0, ["subject"], "f", 0)) == 64
    assert read(data, "timestamp", "absent").column_names == ["timestamp"]


def test_a_column_with_a_dot_is_not_one_inside_another():
    inner = pa.array([{"b": "wrong", "c": [1, 2]}, {"b": "wrong", "c": []}])
    table = pa.table({"a": inner, "a.b": ["x", "y"], "t": [1, 2]})
    assert read(written(table), "a.b", "t").to_pydict() == {"a.b": ["x", "y"], "t": [1, 2]}


def test_a_long_value_is_named_by_column_and_row():
    names = ["short"] * 500 + ["x" * (MAX_BYTES_A_VALUE + 1)] + ["short"] * (ROWS - 501)
    for options in ({}, {"use_dictionary": False}):
        with pytest.raises(DataError, match=r"f\.parquet, column 'subject': row 500 has a value of 65537 bytes"):
            read(written(facts(subject=pa.array(names)), **options))
    names[500] = "x" * MAX_BYTES_A_VALUE
    assert read(written(facts(subject=pa.array(names))))["subject"].to_pylist() == names


def test_a_long_value_of_many_rows_is_not_copied_for_each(monkeypatch):
    rows, before = 300_000, pa.total_allocated_bytes()
    long = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * MAX_BYTES_A_VALUE])
    data = written(pa.table({"a": long}), store_schema=False)
    assert len(data) < 100_000
    with pytest.raises(DataError, match=r"repeats long values of 'a' in many rows, more than 4 GiB"):
        read(data)
    monkeypatch.setattr(parquet_rows, "_MOST_LONG_BYTES", 2**40)
    total = 0
    for piece in read_group(io.BytesIO(data), 0, ["a"], "f", 0):
        total += len(piece)
        decoded = piece["a"].combine_chunks().dictionary_decode()
        assert pa.total_allocated_bytes() - before < 2**30
        assert decoded[0].as_py() == "x" * MAX_BYTES_A_VALUE
    assert total == rows


def zigzag(number):
    """A positive number as thrift writes it."""
    number, found = number << 1, bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


@pytest.mark.parametrize("rows", [ROWS - 4, ROWS + 4, 2 * ROWS])
def test_other_numbers_of_rows_than_promised_are_refused(rows):
    times = pa.array([None, *range(ROWS - 1)], pa.int64())
    data = written(facts(timestamp=times), compression="none", use_dictionary=False)
    length = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - length], data[-8 - length : -8]
    old, new = zigzag(ROWS), zigzag(rows)
    assert len(old) == len(new)
    places = [at for at in range(len(footer)) if footer.startswith(old, at)]
    assert len(places) == 4  # the file, the row group and two columns
    for changed in (places, places[:1], places[1:2], places[2:]):
        forged = bytearray(footer)
        for at in changed:
            forged[at : at + len(new)] = new
        with pytest.raises(DataError, match=r"f\.parquet"):
            read(body + forged + data[-8:])


def test_values_outside_of_their_statistics_are_refused():
    table = pa.table({"a": ["mild"] * 10, "t": [7] * 10})
    data = written(table, compression="none", use_dictionary=False)
    assert read(data).equals(table)
    start = data.index(b"\4\0\0\0mild") + 4
    with pytest.raises(DataError, match=r"column 'a' has other values in row group 0 than its statistics say"):
        read(data[:start] + b"wild" + data[start + 4 :])
    nulls = pa.table({"a": pa.array([None, "b"]), "t": [1, 2]})
    assert read(written(nulls)).equals(nulls)


def test_a_page_with_a_wrong_checksum_is_refused():
    data = bytearray(written(facts(), compression="none", use_dictionary=False, write_page_checksum=True))
    start = data.index(b"name 2")
    data[start + 5 : start + 6] = b"3"
    with pytest.raises(DataError, match=r"f\.parquet: cannot read the rows from 0 on"):
        read(bytes(data))
