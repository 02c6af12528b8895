"""Snapshots in time order as a rank sees them: its own facts, and the questions of all ranks."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch

from gam_kg.data.fact_source import SLAB_ROWS
from gam_kg.data.graph import TemporalGraph
from gam_kg.data.snapshot import Moment, Queries, Snapshot
from gam_kg.distributed.topology import Topology

# So many snapshots' questions cross in one message: a small message costs as much as a large one.
_SNAPSHOTS_AHEAD = 16


def read_moments(
    graph: TemporalGraph,
    times: Sequence[int],
    topology: Topology,
    plan: Callable[[Sequence[Moment]], None] = lambda _: None,
) -> Iterator[Moment]:
    """Snapshots in time order. A collective: all ranks ask for the same and go through them alike.

    Args:
        graph: The rank's facts.
        times: Ascending.
        topology: The ranks.
        plan: In a world of several, told of some snapshots together before the first of them is given.
    """
    found = graph.read(times)
    if topology.world_size == 1:
        yield from map(Moment, found)
        return
    for number in _together(graph, times):
        snapshots = list(islice(found, number))
        rows = topology.gather(torch.cat([_asked(snapshot) for snapshot in snapshots]), "queries").T
        moments = [Moment(one, Queries.of(one.time, rows[1:, rows[0] == one.time])) for one in snapshots]
        plan(moments)
        yield from moments


def _together(graph: TemporalGraph, times: Sequence[int]) -> Iterator[int]:
    """How many snapshots' questions cross together, alike on all ranks: few where they are many."""
    facts = dict(zip(graph.times, graph.num_facts.tolist(), strict=True))
    number = rows = 0
    for time in times:
        more = 2 * facts.get(time, 0)
        if number == _SNAPSHOTS_AHEAD or (number and rows + more > SLAB_ROWS):
            yield number
            number = rows = 0
        number, rows = number + 1, rows + more
    if number:
        yield number


def _asked(snapshot: Snapshot) -> torch.Tensor:
    """Time, subject, relation and answer of a rank's rows, int64 (num_rows, 4)."""
    own = snapshot.queries
    subject, relation = own.subject[own.answer_query], own.relation[own.answer_query]
    return torch.stack([torch.full_like(subject, snapshot.time), subject, relation, own.answer], 1)
