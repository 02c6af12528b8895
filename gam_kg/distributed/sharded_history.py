"""The history index over ranks: each has the past of its own candidates, cut where the whole index would cut.

"The k most recent facts of s" are spread over the owners of their objects. The owner of s has all of s's facts too, as
s's own anchored facts: it finds the least of the k, and that is all that the other ranks have to be told. Relations
are given owners for the same purpose. Everything sent here depends on the data alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.data.graph import Queries, TemporalGraph
from gam_kg.data.history import Asked, HistoryIndex, Hops, Reach
from gam_kg.data.recency import Cut, RecencyIndex, Recent
from gam_kg.distributed.topology import Topology

# Plans depend on the data alone: this much of them is kept from epoch to epoch.
_KEPT_BYTES = 256 * 2**20
_NOTHING = torch.iinfo(torch.int64).min


def build_history(graph: TemporalGraph, config: HistoryConfig, topology: Topology) -> HistoryIndex:
    """The history index of a rank."""
    return HistoryIndex(graph, config) if topology.world_size == 1 else ShardedHistory(graph, config, topology)


class ShardedHistory(HistoryIndex):
    """The history of a rank's candidates among several ranks; every look-up is a collective.

    Args:
        graph: The rank's facts.
        config: Which parts to look up, and how far back.
        topology: The ranks.
    """

    def __init__(self, graph: TemporalGraph, config: HistoryConfig, topology: Topology) -> None:
        super().__init__(graph, config)
        self._partition, self._topology = graph.partition, topology
        self._planned: dict[tuple[int, int], _Plan] = {}
        self._kept: dict[int, _Plan] = {}
        self._room = _KEPT_BYTES
        self._num_entities = num_entities = graph.num_entities
        subject, answer, time = graph.anchor, graph.other, graph.time
        relation = graph.inverse(graph.relation)

        def fact_tie(item: Tensor) -> Tensor:
            return graph.fact_tie(item // num_entities, item % num_entities)

        self._whole_by_subject = RecencyIndex(subject, relation * num_entities + answer, time, fact_tie)
        self._whole_by_query = RecencyIndex(subject * self._num_relations + relation, answer, time, graph.answer_tie)
        by_relation = self._sent_to_owner_of_relation(graph)
        self._whole_by_relation = RecencyIndex(*by_relation, graph.answer_tie)

    def plan(self, queries: Sequence[Queries]) -> None:
        """Find out how far back to look for the queries of some snapshots, all of them in two messages."""
        asked = [Asked.of(one, None) for one in queries if one.time not in self._kept]
        self._planned = dict(zip([(one.queries.time, one.as_of) for one in asked], self._reaches(asked), strict=True))
        for one, plan in zip(asked, self._planned.values(), strict=True):
            self._room -= plan.num_bytes
            if self._room >= 0:
                self._kept[one.queries.time] = plan

    def reach(self, asked: Asked) -> Reach:
        plan = self._kept.get(asked.queries.time) if asked.as_of == asked.queries.time else None
        plan = plan or self._planned.get((asked.queries.time, asked.as_of))
        if plan is None:
            (plan,) = self._reaches([asked])
        return plan.select(asked, self.query_key(asked.queries))

    def _reaches(self, asked: Sequence[Asked]) -> list["_Plan"]:
        """How far back to look for each of some sets of queries. A collective."""
        if not asked:
            return []
        config = self.config
        keys, parts = [], []
        for one in asked:
            mine = self._mine(one.subjects)
            relations_mine = self._owner_of_relation(one.relations) == self._topology.rank
            key = torch.unique(self.query_key(one.queries))
            keys.append(key)
            queries_mine = self._mine(key // self._num_relations)
            parts += [
                self._cut(self._whole_by_subject, one.subjects, mine, one.as_of, config.recent),
                self._cut(self._whole_by_query, key, queries_mine, one.as_of, config.same_relation),
                self._cut(self._whole_by_relation, one.relations, relations_mine, one.as_of, config.popular),
                self._hops(one, mine),
            ]
        found = self._shared(parts)
        neighbours = [torch.unique(hops[..., 1][hops[..., 0] != _NOTHING]) for hops in found[3::4]]
        second = self._shared(
            [
                self._cut(self._whole_by_subject, one, self._mine(one), each.as_of, config.two_hop_second)
                for each, one in zip(asked, neighbours, strict=True)
            ]
        )
        return [
            _Plan(one.subjects, key, one.relations, *found[4 * i : 4 * i + 4], *ends)
            for i, (one, key, *ends) in enumerate(zip(asked, keys, neighbours, second, strict=True))
        ]

    def recent_facts(self, subjects: Tensor, as_of: int, limit: int) -> Recent:
        return self.by_subject.recent(subjects, as_of, self._shared_cut(subjects, as_of, limit))

    def _mine(self, entities: Tensor) -> Tensor:
        return self._partition.owns(entities)

    def _owner_of_relation(self, relations: Tensor) -> Tensor:
        return relations % self._topology.world_size

    def _shared_cut(self, subjects: Tensor, as_of: int, limit: int) -> Cut:
        (cut,) = self._shared([self._cut(self._whole_by_subject, subjects, self._mine(subjects), as_of, limit)])
        return _cut_of(cut)

    def _cut(self, whole: RecencyIndex, groups: Tensor, mine: Tensor, as_of: int, limit: int) -> Tensor:
        """Cuts of the groups whose facts are all here; int64 (num_groups, 3)."""
        cuts = torch.full((len(groups), 3), _NOTHING, device=groups.device)
        cut = whole.cut(groups[mine], as_of, limit)
        cuts[mine] = torch.stack([cut.last, cut.count, cut.tie], 1)
        return cuts

    def _hops(self, asked: Asked, mine: Tensor) -> Tensor:
        """First hops (relation, neighbour, last) of own subjects; int64 (num_subjects, two_hop_first, 3)."""
        limit = self.config.two_hop_first if self.config.two_hop_second else 0
        hops = torch.full((len(asked.subjects), limit, 3), _NOTHING, device=mine.device)
        found = self._whole_by_subject.recent(asked.subjects[mine], asked.as_of, limit)
        length = torch.bincount(found.row, minlength=int(mine.sum()))
        column = torch.arange(len(found.row), device=mine.device) - (torch.cumsum(length, 0) - length)[found.row]
        relation, neighbour = found.item // self._num_entities, found.item % self._num_entities
        hops[torch.nonzero(mine)[found.row, 0], column] = torch.stack([relation, neighbour, found.last], 1)
        return hops

    def _shared(self, parts: list[Tensor]) -> list[Tensor]:
        """What each row's owner has found, on all ranks."""
        flat = self._topology.max(torch.cat([part.flatten() for part in parts]), "history")
        return [one.view(part.shape) for one, part in zip(flat.split([p.numel() for p in parts]), parts, strict=True)]

    def _sent_to_owner_of_relation(self, graph: TemporalGraph) -> tuple[Tensor, Tensor, Tensor]:
        """The distinct (relation, candidate, snapshot) of the relations that this rank owns, from all ranks."""
        rows = torch.unique(torch.stack([graph.relation, graph.anchor, graph.time], 1), dim=0)
        owner = self._owner_of_relation(rows[:, 0])
        world_size, rank = self._topology.world_size, self._topology.rank
        counts = torch.zeros(world_size, world_size, dtype=torch.int64, device=rows.device)
        counts[rank] = torch.bincount(owner, minlength=world_size)
        counts = self._topology.sum(counts, "history").tolist()
        receive = [row[rank] for row in counts]
        rows = rows[torch.argsort(owner, stable=True)]
        relation, candidate, time = self._topology.all_to_all(rows, counts[rank], receive, "history").unbind(1)
        return relation, candidate, time


