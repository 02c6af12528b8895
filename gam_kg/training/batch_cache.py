"""Blocks of queries that are the same in every epoch, cached in as few bytes as they fit in."""

import torch
from torch import Tensor

from gam_kg.distributed.communicator import Communicator
from gam_kg.graph.snapshot import Queries
from gam_kg.ops.records import narrowed, num_bytes
from gam_kg.training.query_block import QueryBlock

CACHE_BYTES = 512 * 2**20
"""Bytes of cached batches per rank; batches that no longer fit are made again each epoch."""


class BatchCache:
    """Caches blocks of snapshots that are one step, since those do not change between epochs.

    Each number takes as few bytes as its tensor allows, a fifth of what it takes in use.

    Args:
        communicator: The ranks, which cache the same snapshots: making a batch is a collective.
        max_bytes: Size of the cache of a rank.
    """

    def __init__(self, communicator: Communicator, max_bytes: int = CACHE_BYTES) -> None:
        self._communicator = communicator
        self._blocks: dict[int, tuple[Tensor, tuple[QueryBlock, ...]]] = {}
        self._room = max_bytes

    def find(self, queries: Queries) -> tuple[QueryBlock, ...] | None:
        """The blocks of exactly these queries, if they are cached."""
        cached, blocks = self._blocks.get(queries.time, (None, None))
        return blocks if cached is not None and torch.equal(cached, _key(queries)) else None

    def insert(self, queries: Queries, blocks: tuple[QueryBlock, ...]) -> None:
        """Cache blocks if all ranks have room and none are cached of their snapshot. A collective."""
        if self._room <= 0 or queries.time in self._blocks:
            return
        entry = _key(queries), narrowed(blocks)
        self._room -= int(self._communicator.max(torch.tensor([num_bytes(entry)]), "history"))
        if self._room >= 0:
            self._blocks[queries.time] = entry


def _key(queries: Queries) -> Tensor:
    return torch.stack([queries.subject, queries.relation])
