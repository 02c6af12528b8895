import numpy as np
import pyarrow as pa
import pytest

from gam_kg.ingest.text_columns import text_of, valid_utf8

VALUES = [b"plain", "Zürich".encode(), "Zürich".encode("latin-1"), None, b"", b"\xed\xa0\x80", b"a\x00b"]
VALID = [True, True, False, True, True, False, True]


def strings(values, to=None):
    """Strings as a Parquet file gives them, without a check."""
    array = pa.array(values, pa.binary())
    return pa.StringArray.from_buffers(len(array), *array.buffers()[1:], array.buffers()[0]).cast(to or pa.string())


@pytest.mark.parametrize("to", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()])
def test_each_value_that_is_no_utf8_is_found(to):
    assert valid_utf8(strings(VALUES, to)).tolist() == VALID
    assert valid_utf8(strings(VALUES, to)[2:4]).tolist() == VALID[2:4]
    good = [value for value, valid in zip(VALUES, VALID, strict=True) if valid]
    assert valid_utf8(strings(good, to)).all()


def test_in_chunks_and_dictionaries():
    assert valid_utf8(pa.chunked_array([strings(VALUES), strings(VALUES[:3])])).tolist() == VALID + VALID[:3]
    assert valid_utf8(pa.chunked_array([], pa.string())).shape == (0,)
    indices = pa.array([0, 2, None, 1], pa.int32())
    dictionary = pa.DictionaryArray.from_arrays(indices, strings(VALUES[:3]))
    assert valid_utf8(dictionary).tolist() == [True, False, True, True]
    assert valid_utf8(pa.array([], pa.string())).dtype == np.bool_


def test_bytes_that_are_no_text_are_shown_as_escapes():
    assert text_of(strings(VALUES)).to_pylist() == [
        "plain",
        "Zürich",
        r"Z\xfcrich",
        None,
        "",
        r"\xed\xa0\x80",
        "a\x00b",
    ]
    assert text_of(pa.array([b"a", None], pa.binary())).equals(pa.array(["a", None], pa.large_string()))
