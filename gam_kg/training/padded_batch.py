"""Step batches padded to given sizes: batches of the same sizes have the same shapes, and padding changes no number."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from gam_kg.graph.message_graph import MessageGraph
from gam_kg.ops.joined import Sizes, sizes_of
from gam_kg.ops.padded import Renumber, padded
from gam_kg.training.step_batch import StepBatch

_MOST_SCORES = 2**31
"""In one vector, so that their positions fit int32."""


@dataclass(frozen=True)
class PaddableBatch:
    """A batch that can be padded.

    What is padded of queries belongs to a query without answers; what is padded of snapshots, to entities that do not
    change; padded columns stand for no candidate. So it changes neither loss nor gradients nor memory.

    Attributes:
        batch: The batch, on the CPU.
        sizes: The number of items along each dimension that can be padded by itself.
        row: A row of the shard that does not change after the step.
    """

    batch: StepBatch
    sizes: Sizes
    row: int

    @classmethod
    def of(cls, batch: StepBatch) -> "PaddableBatch | None":
        """The batch, on the CPU; None where it is of several blocks or ranks, or has no row that padding may use.

        That is where each row that it reads is active in the snapshot that leaves the window, or a batch over sampled
        candidates reads no entity's own row.
        """
        if len(batch.blocks) > 1 or batch.blocks[0].gather is not None:
            return None
        row = _unchanged_row(batch)
        if row is None or (batch.rows is not None and not len(batch.rows.own)):
            return None
        fixed, same = _dependent_sizes(batch)
        sizes = sizes_of(batch)
        return cls(batch, {name: size for name, size in sizes.items() if name not in fixed and name not in same}, row)

    def padded(self, sizes: Sizes) -> Any:
        """The batch with more items along each dimension, as `Packing` packs it; see `ops.padded`.

        Args:
            sizes: Number of items along each dimension, named as in `sizes`.

        Returns:
            None where it cannot be padded so: it has other dimensions, or along one of them not fewer items; or there
            would be too many scores.
        """
        found, batch = self.sizes, self.batch
        if found.keys() != sizes.keys() or any(sizes[name] <= size for name, size in found.items()):
            return None
        fixed, same = _dependent_sizes(batch)
        first, sizes = ({**of, **fixed, **{name: of[one] for name, one in same.items()}} for of in (found, sizes))
        layout, num_columns = batch.blocks[0].layout, sizes["columns"]
        size = sizes["queries"] * num_columns
        if max(size, sizes.get("kinds", 0) * num_columns) + sizes["apart"] > _MOST_SCORES:
            return None
        cell, kind_cell = first["queries"] * num_columns, first.get("kinds", 0) * num_columns
        score, renumbered = cell, {}
        if layout.apart is not None:
            old_size = layout.num_queries * layout.num_columns
            score = size + layout.num_apart
            of_cells = _in_wider_table(layout.num_columns, num_columns)
            renumbered = {"cells": of_cells, "kind cells": of_cells, "scores": lambda place: place + (size - old_size)}
        # Where only some rows are read, `first` has the first padded one of these.
        items = {"shard": self.row, "rows": self.row, "cells": cell, "scores": score, "kind cells": kind_cell}
        return padded(_with_changes(batch), sizes, items | first, renumbered)


def _dependent_sizes(batch: StepBatch) -> tuple[Sizes, dict[str, str]]:
    """Sizes that are not padded, and for others the size that each is equal to, by name."""
    # In a world of one all queries are the rank's own.
    fixed, same = {}, {"own queries": "queries"}
    if batch.rows is None:  # all entities are columns, in which all walks end, and all that are active are updated
        fixed = {"apart": 0, "masked": 0, "columns": batch.blocks[0].layout.num_columns}
    for path, snapshot in _snapshots(batch).items():
        if snapshot.updated is None:
            same[f"{path}.updated"] = f"{path}.active"
    return fixed, same


def _snapshots(batch: StepBatch) -> dict[str, MessageGraph]:
    """The snapshots of a batch, by their places in it."""
    snapshots = () if batch.window is None else batch.window.snapshots
    found = {f".window.snapshots.{number}": snapshot for number, snapshot in enumerate(snapshots)}
    return found if batch.leaving is None else found | {".leaving.snapshot": batch.leaving.snapshot}


def _unchanged_row(batch: StepBatch) -> int | None:
    """A row of the shard, of those that the step reads, that does not change after it; None: there is none.

    What is padded of the memory is written back as it was, and must not overwrite what changes.
    """
    if batch.rows is not None:
        read = batch.rows.index
    else:
        assert batch.own is not None
        read = torch.arange(len(batch.own))
    if batch.leaving is not None:
        active = batch.leaving.snapshot.active
        read = read[: len(active) + 1]  # among so many is one that is not active
        read = read[~torch.isin(read, active)]
    return int(read[0]) if len(read) else None


def _in_wider_table(old: int, new: int) -> Renumber:
    """From the places in a table with `old` columns to those in one with `new` columns."""
    return lambda cell: cell + cell // old * (new - old)


def _with_changes(batch: StepBatch) -> StepBatch:
    """The batch, which says of each updated entity that it changes; padded ones do not."""
    window, leaving = batch.window, batch.leaving
    if window is not None:
        window = replace(window, snapshots=tuple(map(_all_change, window.snapshots)))
    if leaving is not None:
        leaving = replace(leaving, snapshot=_all_change(leaving.snapshot))
    return replace(batch, window=window, leaving=leaving)


def _all_change(snapshot: MessageGraph) -> MessageGraph:
    updated = snapshot.active if snapshot.updated is None else snapshot.updated
    return replace(snapshot, changes=torch.ones(len(updated), dtype=torch.bool))
