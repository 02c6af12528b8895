"""The footer of a Parquet file, read and checked without pyarrow, which ends the process where some parts are damaged.

The footer is a structure in the compact protocol of Thrift; the numbers of its fields are those of `parquet.thrift`.
Source: https://github.com/apache/parquet-format.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_MAGIC = b"PAR1"
_TRAILER = 8  # the length of the footer, and the magic bytes
_DEEPEST = 64
_WIDTHS = {1: 4, 2: 8}  # bytes of the types INT32 and INT64
_BYTES = 6
_REPEATED = 2
_DICTIONARIES = {2, 8}  # encodings
# Number of a ConvertedType → that of the LogicalType that says the same, and of its unit.
_TIMES = {6: (6, None), 9: (8, 1), 10: (8, 2)}


@dataclass(frozen=True)
class Chunk:
    """A column in a row group.

    Attributes:
        has_dictionary: Whether its values are text or bytes, written once each and referred to.
        num_bytes: Bytes when it is not compressed.
        num_nulls: Nulls in it; None where the writer does not say.
        low: A value below or equal to all of it, of integers and bytes; None where the writer does not say.
        high: A value above or equal to all of it, likewise.
    """

    has_dictionary: bool
    num_bytes: int
    num_nulls: int | None
    low: int | bytes | None
    high: int | bytes | None


@dataclass(frozen=True)
class Group:
    """A row group: its rows, and name → column of those that are not nested."""

    num_rows: int
    chunks: dict[str, Chunk]


@dataclass(frozen=True)
class _Leaf:
    """A column of the schema: its names from the root, its type, and whether a row may have several values."""

    path: list[bytes]
    type: int
    repeated: bool


def read_footer(file: Any) -> tuple[Group, ...]:
    """Read and check the footer of a file object.

    Returns:
        The row groups.

    Raises:
        ValueError: It is damaged: it is no such structure, numbers of rows disagree, or columns are where none can be.
        OSError: The file cannot be read.
    """
    size = file.seek(0, 2)
    file.seek(max(size - _TRAILER, 0))
    trailer = file.read(_TRAILER)
    length = int.from_bytes(trailer[:4], "little")
    if trailer[4:] != _MAGIC:
        raise ValueError("it is encrypted" if trailer[4:] == b"PARE" else "it does not end as Parquet does")
    if length > size - _TRAILER - len(_MAGIC):
        raise ValueError("its footer is longer than the file")
    file.seek(size - _TRAILER - length)
    return _parse(file.read(length), size - _TRAILER - length)


@lru_cache(maxsize=4)
def _parse(footer: bytes, end: int) -> tuple[Group, ...]:
    """The row groups of a footer that begins at a place in the file."""
    try:
        fields = _Reader(footer).struct(0)
        leaves = list(_leaves(iter(fields[2])))
        groups = tuple(_group(found, leaves) for found in fields[4])
        places = sorted(place for found in fields[4] for place in _places(found))
        num_rows = sum(group.num_rows for group in groups)
        promised = fields[3]
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, StopIteration, RuntimeError) as error:
        raise ValueError(f"its footer is none: {error!r}") from None
    if promised != num_rows:
        raise ValueError(f"{promised} rows in all, but {num_rows} in its row groups")
    reached = len(_MAGIC)
    for start, length in places:
        if start < reached or length < 0:
            raise ValueError("its columns lie on each other")
        reached = start + length
    if reached > end:
        raise ValueError("its columns reach beyond its end")
    return groups


def _leaves(elements: Iterator[dict[int, Any]]) -> Iterator[_Leaf]:
    """The columns of a schema, whose elements are in depth-first order, each with the number of those inside it."""
    inside: list[int] = [next(elements)[5]]
    path: list[bytes] = []
    repeated = [False]
    while inside:
        if not inside[-1]:
            inside.pop()
            repeated.pop()
            del path[-1:]
            continue
        inside[-1] -= 1
        element = next(elements)
        if 5 in element:
            inside.append(element[5])
            path.append(element[4])
            repeated.append(repeated[-1] or element.get(3) == _REPEATED)
        else:
            _check_time(element)
            yield _Leaf([*path, element[4]], element[1], repeated[-1] or element.get(3) == _REPEATED)


def _check_time(element: dict[int, Any]) -> None:
    """A column says twice that it has timestamps, and of which unit, so that old readers understand it."""
    if element.get(6) not in _TIMES or 10 not in element:
        return
    kind, unit = _TIMES[element[6]]
    if kind not in element[10] or (unit and unit not in element[10][kind][2]):
        raise ValueError(f"two kinds of timestamps are said to be in column {element[4].decode(errors='replace')!r}")


def _group(found: dict[int, Any], leaves: list[_Leaf]) -> Group:
    num_rows, columns = found[3], found[1]
    if len(columns) != len(leaves):
        raise ValueError(f"a row group has {len(columns)} columns, the schema {len(leaves)}")
    chunks = {}
    for column, leaf in zip(columns, leaves, strict=True):
        if 1 in column:
            raise ValueError(f"its rows are in another file, {column[1].decode()}; give that one")
        if 3 not in column:
            raise ValueError("its columns are encrypted")
        name, stored = b".".join(leaf.path).decode(errors="replace"), column[3]
        if stored[3] != leaf.path or stored[1] != leaf.type:
            raise ValueError(f"the schema has a column {name!r}, a row group another in its place")
        if not leaf.repeated and stored[5] != num_rows:
            raise ValueError(f"a row group has {num_rows} rows, but {stored[5]} values of {name!r}")
        if len(leaf.path) == 1:
            chunks[name] = _chunk(stored)
    return Group(num_rows, chunks)


def _chunk(stored: dict[int, Any]) -> Chunk:
    statistics = stored.get(12, {})
    low, high = (_value(statistics.get(field), stored[1]) for field in (6, 5))
    has_dictionary = stored[1] == _BYTES and bool(_DICTIONARIES.intersection(stored[2]))
    return Chunk(has_dictionary, stored[6], statistics.get(3), low, high)


def _value(stored: bytes | None, data_type: int) -> int | bytes | None:
    if stored is None or data_type == _BYTES:
        return stored
    return int.from_bytes(stored, "little", signed=True) if len(stored) == _WIDTHS.get(data_type) else None


def _places(group: dict[int, Any]) -> Iterator[tuple[int, int]]:
    """(start, length) of the columns of a row group that have values."""
    for column in group[1]:
        stored = column[3]
        if stored[5]:
            # Some writers say 0 where there is no dictionary.
            yield min(stored.get(11) or stored[9], stored[9]), stored[7]


class _Reader:
    """Reads a structure as field number → value; integers, bytes, lists and structures within are enough."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise ValueError(f"its footer is nested more than {_DEEPEST} deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._value(head & 15, depth, in_field=True)
        return fields

    def _value(self, kind: int, depth: int, *, in_field: bool = False) -> Any:
        match kind:
            case 1 | 2:
                return kind == 1 if in_field else self._byte() == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._unsigned())
            case 9 | 10:
                head = self._byte()
                length = head >> 4 if head >> 4 < 15 else self._unsigned()
                if length > len(self._data) - self._at:
                    raise ValueError("a list in its footer is longer than the footer")
                return [self._value(head & 15, depth + 1) for _ in range(length)]
            case 12:
                return self.struct(depth + 1)
            case _:
                raise ValueError(f"its footer has a value of unknown kind {kind}")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, length: int) -> bytes:
        found = self._data[self._at : self._at + length]
        if len(found) < length:
            raise ValueError("a value in its footer is longer than the footer")
        self._at += length
        return found

    def _unsigned(self) -> int:
        value = self._data[self._at]
        self._at += 1
        if value < 128:
            return value
        value, shift = value & 127, 7
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _integer(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)
