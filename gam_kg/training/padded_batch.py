"""Step batches padded to given sizes: batches of the same sizes have the same shapes, and padding changes no number."""

from dataclasses import replace

import torch

from gam_kg.graph.message_graph import MessageGraph
from gam_kg.ops.joined import Sizes, sizes_of
from gam_kg.ops.padded import padded
from gam_kg.ops.records import map_parts
from gam_kg.training.step_batch import StepBatch

_OF_SAMPLES = "apart", "masked"
"""Dimensions along which nothing lies where all entities are candidates."""


def can_be_padded(batch: StepBatch) -> bool:
    """Whether a batch is of the kind that can be padded: over all entities, in one block, on one rank."""
    return batch.own is not None and len(batch.blocks) == 1 and batch.blocks[0].gather is None


def batch_sizes(batch: StepBatch) -> Sizes:
    """The number of items along each dimension of a batch that can be padded."""
    return {name: size for name, size in sizes_of(batch).items() if name not in ("own queries", *_OF_SAMPLES)}


def padded_batch(batch: StepBatch, sizes: Sizes) -> StepBatch | None:
    """The batch with more items along each dimension, which change neither loss nor gradients nor memory.

    What is padded of queries belongs to a query without answers; what is padded of snapshots, to entities that do not
    change.

    Args:
        batch: A batch on the CPU.
        sizes: Number of items along each dimension, named as in `batch_sizes`.

    Returns:
        None where the batch cannot be padded so: it has other dimensions, or along one of them not fewer items; it is
        over a sample of candidates, of several blocks or of several ranks; or each entity of the rank is active in the
        snapshot that leaves the window.
    """
    found = batch_sizes(batch)
    if found.keys() != sizes.keys() or any(sizes[name] <= size for name, size in found.items()):
        return None
    if batch.own is None or not can_be_padded(batch):
        return None
    # What is padded of the memory is written back as it was, and must not overwrite what changes.
    unused = torch.ones_like(batch.own)
    if batch.leaving is not None:
        unused[batch.leaving.snapshot.active] = False
    if not unused.any():
        return None
    query, kind = found["queries"], found.get("kinds", 0)
    num_columns = batch.blocks[0].layout.num_columns
    cell = query * num_columns
    items = {"rows": int(unused.long().argmax()), "cells": cell, "scores": cell, "kind cells": kind * num_columns}
    every = sizes | dict.fromkeys(_OF_SAMPLES, 0) | {"own queries": sizes["queries"]}  # in a world of one all are own
    return padded(map_parts(batch, MessageGraph, _all_change), every, items)


def _all_change(snapshot: MessageGraph) -> MessageGraph:
    return replace(snapshot, changes=torch.ones(len(snapshot.active), dtype=torch.bool))
