"""Strata of queries: how much of an answer had been seen before it was asked for."""

from collections.abc import Callable

import torch
from torch import Tensor

from gam_kg.data.fact_source import Rows
from gam_kg.data.graph import TemporalGraph
from gam_kg.data.recency import LATER
from gam_kg.data.snapshot import Queries
from gam_kg.distributed.topology import Topology
from gam_kg.schemas import STRATA


class Strata:
    """Tells answers whose very fact was seen before from those whose pair was, and from the rest.

    *recurrent*: (s, r, o) was a fact before t; *pair_only*: (s, o) was a pair before t, under other relations or the
    other way round; *cold*: neither.

    Args:
        graph: The rank's facts; only those before a query's time count for it.
        topology: The ranks; None for a world of one.
    """

    def __init__(self, graph: TemporalGraph, topology: Topology | None = None) -> None:
        self._partition, self._topology = graph.partition, topology or Topology()
        self._num_entities, self._num_relations = graph.num_entities, 2 * graph.num_relations
        self._fact = _FirstSeen(graph, lambda rows: self._fact_key(rows.other, rows.relation, rows.anchor))
        self._pair = _FirstSeen(graph, lambda rows: rows.other * self._num_entities + rows.anchor)

    def of(self, queries: Queries) -> Tensor:
        """Index into `schemas.STRATA` of each answer, int64 (num_answers,). A collective."""
        subject = queries.subject[queries.answer_query]
        relation = queries.relation[queries.answer_query]
        recurrent = self._fact.before(self._fact_key(subject, relation, queries.answer), queries.time)
        pair = self._pair.before(subject * self._num_entities + queries.answer, queries.time)
        stratum = torch.full_like(queries.answer, STRATA.index("cold"))
        stratum[pair] = STRATA.index("pair_only")
        stratum[recurrent] = STRATA.index("recurrent")
        # The owner of an answer has the facts that it was the answer to.
        stratum[~self._partition.owns(queries.answer)] = 0
        return self._topology.sum(stratum, "ranks")

    def _fact_key(self, subject: Tensor, relation: Tensor, other: Tensor) -> Tensor:
        return (subject * self._num_relations + relation) * self._num_entities + other


class _FirstSeen:
    """When each key of the rank's facts was first seen; facts of different anchors have different ones."""

    def __init__(self, graph: TemporalGraph, key: Callable[[Rows], Tensor]) -> None:
        none = torch.zeros(0, dtype=torch.int64, device=graph.device)
        found = [(none, none)]
        for rows in graph.facts.parts():
            keys, index = torch.unique(key(rows.to(graph.device)), return_inverse=True)
            first = torch.full_like(keys, LATER).scatter_reduce_(0, index, rows.time.to(graph.device), "amin")
            found.append((keys, first))
        keys, first = (torch.cat(columns) for columns in zip(*found, strict=True))
        order = torch.argsort(keys)
        self._key, self._first = keys[order], first[order]

    def before(self, key: Tensor, time: int) -> Tensor:
        if not len(self._key):
            return torch.zeros_like(key, dtype=torch.bool)
        position = torch.searchsorted(self._key, key).clamp(max=len(self._key) - 1)
        return (self._key[position] == key) & (self._first[position] < time)
