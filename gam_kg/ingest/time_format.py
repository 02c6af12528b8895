"""`data.time_format`: timestamps in a form of the user's own, rewritten as ISO 8601."""

import re
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.errors import ConfigError
from gam_kg.text import quoted

INTEGER = "integer"
"""The format of plain integers, whatever dates their digits may look like."""

_MONTHS = ("jan(?:uary)?", "feb(?:ruary)?", "mar(?:ch)?", "apr(?:il)?", "may", "june?", "july?")
_MONTHS += ("aug(?:ust)?", "sept?(?:ember)?", "oct(?:ober)?", "nov(?:ember)?", "dec(?:ember)?")
_MONTH_NAME = f"(?i:{'|'.join(_MONTHS)})"
_PATTERNS = {"Y": r"\d{4}", "y": r"\d{2}", "b": _MONTH_NAME, "B": _MONTH_NAME, "f": r"\d{1,9}"}
_PATTERNS |= dict.fromkeys("mdHIMS", r"\d{2}")
_PATTERNS |= {"p": r"(?i:[ap]\.?m\.?)", "z": r"Z|[+-]\d{2}(?::?\d{2})?"}
_DIGITS = "YymdHIMSf"
# A part of a time has no meaning without those before it.
_NEEDS = {"d": "mbB", "H": "d", "I": "d", "p": "I", "M": "HI", "S": "M", "f": "S", "z": "HI"}
_EXAMPLES = "for instance %d/%m/%Y, %m/%d/%Y %H:%M, %d.%m.%y or %Y%m%d"

_DATES = [order.replace("/", mark) for order in ("%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d") for mark in "/.-"]
_DATES += [order.replace("/", mark) for order in ("%d/%m/%y", "%m/%d/%y") for mark in "/.-"]
_DATES += ["%d %b %Y", "%d. %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y"]
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_DIGITS_ALONE = ["%d%m%Y", "%m%d%Y", "%Y%m", "%Y%m%d%H%M", "%Y%m%d%H%M%S", INTEGER]
COMMON_FORMATS = [*(date + time for date in _DATES for time in _TIMES), *_DIGITS_ALONE]
"""Formats that are worth a try."""


@dataclass(frozen=True)
class _Compiled:
    """A format: `pattern` has a named group for each directive; `width` is its length where that is fixed, else 0."""

    pattern: str
    directives: frozenset[str]
    width: int


def check_format(text: str) -> None:
    """Refuse a format that cannot be read.

    Raises:
        ConfigError: It has a directive that is unknown, there twice or without those it needs.
    """
    if text != INTEGER:
        _compiled(text)


def rewrite(texts: pa.Array, text_format: str, *, pad: bool = False) -> pa.Array:
    """Timestamps in a format as ISO 8601; null where they do not fit it, or are null.

    Args:
        texts: large_string, without blanks around it.
        text_format: A format that `check_format` passed, not INTEGER.
        pad: The texts were integers, and have lost the zeros that they began with.
    """
    compiled = _compiled(text_format)
    if pad and compiled.width:
        texts = pc.utf8_lpad(texts, compiled.width, "0")
    found = pc.extract_regex(texts, compiled.pattern)
    part = {name: pc.struct_field(found, name) for name in compiled.directives}
    text = _join("-", _year(part), _month(part), _two(part.get("d")))
    hour = _hour(part)
    if hour is None:
        return text
    clock = _join(":", hour, _two(part.get("M", pa.scalar("00", pa.large_string()))), _two(part.get("S")))
    return _join("", _join("T", text, _join(".", clock, part.get("f"))), part.get("z"))


@lru_cache
def _compiled(text: str) -> _Compiled:
    tokens = re.findall(r"%.?|[^%]", text, re.DOTALL)
    names = [token[1:] for token in tokens if token[0] == "%" and token != "%%"]
    unknown = [name for name in names if name not in _PATTERNS]
    problem = None
    if unknown:
        problem = f"%{unknown[0]} is unknown"
    elif twice := [name for name in names if names.count(name) > 1]:
        problem = f"%{twice[0]} is there twice"
    elif len({"Y", "y"} & {*names}) != 1 or len({"m", "b", "B"} & {*names}) > 1 or {"H", "I"} <= {*names}:
        problem = "it needs one year, and at most one month and hour"
    elif lacking := [name for name, needed in _NEEDS.items() if name in names and not {*needed} & {*names}]:
        problem = f"%{lacking[0]} needs {' or '.join('%' + name for name in _NEEDS[lacking[0]])}"
    elif "I" in names and "p" not in names:
        problem = "%I needs %p"
    if problem:
        allowed = ", ".join(f"%{name}" for name in _PATTERNS)
        raise ConfigError(
            f"data.time_format={quoted(text)}: {problem}. Allowed: {allowed} and other characters as they are, "
            f"{_EXAMPLES}; or {INTEGER} for plain integers"
        )
    numeric = [token.isdigit() or token[1:] in [*_DIGITS] for token in tokens]
    pattern = ""
    for at, token in enumerate(tokens):
        if token == "%%" or token[0] != "%":
            pattern += r"\s+" if token.isspace() else re.escape(token[-1])
            continue
        alone = not any(numeric[max(at - 1, 0) : at] + numeric[at + 1 : at + 2])
        # One digit is enough where no other digits follow or precede.
        digits = r"\d{1,2}" if alone and token[1] in "mdHIMS" else _PATTERNS[token[1]]
        pattern += f"(?P<{token[1]}>{digits})"
    fixed = all(numeric) and "f" not in names
    return _Compiled(f"^{pattern}$", frozenset(names), 2 * len(tokens) + 2 * ("Y" in names) if fixed else 0)


def _year(part: dict[str, pa.Array]) -> pa.Array:
    if "Y" in part:
        return part["Y"]
    century = pc.if_else(pc.greater_equal(part["y"], "69"), "19", "20")  # as POSIX and Python have it
    return _join("", century.cast(pa.large_string()), part["y"])


def _month(part: dict[str, pa.Array]) -> pa.Array | None:
    name = part.get("b", part.get("B"))
    if name is None:
        return _two(part.get("m"))
    short = pa.array([month[:3] for month in _MONTHS], pa.large_string())
    number = pc.index_in(pc.utf8_slice_codeunits(pc.utf8_lower(name), 0, 3), value_set=short)
    return _two(pc.add(number, 1).cast(pa.large_string()))


def _hour(part: dict[str, pa.Array]) -> pa.Array | None:
    if "I" not in part:
        return _two(part.get("H"))
    hour = pc.if_else(pc.equal(part["I"], ""), None, part["I"]).cast(pa.int32())
    afternoon = pc.equal(pc.utf8_lower(pc.utf8_slice_codeunits(part["p"], 0, 1)), "p").cast(pa.int32())
    allowed = pc.and_(pc.greater_equal(hour, 1), pc.less_equal(hour, 12))
    of_day = pc.add(pc.if_else(pc.equal(hour, 12), 0, hour), pc.multiply(afternoon, 12))
    return _two(pc.if_else(allowed, of_day, None).cast(pa.large_string()))


def _two(digits: pa.Array | pa.Scalar | None) -> pa.Array | pa.Scalar | None:
    return None if digits is None else pc.utf8_lpad(digits, 2, "0")


def _join(mark: str, *parts: pa.Array | pa.Scalar | None) -> pa.Array:
    """The parts that there are, with a mark between them; null where one of them is."""
    there = [part for part in parts if part is not None]
    return pc.binary_join_element_wise(*there, pa.scalar(mark, pa.large_string()))
