"""The history index over ranks: each has the past of its own candidates, cut where the whole index would cut.

"The k most recent facts of s" are spread over the owners of their objects. The owner of s has all of s's facts too, as
s's own anchored facts: it finds the least of the k, and that is all that the other ranks have to be told. Relations
are given owners for the same purpose. Everything sent here depends on the data alone.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.data.graph import TemporalGraph
from gam_kg.data.history import HistoryIndex
from gam_kg.data.look_up import Asked, Hops, Reach
from gam_kg.data.ragged import distinct, distinct_index
from gam_kg.data.recency import Cut, RecencyIndex, Recent
from gam_kg.data.snapshot import Moment
from gam_kg.distributed.moments import read_moments
from gam_kg.distributed.own_past import OwnPast, OwnQueries, OwnRelations, OwnSubjects, own_fact_keys
from gam_kg.distributed.topology import Topology

# Plans depend on the data alone: this much of them is kept from epoch to epoch.
KEPT_BYTES = 256 * 2**20
_NOTHING = torch.iinfo(torch.int64).min


def build_history(graph: TemporalGraph, config: HistoryConfig, topology: Topology) -> HistoryIndex:
    """The history index of a rank. A collective."""
    return HistoryIndex(graph, config) if topology.world_size == 1 else ShardedHistory(graph, config, topology)


class ShardedHistory(HistoryIndex):
    """The history of a rank's candidates among several ranks; every look-up that was not planned is a collective.

    Args:
        graph: The rank's facts.
        config: Which parts to look up, and how far back.
        topology: The ranks.
    """

    def __init__(self, graph: TemporalGraph, config: HistoryConfig, topology: Topology) -> None:
        super().__init__(graph, config)
        self._graph, self._topology, self._num_entities = graph, topology, graph.num_entities
        self._plans: dict[int, _Plan] = {}
        self._kept: dict[int, _Plan] = {}
        self._room = KEPT_BYTES
        keys = graph.distinct(lambda rows: own_fact_keys(rows, graph))
        # The ends of paths are planned after their starts are known to all, so their past is kept apart.
        self._starts = OwnQueries(keys, graph)
        self._ends = OwnSubjects(keys, graph)
        self._relations = OwnRelations(graph, topology)

    @property
    def _parts(self) -> tuple[OwnPast, ...]:
        return self._starts, self._ends, self._relations

    def reset(self) -> None:
        super().reset()
        self._plans.clear()
        for part in self._parts:
            part.clear()

    def remember(self, moment: Moment) -> None:
        before = self.as_of
        super().remember(moment)
        self._plans.pop(moment.time, None)
        for part in self._parts:
            # A kept plan needs no past: what is behind stays behind until something else is asked.
            if part.as_of >= before and moment.time not in self._kept:
                part.remember(moment)

    def plan(self, moments: Sequence[Moment]) -> None:
        """Find out how far back to look for the queries of the next snapshots, all of them in two messages."""
        if all(moment.time in self._kept for moment in moments):
            return
        self._catch_up(moments[0].time)
        asked = {moment.time: Asked.of(moment.queries) for moment in moments if moment.time not in self._kept}
        found = []
        for moment in moments:
            if moment.time in asked:
                found.append(self._first_cuts(asked[moment.time]))
            self._starts.remember(moment)
            self._relations.remember(moment)
        first = dict(zip(asked, self._shared(found), strict=True))
        neighbours = {time: _neighbours(hops) for time, (*_, hops) in first.items()}
        found = []
        for moment in moments:
            if moment.time in asked:
                found.append([self._second_cut(neighbours[moment.time])])
            self._ends.remember(moment)
        second = dict(zip(asked, self._shared(found), strict=True))
        for time, one in asked.items():
            plan = self._plans[time] = _Plan.of(self, one, first[time], neighbours[time], *second[time])
            self._room -= plan.num_bytes
            if self._room >= 0:
                self._kept[time] = plan

    def reach(self, asked: Asked) -> Reach:
        time = asked.queries.time
        plan = self._plans.get(time) or self._kept.get(time)
        # A plan is of all that is before its snapshot; in the multi-step setting, less than that is seen.
        complete = bisect_left(self._graph.times, self.as_of) >= bisect_left(self._graph.times, time)
        if plan is None or not complete or not plan.covers(self.query_key(asked.queries)):
            self._catch_up(self.as_of)
            ((*cuts, hops),) = self._shared([self._first_cuts(asked)])
            near = _neighbours(hops)
            ((cut,),) = self._shared([[self._second_cut(near)]])
            plan = _Plan.of(self, asked, [*cuts, hops], near, cut)
        return plan.select(asked, self.query_key(asked.queries))

    def _catch_up(self, time: int) -> None:
        """Have all before a snapshot in the past of own entities and relations, and no more."""
        behind = min(part.as_of for part in self._parts)
        missing = [other for other in self._graph.times if behind <= other < time]
        for moment in read_moments(self._graph, missing, self._topology):
            for part in self._parts:
                part.remember(moment)
        assert all(part.as_of <= time for part in self._parts), "planned further ahead than is asked"

    def recent_facts(self, subjects: Tensor, limit: int) -> Recent:
        self._catch_up(self.as_of)
        mine = self._mine(subjects)
        ((cut,),) = self._shared([[_cuts(self._starts.by_subject, subjects, mine, limit)]])
        return self.by_subject.recent(subjects, _cut_of(cut, limit))

    def _first_cuts(self, asked: Asked) -> list[Tensor]:
        config, starts, mine = self.config, self._starts, self._mine(asked.subjects)
        key = distinct(self.query_key(asked.queries))
        relations_mine = asked.relations % self._topology.world_size == self._topology.rank
        return [
            _cuts(starts.by_subject, asked.subjects, mine, config.recent),
            _cuts(starts.by_query, key, self._mine(key // self._num_relations), config.same_relation),
            _cuts(self._relations.by_relation, asked.relations, relations_mine, config.popular),
            self._hops(asked, mine),
        ]

    def _second_cut(self, neighbours: Tensor) -> Tensor:
        return _cuts(self._ends.by_subject, neighbours, self._mine(neighbours), self.config.two_hop_second)

    def _mine(self, entities: Tensor) -> Tensor:
        return self._partition.owns(entities)

    def _hops(self, asked: Asked, mine: Tensor) -> Tensor:
        """First hops (relation, neighbour, last) of own subjects; int64 (num_subjects, two_hop_first, 3)."""
        limit = self.config.two_hop_first if self.config.two_hop_second else 0
        hops = torch.full((len(asked.subjects), limit, 3), _NOTHING, device=mine.device)
        found = self._starts.by_subject.recent(asked.subjects[mine], limit)
        length = torch.bincount(found.row, minlength=int(mine.sum()))
        column = torch.arange(len(found.row), device=mine.device) - (torch.cumsum(length, 0) - length)[found.row]
        relation, neighbour = found.item // self._num_entities, found.item % self._num_entities
        hops[torch.nonzero(mine)[found.row, 0], column] = torch.stack([relation, neighbour, found.last], 1)
        return hops

    def _shared(self, found: list[list[Tensor]]) -> list[list[Tensor]]:
        """What each row's owner has found, on all ranks."""
        parts = [part for one in found for part in one]
        if not parts:
            return found
        flat = self._topology.max(torch.cat([part.flatten() for part in parts]), "history")
        shared = iter(flat.split([part.numel() for part in parts]))
        return [[next(shared).view(part.shape) for part in one] for one in found]


