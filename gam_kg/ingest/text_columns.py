"""Columns of text, and any column as text.

Parquet promises that text is UTF-8, and pyarrow believes it; other writers store Latin-1 all the same.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def is_text(data_type: pa.DataType) -> bool:
    """Whether columns of this type have strings."""
    return pa.types.is_string(data_type) or pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type)


def valid_utf8(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Which values are UTF-8.

    Args:
        texts: Strings or bytes of any Arrow type, or a dictionary of them.

    Returns:
        bool, shape (len(texts),); True for nulls.
    """
    if isinstance(texts, pa.ChunkedArray):
        return np.concatenate([np.ones(0, bool), *map(valid_utf8, texts.chunks)])
    if pa.types.is_dictionary(texts.type):
        valid = pa.array(valid_utf8(texts.dictionary))
        return np.asarray(valid.take(texts.indices).fill_null(True))
    octets = texts.cast(pa.large_binary())
    try:
        octets.cast(pa.large_string())  # checks all of them at once
    except pa.ArrowInvalid:
        return np.array([value is None or _is_utf8(value) for value in octets.to_pylist()], bool)
    return np.ones(len(texts), bool)


def text_of(values: pa.Array) -> pa.Array:
    r"""A column as text, large_string: each byte that is no UTF-8 as \xNN, instants in UTC with a Z at the end.

    Args:
        values: Strings, bytes, numbers, dates or timestamps; nulls stay.
    """
    if pa.types.is_timestamp(values.type) and values.type.tz is not None:
        utc = values.cast(pa.timestamp(values.type.unit)).cast(pa.large_string())
        return pc.replace_substring_regex(utc, "$", "Z")
    if pa.types.is_primitive(values.type) or pa.types.is_null(values.type):
        return values.cast(pa.large_string())
    valid = pa.array(valid_utf8(values))
    octets = values.cast(pa.large_binary())
    if pc.all(valid).as_py() is not False:
        return octets.cast(pa.large_string())
    shown = [None if value is None else value.decode(errors="backslashreplace") for value in octets.to_pylist()]
    return pa.array(shown, pa.large_string())


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