@dataclass(frozen=True)
class _Plan:
    """How far back to look for the queries of a snapshot: cuts, int64 (num_groups, 3), by ascending group."""

    subjects: Tensor
    queries: Tensor
    relations: Tensor
    recent: Tensor
    same_relation: Tensor
    popular: Tensor
    hops: Tensor
    neighbours: Tensor
    second: Tensor

    @property
    def num_bytes(self) -> int:
        return sum(value.numel() * value.element_size() for value in vars(self).values())

    def select(self, asked: Asked, key: Tensor) -> Reach:
        """For some of the queries; `key` is their `HistoryIndex.query_key`."""
        subject = torch.searchsorted(self.subjects, asked.subjects)
        recent = _cut_of(self.recent[subject])
        same_relation = _cut_of(self.same_relation[torch.searchsorted(self.queries, key)])
        popular = _cut_of(self.popular[torch.searchsorted(self.relations, asked.relations)])
        found = self.hops[subject]
        if not found.shape[1]:
            return Reach(recent, same_relation, popular, None, None, 0)
        row, column = torch.nonzero(found[..., 0] != _NOTHING, as_tuple=True)
        hops = Hops(row, *found[row, column].unbind(1))
        neighbours, neighbour_row = torch.unique(hops.neighbour, return_inverse=True)
        second = _cut_of(self.second[torch.searchsorted(self.neighbours, neighbours)])
        return Reach(recent, same_relation, popular, hops, (neighbours, neighbour_row), second)


def _cut_of(columns: Tensor) -> Cut:
    return Cut(*columns.unbind(1))
