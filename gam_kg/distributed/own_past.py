"""The whole past of what a rank owns, wherever the answers are: what the cuts of its history are found in."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from gam_kg.data.fact_source import Rows
from gam_kg.data.graph import TemporalGraph
from gam_kg.data.recency import RecencyIndex, SeenKeys
from gam_kg.data.snapshot import Moment, Snapshot
from gam_kg.distributed.topology import Topology


def own_fact_keys(rows: Rows | Snapshot, graph: TemporalGraph) -> Tensor:
    """Keys of (anchor as subject, relation asked about, answer) of anchored facts, int64 (num_rows,)."""
    query = rows.anchor * 2 * graph.num_relations + graph.inverse(rows.relation)
    return query * graph.num_entities + rows.other


class OwnPast(ABC):
    """The whole past of what a rank owns, wherever the answers are; as `HistoryIndex`, it is told of snapshots."""

    def __init__(self, keys: Tensor) -> None:
        self.as_of = 0
        self._seen = SeenKeys(keys)
        self._indices: list[RecencyIndex] = []

    def clear(self) -> None:
        self.as_of = 0
        for part in (self._seen, *self._indices):
            part.clear()

    def remember(self, moment: Moment) -> None:
        """Have a snapshot in the past; one that already is changes nothing."""
        if moment.time < self.as_of:
            return
        self.as_of = moment.time + 1
        ids = self._seen.find(self._keys(moment))
        self._seen.add(ids, moment.time)
        for index in self._indices:
            index.add(ids)

    @abstractmethod
    def _keys(self, moment: Moment) -> Tensor:
        """Keys that are seen in a snapshot."""

    def _index(self, width: int, tie: Callable[[Tensor], Tensor]) -> RecencyIndex:
        self._indices.append(RecencyIndex(self._seen, width, tie))
        return self._indices[-1]


class OwnSubjects(OwnPast):
    """The facts of the rank's entities as subjects."""

    def __init__(self, keys: Tensor, graph: TemporalGraph) -> None:
        super().__init__(keys)
        self._graph, num_entities = graph, graph.num_entities

        def fact_tie(item: Tensor) -> Tensor:
            return graph.fact_tie(item // num_entities, item % num_entities)

        self.by_subject = self._index(2 * graph.num_relations * num_entities, fact_tie)

    def _keys(self, moment: Moment) -> Tensor:
        return own_fact_keys(moment.snapshot, self._graph)


class OwnQueries(OwnSubjects):
    """The same, also by (subject, relation)."""

    def __init__(self, keys: Tensor, graph: TemporalGraph) -> None:
        super().__init__(keys, graph)
        self.by_query = self._index(graph.num_entities, graph.answer_tie)


class OwnRelations(OwnPast):
    """The answers of the rank's relations. Making it is a collective."""

    def __init__(self, graph: TemporalGraph, topology: Topology) -> None:
        self._num_entities, self._topology = graph.num_entities, topology
        keys = graph.distinct(lambda rows: rows.relation * graph.num_entities + rows.anchor)
        super().__init__(torch.unique(self._sent_to_owners(keys)))
        self.by_relation = self._index(graph.num_entities, graph.answer_tie)

    def _keys(self, moment: Moment) -> Tensor:
        queries = moment.queries
        key = queries.relation[queries.answer_query] * self._num_entities + queries.answer
        return key[self._owner(key) == self._topology.rank]

    def _owner(self, key: Tensor) -> Tensor:
        return key // self._num_entities % self._topology.world_size

    def _sent_to_owners(self, keys: Tensor) -> Tensor:
        owner, (world_size, rank) = self._owner(keys), (self._topology.world_size, self._topology.rank)
        counts = torch.zeros(world_size, world_size, dtype=torch.int64, device=keys.device)
        counts[rank] = torch.bincount(owner, minlength=world_size)
        counts = self._topology.sum(counts, "history").tolist()
        keys = keys[torch.argsort(owner, stable=True)]
        return self._topology.all_to_all(keys, counts[rank], [row[rank] for row in counts], "history")
