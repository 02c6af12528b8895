"""Step batches padded to given sizes: batches of the same sizes have the same shapes, and padding changes no number."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gam_kg.graph.message_graph import MessageGraph
from gam_kg.ops.joined import Sizes, sizes_of
from gam_kg.ops.padded import padded
from gam_kg.ops.records import map_parts
from gam_kg.training.step_batch import StepBatch


def can_be_padded(batch: StepBatch) -> bool:
    """Whether a batch is of the kind that can be padded: in one block, on one rank, and of some entity's own row."""
    has_own = batch.rows is None or len(batch.rows.own) > 0
    return len(batch.blocks) == 1 and batch.blocks[0].gather is None and has_own


def batch_sizes(batch: StepBatch) -> Sizes:
    """The number of items along each dimension of a batch that can be padded."""
    fixed, same = _given(batch)
    return {name: size for name, size in sizes_of(batch).items() if name not in fixed and name not in same}


def _given(batch: StepBatch) -> tuple[Sizes, dict[str, str]]:
    """Sizes that follow from the kind of the batch: those that are not padded, and those that are as another one is."""
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


def padded_batch(batch: StepBatch, sizes: Sizes) -> StepBatch | None:
    """The batch with more items along each dimension, which change neither loss nor gradients nor memory.

    What is padded of queries belongs to a query without answers; what is padded of snapshots, to entities that do not
    change; padded columns stand for no candidate.

    Args:
        batch: A batch on the CPU.
        sizes: Number of items along each dimension, named as in `batch_sizes`.

    Returns:
        None where the batch cannot be padded so: it has other dimensions, or along one of them not fewer items; it is
        not as `can_be_padded` says; or each row that it reads is active in the snapshot that leaves the window.
    """
    found = batch_sizes(batch)
    if found.keys() != sizes.keys() or any(sizes[name] <= size for name, size in found.items()):
        return None
    row = _unchanged_row(batch)
    if row is None or not can_be_padded(batch):
        return None
    fixed, same = _given(batch)
    sizes = sizes | fixed
    sizes |= {name: sizes[other] for name, other in same.items()}
    layout, num_columns = batch.blocks[0].layout, sizes["columns"]
    query, kind = found["queries"], found.get("kinds", 0)
    score = cell = query * num_columns
    renumbered = {}
    if layout.apart is not None:
        moved = sizes["queries"] * num_columns - layout.num_queries * layout.num_columns
        score = sizes["queries"] * num_columns + layout.num_apart
        of_cells = _in_wider_table(layout.num_columns, num_columns)
        renumbered = {"cells": of_cells, "kind cells": of_cells, "scores": lambda place: place + moved}
    items = {"shard": row, "rows": row, "cells": cell, "scores": score, "kind cells": kind * num_columns}
    return padded(map_parts(batch, MessageGraph, _all_change), sizes, items, renumbered)


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


def _in_wider_table(old: int, new: int) -> Callable[[Tensor], Tensor]:
    """A function from the places in a table with `old` columns to those in one with `new` columns."""
    return lambda cell: cell + cell.div(old, rounding_mode="floor") * (new - old)


def _all_change(snapshot: MessageGraph) -> MessageGraph:
    updated = snapshot.active if snapshot.updated is None else snapshot.updated
    return replace(snapshot, changes=torch.ones(len(updated), dtype=torch.bool))
