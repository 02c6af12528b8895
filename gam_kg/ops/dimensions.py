"""Names for the dimensions of records of tensors: along which one a tensor lies, and into which its numbers point.

They stand in the annotations of the fields of data classes: `Annotated[Tensor, Along("walks", "pairs")]`. A name with a
dot in front belongs to the record alone; any other is the same dimension in all parts of a whole record.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Along:
    """Of a tensor, or a tuple of tensors.

    Attributes:
        dimension: The dimension of the last axis; of a tuple, {} in it stands for the number of the tensor.
        into: The dimension whose items the values number; None: they number none.
        padding: The value of padded items that number none.
        is_repeated: Whether padded items are the last item again, if there is one.
    """

    dimension: str
    into: str | None = None
    padding: float = 0
    is_repeated: bool = False


@dataclass(frozen=True)
class Number:
    """Of the number of items along a dimension.

    Attributes:
        dimension: The dimension.
    """

    dimension: str


class Within:
    """Of a record, for some of its dimensions their names in the record around it; None: a fixed dimension.

    Those of a `CSRPattern` are `rows`, `columns` and `entries`.
    """

    def __init__(self, **names: str | None) -> None:
        self.names = names


@cache
def dimensions_of(record: type) -> dict[str, Any]:
    """The first annotation of each field of a data class that has one, by its name."""
    hints = get_type_hints(record, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}
