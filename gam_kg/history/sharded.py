"""The history index over ranks: each has the past of its own candidates, limited to what the undivided index returns.

"The k most recent facts of s" are found by the owner of s, who has all of them as the inverses of the facts that s
answers, and are sent to the owners of their objects. Of a relation, or of a rule's body, no rank has all answers: each
finds the first k of its own, and where those of all ranks are more than k, sends them to one rank per group, which
returns the k-th of all; each rank drops what comes after. Everything sent depends on the data alone.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.graph.snapshot import Snapshot, inverse_relation
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.index import HistoryIndex
from gam_kg.history.recency import RecencyIndex, Recent, SeenKeys, reaches, thresholds
from gam_kg.history.stored import StoredHistory
from gam_kg.ops.ragged import places_in, sort_with_positions, true_positions


def build_history(
    graph: TemporalGraph, config: HistoryConfig, communicator: Communicator, stored: StoredHistory | None = None
) -> HistoryIndex:
    """The history index of a rank; for `stored` see `HistoryIndex`. A collective."""
    if communicator.world_size == 1:
        return HistoryIndex(graph, config, stored)
    return ShardedHistory(graph, config, communicator, stored)


def copy_history(history: HistoryIndex) -> HistoryIndex:
    """An index, in a world of one, that has the same snapshots and goes on by itself; what never changes is shared."""
    tables = history.facts, history.answers, history.of_subjects
    fixed: list[object] = [history.config, history.partition, *(table.keys for table in tables)]
    fixed += [] if history.rules is None else history.rules.fixed
    fixed += [] if history.pair_rules is None else history.pair_rules.fixed
    return deepcopy(history, {id(one): one for one in fixed})


class ShardedHistory(HistoryIndex):
    """The history of a rank's candidates among several ranks; every look-up is a collective.

    Args:
        graph: The rank's facts.
        config: Which parts to look up, and how far back.
        communicator: The ranks.
        stored: See `HistoryIndex`.
    """

    def __init__(
        self,
        graph: TemporalGraph,
        config: HistoryConfig,
        communicator: Communicator,
        stored: StoredHistory | None = None,
    ) -> None:
        self._communicator = communicator  # which the rules need at once
        super().__init__(graph, config, stored)

    def look_up(self, index: RecencyIndex, groups: Tensor, limit: int | None) -> Recent:
        subject = groups if index is self.by_subject else groups // self.num_relations
        own = true_positions(self.partition.owns(subject))
        found = index.recent(groups.index_select(0, own), limit)
        return replace(found, row=own.index_select(0, found.row))

    def deliver(self, *found: tuple[RecencyIndex | None, int, Recent]) -> list[Recent]:
        world_size = self._communicator.world_size
        first = list(accumulate((number for _, number, _ in found), initial=0))
        rows, owner = [], []
        for start, (index, _, one) in zip(first, found, strict=False):
            key = self.of_subjects.keys.index_select(0, one.place)
            columns = torch.stack([one.row + start, key, one.last, one.count], 1)
            to_all = torch.arange(world_size).repeat_interleave(len(key))
            rows.append(columns.repeat(world_size, 1) if index is None else columns)
            owner.append(to_all if index is None else self.partition.owner(key % self.width))
        received = self._communicator.send_rows(torch.cat(rows), torch.cat(owner), "history")
        # What is found of a group comes from one rank, so that it stays in order.
        group, order = sort_with_positions(received[:, 0].contiguous())
        columns = group, *received.index_select(0, order)[:, 1:].T.contiguous()
        bounds = torch.searchsorted(group, torch.tensor(first)).tolist()
        return [
            self._received(index, start, *(column[begin:end] for column in columns))
            for (index, _, _), start, begin, end in zip(found, first, bounds, bounds[1:], strict=False)
        ]

    def _received(
        self, index: RecencyIndex | None, start: int, group: Tensor, key: Tensor, last: Tensor, count: Tensor
    ) -> Recent:
        """Facts that were delivered, given by group, of which `start` is the first, and key in `of_subjects`."""
        row, query, answer = group - start, key // self.width, key % self.width
        if index is None:
            item = query % self.num_relations * self.width + answer
            return Recent(row, item, last, count, torch.full_like(key, -1))
        answer = self.partition.rows(answer)
        item = answer if index is self.by_query else query % self.num_relations * self.num_rows + answer
        return Recent(row, item, last, count, places_in(self.facts.keys, query * self.num_rows + answer))

    def popular(self, relations: Tensor, limit: int) -> Recent:
        found = super().popular(relations, limit)
        if limit >= self.num_entities:
            return found
        items = torch.stack([found.row, found.last, found.count, self.by_relation.tie(found.item)], 1)
        return found.where(self.among_first(items, torch.full_like(relations, limit)))

    def among_first(self, items: Tensor, limit: Tensor) -> Tensor:
        communicator, group, numbers = self._communicator, items[:, 0], len(limit)
        is_first = super().among_first(items, limit)  # of the rank's own; more than `limit` of a group where they tie
        own = torch.stack([torch.bincount(rows, minlength=numbers) for rows in (group, group[is_first])])
        lengths, num_first = communicator.gather_even(own[None], "history").unbind(1)  # (world_size, num_groups) each
        crowded = true_positions(lengths.sum(0) > limit)
        if not len(crowded):
            return is_first
        number = torch.full_like(limit, -1).index_copy_(0, crowded, torch.arange(len(crowded))).index_select(0, group)
        at = true_positions(is_first & (number >= 0))
        sent = items.index_select(0, at)
        sent[:, 0] = number.index_select(0, at)
        counts = torch.zeros(len(lengths), len(lengths), dtype=torch.int64)
        counts.index_add_(1, torch.arange(len(crowded)) % len(lengths), num_first[:, crowded])
        received = communicator.send_rows(sent, sent[:, 0] % len(lengths), "history", counts)
        least = communicator.max(thresholds(received, limit[crowded]), "history")
        return is_first.index_copy_(0, at, reaches(sent, least))

    def restore_of_subjects(self, places: Tensor) -> Tensor:
        facts, table = self.facts, self.of_subjects
        keys, order = sort_with_positions(self._inverse(facts.keys.index_select(0, places)))
        found, places = torch.searchsorted(table.keys, keys), places.index_select(0, order)
        table.last.index_copy_(0, found, facts.last.index_select(0, places))
        table.count.index_copy_(0, found, facts.count.index_select(0, places))
        return found

    def _facts_of_subjects(self) -> tuple[SeenKeys, int, Callable[[Tensor], Tensor]]:
        keys, _ = sort_with_positions(self._inverse(self.facts.keys))
        return SeenKeys(keys), max(1, self.num_entities), lambda answer: answer

    def _insert_of_subjects(self, snapshot: Snapshot) -> Tensor:
        query = snapshot.anchor * self.num_relations + inverse_relation(snapshot.relation, snapshot.num_relations)
        places = self.of_subjects.places(query * self.width + snapshot.other)
        self.of_subjects.insert(places, snapshot.time)
        return places

    def _inverse(self, keys: Tensor) -> Tensor:
        """Keys in `of_subjects` of the inverses of facts, given by their keys in `facts`."""
        query, subject = keys // self.num_rows, self.partition.ids[keys % self.num_rows]
        relation = inverse_relation(query % self.num_relations, self.num_relations // 2)
        return (subject * self.num_relations + relation) * self.num_entities + query // self.num_relations

    def sum(self, value: Tensor) -> Tensor:
        return self._communicator.sum(value, "history")

    def gather(self, rows: Tensor) -> Tensor:
        return self._communicator.gather(rows, "history")

    def _snapshots(self, graph: TemporalGraph) -> Iterator[Snapshot]:
        return read_snapshots(graph, graph.times, self._communicator)
