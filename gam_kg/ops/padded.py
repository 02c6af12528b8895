"""Records padded to given sizes, so that records of different sizes get the same shapes."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from gam_kg.ops.dimensions import Along
from gam_kg.ops.joined import Change, Record, Sizes, sizes_of
from gam_kg.ops.sparse import CSRPattern


def padded(
    record: Record,
    sizes: Sizes,
    items: Mapping[str, int],
    renumbered: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> Record:
    """The record with more items along each dimension, to which nothing points but what is padded.

    What is padded points to the first padded item of a dimension, and holds the `padding` of its field otherwise.

    Args:
        record: The record.
        sizes: Number of items along each dimension: as many as it has, with nothing padded, or more.
        items: The item of further dimensions, along which no tensor lies, to which what is padded points.
        renumbered: For dimensions whose items have other numbers in the larger record, a function from old to new.
    """
    first, renumbered = {**items, **sizes_of(record)}, renumbered or {}

    def tensor(values: Sequence[Tensor], about: Along) -> Tensor:
        (value,) = values
        missing = sizes[about.dimension] - value.shape[-1]
        if about.into is not None and about.into in renumbered:
            value = renumbered[about.into](value)
        if about.is_repeated and len(value):
            return torch.cat([value, value[-1:].expand(missing)])
        return pad(value, (0, missing), value=about.padding if about.into is None else first[about.into])

    def pattern(values: Sequence[CSRPattern], rows: str, columns: str | None, entries: str) -> CSRPattern:
        num_columns = None if columns is None else sizes.get(columns)
        return values[0].padded(sizes[rows], num_columns, sizes[entries])

    return Change(tensor, lambda _, dimension: sizes[dimension], pattern).of(record)
