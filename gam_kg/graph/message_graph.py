"""The part of a snapshot that a rank attends over: its own active entities and the halo of their remote neighbours."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Snapshot
from gam_kg.ops.ragged import select, unique_inverse


@dataclass(frozen=True)
class HaloPlan:
    """Which rows go to which rank, and how many come from each.

    Attributes:
        send: Rows to send, one rank after another, (num_sent,).
        send_counts, receive_counts: Rows by rank.
    """

    send: Tensor
    send_counts: list[int]
    receive_counts: list[int]


@dataclass(frozen=True)
class MessageGraph:
    """Edges of a snapshot into a rank's entities.

    Attributes:
        time: Snapshot number.
        active: Rows of the rank's active entities in its shard, (num_active,), ascending.
        edges: Rows (src, dst), (2, num_edges): `dst` counts the entities that are updated, `src` counts active
            entities and then the halo.
        relations: Distinct relations of the edges, (num_relations,), ascending.
        edge_type: Which of them each edge has, (num_edges,).
        halo: What to exchange; None in a world of one.
        updated: Which of the active entities are updated, (num_updated,), ascending; None: all.
    """

    time: int
    active: Tensor
    edges: Tensor
    relations: Tensor
    edge_type: Tensor
    halo: HaloPlan | None = None
    updated: Tensor | None = None

    @classmethod
    def of(cls, snapshot: Snapshot, partition: Partition) -> "MessageGraph":
        """The graph of a snapshot, from a rank's own facts alone.

        No communication is needed: a fact is stored at both of its entities, so a rank that needs a remote vector and
        the rank that sends it have the same fact. Both sort by id.
        """
        other, anchor = snapshot.other, snapshot.anchor
        entity, dst = torch.unique_consecutive(anchor, return_inverse=True)
        relations, edge_type = unique_inverse(snapshot.relation)
        src, halo = torch.searchsorted(entity, other), None
        if partition.world_size > 1:
            owner = partition.owner(other)
            remote = owner != partition.rank
            first = owner[remote] * partition.num_entities
            received, halo_row = torch.unique(first + other[remote], return_inverse=True)
            src[remote] = len(entity) + halo_row
            sent = torch.unique(first + anchor[remote])
            send = torch.searchsorted(entity, sent % partition.num_entities)
            halo = HaloPlan(send, _by_rank(sent, partition), _by_rank(received, partition))
        active = partition.rows(entity)
        return cls(snapshot.time, active, torch.stack([src, dst]), relations, edge_type, halo)

    def only(self, rows: Tensor) -> "MessageGraph":
        """The part that updates some of the active entities; all of these still send messages.

        Args:
            rows: Rows of the shard, ascending, int64 (num_rows,).
        """
        is_updated = torch.isin(self.active, rows)
        src, dst, edge_type = select(is_updated.index_select(0, self.edges[1]), *self.edges, self.edge_type)
        place = torch.cumsum(is_updated, 0) - 1
        edges = torch.stack([src, place.index_select(0, dst)])
        return replace(self, edges=edges, edge_type=edge_type, updated=torch.nonzero(is_updated)[:, 0])


def _by_rank(keys: Tensor, partition: Partition) -> list[int]:
    return torch.bincount(keys // partition.num_entities, minlength=partition.world_size).tolist()
