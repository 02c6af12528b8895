"""Queries that are scored together, and blocks of them joined to larger ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from gam_kg.distributed.cross_entropy import Targets
from gam_kg.distributed.exchange import GatherPlan
from gam_kg.history.layout import ScoreLayout
from gam_kg.ops.joined import joined, sizes_of

MOST_QUERIES = 8192


@dataclass(frozen=True)
class QueryBlock:
    """Queries that are scored together.

    Attributes:
        layout: Their candidates and their past.
        gather: Where the query vectors of all ranks come from; None in a world of one.
        targets: Their answers; None outside training.
    """

    layout: ScoreLayout
    gather: GatherPlan | None
    targets: Targets | None

    @classmethod
    def joined(cls, blocks: Sequence["QueryBlock"]) -> "QueryBlock":
        """The queries of several blocks, one after another; blocks over a sample have the same one."""
        if len(blocks) == 1:
            return blocks[0]
        sizes, num_columns = [sizes_of(block) for block in blocks], blocks[0].layout.num_columns
        cells = [0, *accumulate(size["queries"] * num_columns for size in sizes)]
        kind_cells = [0, *accumulate(size["kinds"] * num_columns for size in sizes)]
        scores = cells
        if blocks[0].layout.apart is not None:  # pairs are scored behind the whole table, not behind that of a block
            apart = accumulate((size["apart"] for size in sizes), initial=cells[-1])
            scores = [start - size["queries"] * num_columns for start, size in zip(apart, sizes, strict=False)]
        starts = {"cells": cells, "kind cells": kind_cells, "scores": scores}
        plans = [block.gather for block in blocks if block.gather is not None]
        block = joined(blocks, {name: values[: len(blocks)] for name, values in starts.items()}, shared=["columns"])
        return replace(block, gather=GatherPlan.joined(plans) if plans else None)


def most_together(num_candidates: int, max_scores: int) -> int:
    """How many queries are scored together: as many as have `max_scores` scores, one at least."""
    # Where candidates are few, what a query reads of the past takes more room than its scores.
    return max(1, min(max_scores // max(1, num_candidates), MOST_QUERIES))


def joined_blocks(blocks: Iterable[QueryBlock], most: int) -> tuple[QueryBlock, ...]:
    """Neighbouring blocks joined, of at most so many queries; a block of more stays as it is."""
    together: list[list[QueryBlock]] = []
    for block in blocks:
        last = together[-1] if together else []
        if last and sum(one.layout.num_queries for one in (*last, block)) <= most:
            last.append(block)
        else:
            together.append([block])
    return tuple(map(QueryBlock.joined, together))
