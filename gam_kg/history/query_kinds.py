"""Kinds of queries: what of a query decides which rows of the tables of relations it reads."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from gam_kg.ops.dimensions import Along


@dataclass(frozen=True)
class QueryKinds:
    """Kinds of queries: those of one relation that look equally far ahead. Kinds may be equal.

    Attributes:
        relation: Relation of each, or its row in tables of relations, (num_kinds,).
        horizon: See `Queries`, (num_kinds,).
    """

    relation: Annotated[Tensor, Along("kinds")]
    horizon: Annotated[Tensor, Along("kinds", padding=1)]
