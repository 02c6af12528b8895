"""Snapshots in time order as a rank sees them: its own facts, and the questions of all ranks."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from gam_kg.data.graph import TemporalGraph
from gam_kg.data.snapshot import Moment, Queries, Snapshot
from gam_kg.distributed.topology import Topology

# So many snapshots' questions cross in one message: a small message costs as much as a large one.
_SNAPSHOTS_AHEAD = 16


def read_moments(graph: TemporalGraph, times: Sequence[int], topology: Topology) -> Iterator[Moment]:
    """Snapshots in time order. A collective: all ranks ask for the same and go through them alike.

    Args:
        graph: The rank's facts.
        times: Ascending.
        topology: The ranks.
    """
    for moments in read_batches(graph, times, topology):
        yield from moments


def read_batches(graph: TemporalGraph, times: Sequence[int], topology: Topology) -> Iterator[list[Moment]]:
    """The same, in the batches in which they come."""
    found = graph.read(times)
    while snapshots := list(islice(found, _SNAPSHOTS_AHEAD)):
        if topology.world_size == 1:
            yield [Moment(snapshot) for snapshot in snapshots]
        else:
            rows = topology.gather(torch.cat([_asked(snapshot) for snapshot in snapshots]), "queries").T
            yield [Moment(one, Queries.of(one.time, rows[1:, rows[0] == one.time])) for one in snapshots]


def _asked(snapshot: Snapshot) -> torch.Tensor:
    """Time, subject, relation and answer of a rank's rows, int64 (num_rows, 4)."""
    own = snapshot.queries
    subject, relation = own.subject[own.answer_query], own.relation[own.answer_query]
    return torch.stack([torch.full_like(subject, snapshot.time), subject, relation, own.answer], 1)
