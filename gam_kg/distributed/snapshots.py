"""Snapshots in time order as a rank has them: its own facts, and the queries of all ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from gam_kg.distributed.communicator import Communicator
from gam_kg.graph.fact_source import SLAB_ROWS
from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph

# The queries of this many snapshots are gathered at once: a small message costs as much as a large one.
_SNAPSHOTS_AHEAD = 16


def read_snapshots(graph: TemporalGraph, times: Sequence[int], communicator: Communicator) -> Iterator[Snapshot]:
    """Snapshots of ascending times. A collective: all ranks read the same snapshots in the same order."""
    found = graph.read(times)
    if communicator.world_size == 1:
        yield from found
        return
    for number in _group_sizes(graph, times):
        own = list(islice(found, number))
        rows = communicator.gather(torch.cat([_query_rows(snapshot) for snapshot in own]), "queries").T
        yield from (replace(one, gathered=Queries.of(one.time, rows[1:, rows[0] == one.time])) for one in own)


def _group_sizes(graph: TemporalGraph, times: Sequence[int]) -> Iterator[int]:
    """How many snapshots' queries are gathered at once, alike on all ranks: few where they have many rows."""
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


def _query_rows(snapshot: Snapshot) -> torch.Tensor:
    """Time, subject, relation and answer of a rank's rows, int64 (num_rows, 4)."""
    own = snapshot.own_queries
    subject, relation = own.subject[own.answer_query], own.relation[own.answer_query]
    return torch.stack([torch.full_like(subject, snapshot.time), subject, relation, own.answer], 1)
