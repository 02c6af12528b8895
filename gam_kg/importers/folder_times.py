"""Timestamps of a folder: one kind in all files."""

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from gam_kg.data_config import DataConfig
from gam_kg.errors import DataError
from gam_kg.importers.csv_table import setting
from gam_kg.importers.text_file import WHOLE_NUMBER
from gam_kg.ingest.time_format import INTEGER
from gam_kg.ingest.timestamps import ISO, ZONED, TimeForm, read_timestamps

ALLOWED = "an integer of at most 18 digits, an ISO date (2014-01-31) or an ISO date and time (2014-01-31T12:00:00)"

_DATE = len("2014-01-31")
# A date of eight digits that begins with 0 would lose it as an integer.
_CUT_DATE = re.compile(r"0\d{7}")


def read_times(texts: pa.Array, place: Callable[[int], str], data: DataConfig, prefix: str) -> pa.Array:
    """Timestamps as int64, date32 or timestamp[us]; or as text, for `prepare` to read.

    They stay text where `data.time_format` is set, where integers would lose a zero, and where a year or month has no
    day.

    Args:
        texts: The distinct timestamps of all files, stripped, in the order of first appearance.
        place: File and line of a timestamp, by its position.
        data: The settings.
        prefix: What stands before the settings of `data`, for messages.

    Returns:
        The value of each text; timestamp[us, UTC] if the texts have a time zone.

    Raises:
        DataError: A text is no timestamp, or integers and dates, or times with and without a zone, are mixed.
    """
    found = texts.to_pylist()
    integers = [WHOLE_NUMBER.fullmatch(text) is not None for text in found]
    if data.time_format is not None or (all(integers) and any(map(_CUT_DATE.fullmatch, found))):
        return texts
    _require_one(integers, found, place, "integers throughout or dates throughout")
    times = read_timestamps(texts, TimeForm(format=INTEGER) if integers[0] else ISO)
    wrong = np.flatnonzero(times.unparseable | times.out_of_range).tolist()
    if wrong:
        raise DataError(
            f"{place(wrong[0])}: timestamp {found[wrong[0]]!r}; allowed: {ALLOWED}; for another form set "
            f"{setting(prefix, 'time_format')}"
        )
    if integers[0]:
        return pa.array(times.values)
    zoned = ((times.notes & ZONED) > 0).tolist()
    _require_one(zoned, found, place, "a time zone throughout or none throughout")
    lengths = {len(text) for text in found}
    if min(lengths) < _DATE:
        return texts
    values = pa.array(times.values).cast(pa.timestamp("us", tz="UTC" if zoned[0] else None))
    return values.cast(pa.date32()) if lengths == {_DATE} else values


def _require_one(kinds: list[bool], texts: list[str], place: Callable[[int], str], allowed: str) -> None:
    if len(set(kinds)) > 1:
        odd = kinds.index(not kinds[0])
        raise DataError(f"{place(odd)}: timestamp {texts[odd]!r}, but {place(0)} has {texts[0]!r}; allowed: {allowed}")
