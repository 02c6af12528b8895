"""Partition: the rank that owns each entity, and the entity's row in the shard of that rank."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gam_kg.graph.anchored import buckets_of_rank

DEFAULT_BUCKETS = 64


@dataclass(frozen=True)
class Partition:
    """The shard of one rank: the entities of its buckets, in the order of their ids.

    Attributes:
        num_entities: Entities of the whole graph.
        buckets: Stored parts of the graph; entity v is in bucket `v % buckets`.
        rank: The rank whose shard this is, in `[0, world_size)`.
        world_size: Number of ranks; bucket b belongs to rank `b % world_size`.
    """

    num_entities: int
    buckets: int = DEFAULT_BUCKETS
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not in [0, world_size={self.world_size})")

    @cached_property
    def ids(self) -> Tensor:
        """Entities of the shard, ascending, int64 (num_rows,)."""
        if self.world_size == 1:
            return torch.arange(self.num_entities)
        turns = torch.arange(0, self.num_entities, self.buckets)
        ids = (turns[:, None] + torch.tensor(self.own_buckets, dtype=torch.int64)).flatten()
        return ids[ids < self.num_entities]

    @property
    def own_buckets(self) -> list[int]:
        """The buckets of the rank, ascending; empty for ranks beyond the number of buckets."""
        return buckets_of_rank(self.buckets, self.rank, self.world_size).tolist()

    @property
    def num_rows(self) -> int:
        """Number of entities of the shard, without making their ids."""
        turns, rest = divmod(self.num_entities, self.buckets)
        in_a_turn, in_the_rest = (len(range(self.rank, end, self.world_size)) for end in (self.buckets, rest))
        return turns * in_a_turn + in_the_rest

    @property
    def most_rows(self) -> int:
        """Number of entities of the largest shard, which is that of rank 0."""
        return Partition(self.num_entities, self.buckets, 0, self.world_size).num_rows

    def owner(self, ids: Tensor) -> Tensor:
        """The rank that owns each entity; same shape, int64."""
        return ids % self.buckets % self.world_size

    def owns(self, ids: Tensor) -> Tensor:
        """Whether this shard has each entity; same shape, bool."""
        return self.owner(ids) == self.rank

    def rows(self, ids: Tensor) -> Tensor:
        """Row of each entity in its owner's shard; same shape, int64."""
        if self.world_size == 1:
            return ids
        turn, bucket = ids // self.buckets, ids % self.buckets
        buckets_of_owner = (self.buckets - 1 - bucket % self.world_size) // self.world_size + 1
        return turn * buckets_of_owner + bucket // self.world_size
