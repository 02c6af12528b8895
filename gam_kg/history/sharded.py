"""The history index over ranks: each has the past of its own candidates, limited to what the undivided index returns.

"The k most recent facts of s" are divided over the owners of their objects. Each rank finds the k most recent of its
own and sends when each was last seen and how often to one rank per group, which returns the k-th most recent overall;
each rank drops what is older. Everything sent depends on the data alone.
"""

from collections.abc import Iterator
from copy import deepcopy
from itertools import accumulate

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.graph.snapshot import Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.index import HistoryIndex
from gam_kg.history.recency import RecencyIndex, Recent, reaches, thresholds
from gam_kg.history.stored import StoredHistory


def build_history(
    graph: TemporalGraph, config: HistoryConfig, communicator: Communicator, stored: StoredHistory | None = None
) -> HistoryIndex:
    """The history index of a rank; for `stored` see `HistoryIndex`. A collective."""
    if communicator.world_size == 1:
        return HistoryIndex(graph, config, stored)
    return ShardedHistory(graph, config, communicator, stored)


def copy_history(history: HistoryIndex) -> HistoryIndex:
    """An index, in a world of one, that has the same snapshots and goes on by itself; what never changes is shared."""
    fixed: list[object] = [history.config, history.partition, history.facts.keys, history.answers.keys]
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

    def recent(self, *requests: tuple[RecencyIndex, Tensor, int]) -> list[Recent]:
        """Those of the most recent items of all ranks that are in the shard; see `HistoryIndex.recent`."""
        found = super().recent(*requests)
        first = accumulate((len(groups) for _, groups, _ in requests), initial=0)
        group = torch.cat([one.row + start for one, start in zip(found, first, strict=False)])
        limit = torch.cat([torch.full((len(groups),), limit) for _, groups, limit in requests])
        last, count = (torch.cat([getattr(one, name) for one in found]) for name in ("last", "count"))
        tie = torch.cat([index.tie(one.item) for one, (index, _, _) in zip(found, requests, strict=True)])
        items = torch.stack([group, last, count, tie], 1)
        masks = self.among_first(items, limit).split([len(one.row) for one in found])
        return [one.where(mask) for one, mask in zip(found, masks, strict=True)]

    def among_first(self, items: Tensor, limit: Tensor) -> Tensor:
        mask = super().among_first(items, limit)
        items = items[mask]
        sent = self._communicator.send_rows(items, items[:, 0] % self._communicator.world_size, "history")
        least = self._communicator.max(thresholds(sent, limit), "history")
        return mask.masked_scatter_(mask.clone(), reaches(items, least))

    def sum(self, value: Tensor) -> Tensor:
        return self._communicator.sum(value, "history")

    def max(self, value: Tensor) -> Tensor:
        return self._communicator.max(value, "history")

    def gather(self, rows: Tensor) -> Tensor:
        return self._communicator.gather(rows, "history")

    def _snapshots(self, graph: TemporalGraph) -> Iterator[Snapshot]:
        return read_snapshots(graph, graph.times, self._communicator)
