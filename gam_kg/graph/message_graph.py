"""The part of a snapshot that a rank attends over: its own active entities and the halo of their remote neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Snapshot
from gam_kg.ops.counter_rng import RowRNG
from gam_kg.ops.dimensions import Along, Within
from gam_kg.ops.ragged import find_keys, select, true_positions, unique, unique_inverse


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
        time: Snapshot number, int64 ().
        active: Rows of the rank's active entities in its shard, (num_active,), ascending.
        src: Source of each edge among the active entities and then the halo, (num_edges,).
        dst: Destination of each edge among the entities that are updated, (num_edges,).
        relations: Distinct relations of the edges, (num_relations,); from `with_relation_rows` on, their rows in tables
            of relations.
        edge_type: Which of them each edge has, (num_edges,).
        halo: What to exchange; None in a world of one.
        updated: Which of the active entities are updated, (num_updated,), ascending; None: all.
        rng: Random numbers of the updated entities in a training step; None outside training.
        changes: Whether the memory of each updated entity changes, bool (num_updated,); None: all.
    """

    time: Tensor
    active: Annotated[Tensor, Along(".active", "shard")]
    src: Annotated[Tensor, Along(".edges", ".active")]
    dst: Annotated[Tensor, Along(".edges", ".updated")]
    relations: Annotated[Tensor, Along(".relations")]
    edge_type: Annotated[Tensor, Along(".edges", ".relations")]
    halo: HaloPlan | None = None
    updated: Annotated[Tensor | None, Along(".updated", ".active")] = None
    rng: Annotated[RowRNG | None, Within(rows=".updated")] = None
    changes: Annotated[Tensor | None, Along(".updated")] = None

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
        return cls(torch.tensor(snapshot.time), active, src, dst, relations, edge_type, halo)

    def with_relation_rows(self, row: Tensor) -> "MessageGraph":
        """The graph with the rows of relations, `row` (2 * num_relations,), in place of the relations."""
        return replace(self, relations=row.index_select(0, self.relations))

    def only(self, rows: Tensor) -> "MessageGraph":
        """The part that updates some of the active entities; all of these still send messages.

        Args:
            rows: Rows of the shard, ascending, int64 (num_rows,).
        """
        _, is_updated = find_keys(rows, self.active)
        src, dst, edge_type = select(is_updated.index_select(0, self.dst), self.src, self.dst, self.edge_type)
        dst = (torch.cumsum(is_updated, 0) - 1).index_select(0, dst)
        return replace(self, src=src, dst=dst, edge_type=edge_type, updated=true_positions(is_updated))


@dataclass(frozen=True)
class Window:
    """Snapshots whose updates of memory get gradients.

    Attributes:
        snapshots: In time order, one at least.
        touched: Rows of the shard that are active in any of them, (num_touched,), ascending.
        at: Their places among the rows that are read, (num_touched,).
        places: Places of the active entities of each snapshot among these, (num_active,) each.
    """

    snapshots: tuple[MessageGraph, ...]
    touched: Annotated[Tensor, Along("touched", "shard")]
    at: Annotated[Tensor, Along("touched", "rows")]
    places: Annotated[tuple[Tensor, ...], Along(".snapshots.{}.active", "touched")]

    @classmethod
    def of(cls, snapshots: Sequence[MessageGraph], rows: Tensor | None = None) -> "Window | None":
        """The window; None without snapshots.

        Args:
            snapshots: In time order.
            rows: The rows that are read, (num_rows,), ascending, the active ones among them; None for all.
        """
        if not snapshots:
            return None
        touched = unique(torch.cat([snapshot.active for snapshot in snapshots]))
        at = touched if rows is None else torch.searchsorted(rows, touched)
        places = (torch.searchsorted(touched, snapshot.active) for snapshot in snapshots)
        return cls(tuple(snapshots), touched, at, tuple(places))


def _by_rank(keys: Tensor, partition: Partition) -> list[int]:
    return torch.bincount(keys // partition.num_entities, minlength=partition.world_size).tolist()
