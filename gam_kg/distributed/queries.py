"""The questions of a snapshot, each read by the owner of its subject, known to all ranks."""

from collections.abc import Callable, Sequence

import torch

from gam_kg.data.graph import Queries, Snapshot, TemporalGraph
from gam_kg.distributed.topology import Topology

_SNAPSHOTS_AHEAD = 16


def all_queries(snapshot: Snapshot, topology: Topology) -> Queries:
    """The queries of all ranks, in the order in which a world of one has them. A collective.

    Args:
        snapshot: The rank's facts.
        topology: The ranks.
    """
    if topology.world_size == 1:
        return snapshot.queries
    return gathered_queries([snapshot], topology)[0]


def gathered_queries(snapshots: Sequence[Snapshot], topology: Topology) -> list[Queries]:
    """The queries of all ranks about several snapshots, for the price of one in messages. A collective."""
    rows = torch.cat([_asked(snapshot) for snapshot in snapshots])
    rows = topology.gather(rows, "queries").T
    return [Queries.of(snapshot.time, rows[1:, rows[0] == snapshot.time]) for snapshot in snapshots]


class QueryStream:
    """The queries of snapshots in time order, gathered some snapshots ahead.

    Args:
        graph: The rank's facts.
        times: The snapshots that will be asked for, in this order, alike on all ranks.
        topology: The ranks.
        plan: Told of the queries of the snapshots ahead, as they are gathered.
    """

    def __init__(
        self,
        graph: TemporalGraph,
        times: Sequence[int],
        topology: Topology,
        plan: Callable[[Sequence[Queries]], None],
    ) -> None:
        self._graph, self._times, self._topology, self._plan = graph, list(times), topology, plan
        self._ahead: dict[int, Queries] = {}

    def at(self, time: int) -> Queries:
        """The queries of all ranks about a snapshot. A collective."""
        if self._topology.world_size == 1:
            return self._graph.snapshot(time).queries
        if time not in self._ahead:
            first = self._times.index(time)
            snapshots = [self._graph.snapshot(at) for at in self._times[first : first + _SNAPSHOTS_AHEAD]]
            queries = gathered_queries(snapshots, self._topology)
            self._plan(queries)
            self._ahead = {asked.time: asked for asked in queries}
        return self._ahead.pop(time)


def _asked(snapshot: Snapshot) -> torch.Tensor:
    """Time, subject, relation and answer of a rank's rows, int64 (num_rows, 4)."""
    own = snapshot.queries
    subject, relation = own.subject[own.answer_query], own.relation[own.answer_query]
    return torch.stack([torch.full_like(subject, snapshot.time), subject, relation, own.answer], 1)
