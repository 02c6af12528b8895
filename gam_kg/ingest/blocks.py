"""Tables that are worked on block by block: in this process, or where a pipeline brings its own `Blocks`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa

from gam_kg.ingest.merging import stored, tally_entities
from gam_kg.ingest.vocabulary import merge_tallies

Step = Callable[..., pa.Table | Iterator[pa.Table]]
Summary = TypeVar("Summary")


class Blocks(Protocol):
    """Tables of one schema, in blocks of any size."""

    def map(self, step: Step, **shared: Any) -> Self:
        """What a step makes of each block.

        Args:
            step: A table, and `shared` by name, → a table or several.
            shared: Large values, of which a machine needs one copy.
        """
        ...

    def by(self, column: str, step: Step) -> Self:
        """What a step makes of each table that has all rows with one value in a column of integers."""
        ...

    def computed(self) -> Self:
        """The same, in memory."""
        ...

    def each(self, summarise: Callable[[pa.Table], Summary]) -> Iterator[Summary]:
        """The summary of each block of `computed` ones, in order."""
        ...

    def tables(self) -> Iterator[pa.Table]:
        """The blocks, in order."""
        ...

    def tally(self, num_rows: int) -> pa.Table:
        """TALLY of all entities in `computed` blocks of MERGED, in any order; about how many rows these are made of."""
        ...


@dataclass(frozen=True)
class LocalBlocks:
    """`Blocks` in the memory of this process."""

    parts: list[pa.Table]

    def map(self, step: Step, **shared: Any) -> "LocalBlocks":
        return LocalBlocks([made for part in self.parts for made in tables_of(step(part, **shared))])

    def by(self, column: str, step: Step) -> "LocalBlocks":
        if not self.parts:
            return self
        together = pa.concattables_of(self.parts).combine_chunks()
        values = together[column].to_numpy()
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order], prepend=-1))
        groups = [together.take(pa.array(rows)) for rows in np.split(order, starts[1:])] if len(values) else []
        return LocalBlocks(groups).map(step)

    def computed(self) -> "LocalBlocks":
        return self

    def each(self, summarise: Callable[[pa.Table], Summary]) -> Iterator[Summary]:
        return map(summarise, self.parts)

    def tables(self) -> Iterator[pa.Table]:
        return iter(self.parts)

    def tally(self, num_rows: int) -> pa.Table:
        return merge_tallies(tally_entities(stored(part)) for part in self.parts)


def tables_of(made: pa.Table | Iterator[pa.Table]) -> Iterator[pa.Table]:
    """What a step has made of a table, a table or several."""
    if isinstance(made, pa.Table):
        yield made
    else:
        yield from made
