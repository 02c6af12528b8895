"""The part of a snapshot that a rank attends over: its own active entities, and the halo of their remote neighbours."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gam_kg.data.partition import Partition
from gam_kg.data.ragged import distinct_index, where
from gam_kg.data.snapshot import Snapshot
from gam_kg.distributed.rows import HaloPlan


@dataclass(frozen=True)
class Neighbourhood:
    """Edges of a snapshot into a rank's entities.

    Attributes:
        time: Snapshot number.
        active: Rows of the rank's active entities in its shard, int64 (num_active,), ascending.
        entity: Their ids, int64 (num_active,).
        edges: Rows (src, dst), int64 (2, num_edges): `dst` counts active entities, `src` counts active entities and
            then the halo.
        relations: Distinct relations of the edges, int64 (num_relations,), ascending.
        edge_type: Which of them each edge has, int64 (num_edges,).
        halo: What to exchange; None in a world of one.
        wanted: Which of the active entities are updated, int64 (num_wanted,), ascending, and then `dst` counts these;
            None: all.
    """

    time: int
    active: Tensor
    entity: Tensor
    edges: Tensor
    relations: Tensor
    edge_type: Tensor
    halo: HaloPlan | None
    wanted: Tensor | None = None

    def only(self, rows: Tensor) -> "Neighbourhood":
        """The part that updates some of the active entities; all send what others of them need.

        Args:
            rows: Rows of the shard, ascending, int64 (num_rows,).
        """
        is_wanted = torch.isin(self.active, rows)
        src, dst, edge_type = where(is_wanted.index_select(0, self.edges[1]), *self.edges, self.edge_type)
        place = torch.cumsum(is_wanted, 0) - 1
        edges = torch.stack([src, place.index_select(0, dst)])
        return replace(self, edges=edges, edge_type=edge_type, wanted=torch.nonzero(is_wanted)[:, 0])

    @classmethod
    def of(cls, snapshot: Snapshot, partition: Partition) -> "Neighbourhood":
        """Plan a snapshot from a rank's own facts alone.

        No rank has to be asked: a fact is stored at both of its ends, so whoever needs an entity's vector has a fact
        with it, and the entity's owner has the same fact the other way round. Both sort by id.
        """
        other, anchor = snapshot.other, snapshot.anchor
        entity, dst = torch.unique_consecutive(anchor, return_inverse=True)
        relations, edge_type = distinct_index(snapshot.relation)
        if partition.world_size == 1:
            edges = torch.stack([torch.searchsorted(entity, other), dst])
            return cls(snapshot.time, entity, entity, edges, relations, edge_type, None)
        owner = partition.owner(other)
        remote = owner != partition.rank
        needed, halo_row = torch.unique(owner[remote] * partition.num_entities + other[remote], return_inverse=True)
        src = torch.searchsorted(entity, other)
        src[remote] = len(entity) + halo_row
        wanted = torch.unique(owner[remote] * partition.num_entities + anchor[remote])
        plan = HaloPlan(
            torch.searchsorted(entity, wanted % partition.num_entities),
            _counts(wanted, partition),
            _counts(needed, partition),
        )
        return cls(snapshot.time, partition.rows(entity), entity, torch.stack([src, dst]), relations, edge_type, plan)


def _counts(keys: Tensor, partition: Partition) -> list[int]:
    return torch.bincount(keys // partition.num_entities, minlength=partition.world_size).tolist()