@dataclass(frozen=True)
class _Plan:
    """How far back to look for the queries of a snapshot.

    Groups are ascending: distinct subjects, query keys, relations and neighbours. Of each there are columns of a `Cut`,
    int64 (num_groups, 3), and of each subject its first hops.
    """

    config: HistoryConfig
    subjects: Tensor
    queries: Tensor
    relations: Tensor
    recent: Tensor
    same_relation: Tensor
    popular: Tensor
    hops: Tensor
    neighbours: Tensor
    second: Tensor

    @classmethod
    def of(
        cls, history: HistoryIndex, asked: Asked, first: list[Tensor], neighbours: Tensor, second: Tensor
    ) -> "_Plan":
        key = distinct(history.query_key(asked.queries))
        return cls(history.config, asked.subjects, key, asked.relations, *first, neighbours, second)

    @property
    def num_bytes(self) -> int:
        return sum(value.numel() * value.element_size() for value in vars(self).values() if isinstance(value, Tensor))

    def covers(self, key: Tensor) -> bool:
        """Whether it was made for queries of these keys, among others."""
        if not len(self.queries):
            return not len(key)
        found = torch.searchsorted(self.queries, key).clamp(max=len(self.queries) - 1)
        return bool((self.queries.index_select(0, found) == key).all())

    def select(self, asked: Asked, key: Tensor) -> Reach:
        """For some of the queries; `key` is their `HistoryIndex.query_key`."""
        config, subject = self.config, torch.searchsorted(self.subjects, asked.subjects)
        recent = _cut_of(self.recent[subject], config.recent)
        same_relation = _cut_of(self.same_relation[torch.searchsorted(self.queries, key)], config.same_relation)
        popular = _cut_of(self.popular[torch.searchsorted(self.relations, asked.relations)], config.popular)
        found = self.hops[subject]
        if not found.shape[1]:
            return Reach(recent, same_relation, popular, None, None, 0)
        row, column = torch.nonzero(found[..., 0] != _NOTHING, as_tuple=True)
        hops = Hops(row, *found[row, column].unbind(1))
        neighbours, neighbour_row = distinct_index(hops.neighbour)
        second = self.second[torch.searchsorted(self.neighbours, neighbours)]
        return Reach(
            recent, same_relation, popular, hops, (neighbours, neighbour_row), _cut_of(second, config.two_hop_second)
        )


def _cuts(whole: RecencyIndex, groups: Tensor, mine: Tensor, limit: int) -> Tensor:
    """Cuts of the groups whose facts are all here; int64 (num_groups, 3)."""
    cuts = torch.full((len(groups), 3), _NOTHING, device=groups.device)
    cut = whole.cut(groups[mine], limit)
    cuts[mine] = torch.stack([cut.last, cut.count, cut.tie], 1)
    return cuts


def _cut_of(columns: Tensor, limit: int) -> Cut:
    return Cut(*columns.unbind(1), limit)


def _neighbours(hops: Tensor) -> Tensor:
    return torch.unique(hops[..., 1][hops[..., 0] != _NOTHING])
