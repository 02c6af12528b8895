"""Strata of queries: whether an answer was seen with the query, or with its subject, before its snapshot."""

from collections.abc import Callable

import torch
from torch import Tensor

from gam_kg.graph.fact_source import Rows
from gam_kg.graph.snapshot import Queries
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.schemas import STRATA

_NEVER = torch.iinfo(torch.int64).max


class Strata:
    """Assigns answers of (s, r, ?) at t to strata.

    *recurrent*: (s, r, o) was a fact before t; *pair_only*: (s, o) was a pair before t, under other relations or in the
    other direction only; *cold*: neither.

    Args:
        graph: The rank's facts.
        total: Sums over the ranks, in place.
    """

    def __init__(self, graph: TemporalGraph, total: Callable[[Tensor], Tensor] = lambda value: value) -> None:
        self._partition, self._total = graph.partition, total
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
        # The facts with an answer as anchor are on its owner.
        stratum[~self._partition.owns(queries.answer)] = 0
        return self._total(stratum)

    def _fact_key(self, subject: Tensor, relation: Tensor, other: Tensor) -> Tensor:
        return (subject * self._num_relations + relation) * self._num_entities + other


class _FirstSeen:
    """When each key of the rank's facts was first seen; facts of different anchors have different ones."""

    def __init__(self, graph: TemporalGraph, key: Callable[[Rows], Tensor]) -> None:
        never = torch.tensor([_NEVER])
        found = [(never, never)]  # a last key, so that every position below is one
        for rows in graph.facts.parts():
            keys, index = torch.unique(key(rows), return_inverse=True)
            first = torch.full_like(keys, _NEVER).scatter_reduce_(0, index, rows.time, "amin")
            found.append((keys, first))
        keys, first = (torch.cat(columns) for columns in zip(*found, strict=True))
        order = torch.argsort(keys)
        self._key, self._first = keys[order], first[order]

    def before(self, key: Tensor, time: int) -> Tensor:
        position = torch.searchsorted(self._key, key)
        return (self._key[position] == key) & (self._first[position] < time)
