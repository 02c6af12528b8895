"""Timestamps of tables that are whole numbers, as "2014" and, from spreadsheets, "2014.0" or "2014,0"."""

import re

import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.errors import DataError
from gam_kg.importers.csv_table import assignment

_SIGNS = (".", ",")
_INT64 = pa.int64()


class WholeNumbers:
    """What is known of a column from the texts seen so far.

    Args:
        column: Its name, for messages.
        decimal: The decimal sign, "." or ",".

    Attributes:
        all_whole: Whether all texts are whole numbers that fit int64, and none is a date of eight digits that begins
            with 0, which as a number would lose it.
    """

    def __init__(self, column: str, decimal: str) -> None:
        self.all_whole = True
        self._column, self._decimal = column, decimal
        [self._other] = (sign for sign in _SIGNS if sign != decimal)
        self._other_whole = self._grouped = True
        self._example: str | None = None  # one with a decimal sign
        self._text: str | None = None  # one that does not begin as ISO 8601 does

    def look_at(self, texts: pa.ChunkedArray) -> None:
        """Consider more texts of the column; nulls say nothing."""
        self._other_whole = self._other_whole and _all_whole(texts, self._other)
        self.all_whole = self.all_whole and _all_whole(texts, self._decimal) and self._fit(texts)
        self._grouped = self._grouped and _all_grouped(texts, self._decimal)
        self._example = self._example or _first(texts, pc.match_substring_regex(texts, "[.,]"))
        self._text = self._text or _first(texts, pc.invert(pc.match_substring_regex(texts, r"^\d{4}(-|$)")))

    def integers(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        """The texts, which have been looked at and are all whole numbers, as int64.

        Raises:
            DataError: They are others than those that have been looked at.
        """
        try:
            return self._cast(texts)
        except pa.ArrowInvalid:
            raise DataError(f"column {self._column!r} changed while it was read; import it again") from None

    def refuse_two_readings(self, prefix: str) -> None:
        """Refuse whole numbers with the other decimal sign, and those whose sign may divide thousands, as in 1.000.

        Raises:
            DataError: The column is one.
        """
        if self.all_whole and self._grouped and self._example is not None:
            number = self._example.partition(self._decimal)[0]
            raise DataError(
                f"column {self._column!r} has numbers such as {self._example!r}, which may be {number} or {number}000; "
                f"write the timestamps without {self._decimal!r}"
            )
        if self._other_whole and not self.all_whole and self._example is not None:
            raise DataError(
                f"column {self._column!r} has numbers such as {self._example!r}, which are whole numbers if "
                f"{self._other!r} is the decimal sign; if it is, set {assignment(prefix, 'csv.decimal', self._other)}, "
                "and otherwise write the timestamps without it"
            )

    def note(self, *, are_integers: bool) -> str | None:
        """What a user should know of how the column is read."""
        if are_integers and self._example is not None:
            return f"column {self._column!r}: whole numbers with decimals, such as {self._example!r}, are integers now"
        if not are_integers and self._text is not None:
            return (
                f"column {self._column!r} stays text, such as {self._text!r}; prepare reads it as ISO 8601 "
                "(2014-01-31), or as data.time_format says"
            )
        return None

    def _fit(self, texts: pa.ChunkedArray) -> bool:
        if pc.any(pc.match_substring_regex(texts, r"^0\d{7}$")).as_py():
            return False
        try:
            self._cast(texts)
        except pa.ArrowInvalid:
            return False
        return True

    def _cast(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.replace_substring_regex(texts, rf"^\+|{re.escape(self._decimal)}0*$", "").cast(_INT64)


def _are_whole(texts: pa.ChunkedArray, sign: str) -> pa.ChunkedArray:
    return pc.match_substring_regex(texts, rf"^[+-]?\d+({re.escape(sign)}0*)?$")


def _all_whole(texts: pa.ChunkedArray, sign: str) -> bool:
    return pc.all(_are_whole(texts, sign)).as_py() is not False


def _all_grouped(texts: pa.ChunkedArray, sign: str) -> bool:
    """Whether the sign, where it is, may divide groups of three digits."""
    grouped = pc.match_substring_regex(texts, rf"^[+-]?\d{{1,3}}({re.escape(sign)}\d{{3}})*$")
    return pc.all(grouped).as_py() is not False


def _first(texts: pa.ChunkedArray, chosen: pa.ChunkedArray) -> str | None:
    found = texts.filter(chosen)
    return found[0].as_py() if len(found) else None
