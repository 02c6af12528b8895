"""Records of the same structure as one, by the named dimensions of their fields."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from gam_kg.ops.dimensions import Along, Number, Within, dimensions_of
from gam_kg.ops.sparse import CSRPattern

Record = TypeVar("Record")
Sizes = dict[str, int]
"""Number of items along each dimension, by name."""


@dataclass(frozen=True)
class Change:
    """What happens to the parts of records that have the same structure, one after another.

    Attributes:
        tensor: Of tensors, with what holds for them.
        number: Of a dimension, of which the record has the number of items.
        pattern: Of patterns, the dimensions of their rows, columns and entries.
    """

    tensor: Callable[[Sequence[Tensor], Along], Any]
    number: Callable[[int, str], int]
    pattern: Callable[[Sequence[CSRPattern], str, str | None, str], Any]

    def of(self, *records: Any) -> Any:
        """The records, changed into one; what has no dimension is taken from the first."""
        return self._of(records, None, "", lambda name: name)

    def _of(self, values: Sequence[Any], about: Any, path: str, named: Callable[[Any], Any]) -> Any:
        """The same for the field at a path; `about` is its annotation, in which dimensions are `named` so."""
        first = values[0]
        if isinstance(first, tuple):
            return tuple(
                self._of(each, _of_part(about, number), f"{path}.{number}", named)
                for number, each in enumerate(zip(*values, strict=True))
            )
        if isinstance(about, Along) and first is not None:
            about = Along(named(about.dimension), named(about.into), about.padding, about.is_repeated)
            return self.tensor(values, about)
        if isinstance(about, Number):
            return self.number(first, named(about.dimension))
        names = {name: named(outer) for name, outer in about.names.items()} if isinstance(about, Within) else {}
        if isinstance(first, CSRPattern):
            return self.pattern(values, names["rows"], names["columns"], names["entries"])
        if not is_dataclass(first):
            return first

        def named_inside(name: str | None) -> str | None:
            if name is None or name in names:
                return names[name] if name else None
            return path + name if name[0] == "." else name

        inside = dimensions_of(type(first))
        parts = {
            name: self._of([getattr(value, name) for value in values], inside.get(name), f"{path}.{name}", named_inside)
            for name in (one.name for one in fields(first))
        }
        return type(first)(**parts)


def _of_part(about: Any, number: int) -> Any:
    if not isinstance(about, Along):
        return about
    return replace(about, dimension=about.dimension.format(number))


def sizes_of(record: Any) -> Sizes:
    """The number of items along each dimension of a record."""
    sizes: Sizes = {}

    def tensor(values: Sequence[Tensor], about: Along) -> Tensor:
        sizes[about.dimension] = values[0].shape[-1]
        return values[0]

    def number(value: int, dimension: str) -> int:
        sizes[dimension] = value
        return value

    def pattern(values: Sequence[CSRPattern], rows: str, _: str | None, entries: str) -> CSRPattern:
        sizes[rows], sizes[entries] = len(values[0].offsets) - 1, len(values[0].row)
        return values[0]

    Change(tensor, number, pattern).of(record)
    return sizes


def joined(
    records: Sequence[Record], first: Mapping[str, Sequence[int]] | None = None, shared: Collection[str] = ()
) -> Record:
    """Records of the same structure as one: along each dimension the items of one after those of another.

    Args:
        records: One at least.
        first: For further dimensions, into which tensors point but along which none lies: what is added to the numbers
            of each record.
        shared: Dimensions along which all records have the same items.
    """
    sizes = [sizes_of(record) for record in records]
    starts = {name: [0, *accumulate(size[name] for size in sizes)][:-1] for name in sizes[0]} | dict(first or {})

    def tensor(values: Sequence[Tensor], about: Along) -> Tensor:
        if about.dimension in shared:
            return values[0]
        if about.into in starts:  # otherwise all records number the same items
            values = [value + start for value, start in zip(values, starts[about.into], strict=True)]
        return torch.cat(list(values), -1)

    def number(value: int, dimension: str) -> int:
        return value if dimension in shared else sum(size[dimension] for size in sizes)

    def pattern(values: Sequence[CSRPattern], rows: str, columns: str | None, entries: str) -> CSRPattern:
        return CSRPattern.joined(values, None if columns is None else starts.get(columns))

    return Change(tensor, number, pattern).of(*records)
