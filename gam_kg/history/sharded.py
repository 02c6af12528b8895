"""The history index over ranks: each has the past of its own candidates, limited to what the undivided index returns.

"The k most recent facts of s" are divided over the owners of their objects. Each rank finds the k most recent of its
own and sends when each was last seen and how often to one rank per group, which returns the k-th most recent overall;
each rank drops what is older. Everything sent depends on the data alone.
"""

from itertools import accumulate

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.graph.snapshot import lexical_order
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.index import HistoryIndex
from gam_kg.history.recency import RecencyIndex, Recent

_LEAST = torch.iinfo(torch.int64).min


def build_history(graph: TemporalGraph, config: HistoryConfig, communicator: Communicator) -> HistoryIndex:
    """The history index of a rank."""
    if communicator.world_size == 1:
        return HistoryIndex(graph, config)
    return ShardedHistory(graph, config, communicator)


class ShardedHistory(HistoryIndex):
    """The history of a rank's candidates among several ranks; every look-up is a collective.

    Args:
        graph: The rank's facts.
        config: Which parts to look up, and how far back.
        communicator: The ranks.
    """

    def __init__(self, graph: TemporalGraph, config: HistoryConfig, communicator: Communicator) -> None:
        super().__init__(graph, config)
        self._communicator = communicator

    def recent(self, *requests: tuple[RecencyIndex, Tensor, int]) -> list[Recent]:
        """Those of the most recent items of all ranks that are in the shard; see `HistoryIndex.recent`."""
        found = super().recent(*requests)
        first = accumulate((len(groups) for _, groups, _ in requests), initial=0)
        group = torch.cat([one.row + start for one, start in zip(found, first, strict=False)])
        limit = torch.cat([torch.full((len(groups),), limit) for _, groups, limit in requests])
        last, count = (torch.cat([getattr(one, name) for one in found]) for name in ("last", "count"))
        tie = torch.cat([index.tie(one.item) for one, (index, _, _) in zip(found, requests, strict=True)])
        items = torch.stack([group, last, count, tie], 1)
        sent = self._communicator.send_rows(items, group % self._communicator.world_size, "history")
        least = self._communicator.max(thresholds(sent, limit), "history")
        masks = reaches(items, least).split([len(one.row) for one in found])
        return [one.where(mask) for one, mask in zip(found, masks, strict=True)]

    def sum(self, value: Tensor) -> Tensor:
        return self._communicator.sum(value, "history")

    def gather(self, rows: Tensor) -> Tensor:
        return self._communicator.gather(rows, "history")


def thresholds(items: Tensor, limit: Tensor) -> Tensor:
    """The (last, count, tie) of each group's k-th most recent item, k being its limit.

    Args:
        items: Group, last, count and tie, int64 (num_items, 4).
        limit: Items per group, int64 (num_groups,).

    Returns:
        int64 (num_groups, 3), the least there can be for a group with no more than `limit` items.
    """
    length = torch.bincount(items[:, 0], minlength=len(limit))
    crowded = length > limit
    items = items[crowded[items[:, 0]]]
    items = items[lexical_order(*items.T)]
    end = torch.cumsum(torch.where(crowded, length, 0), 0)
    least = torch.full((len(limit), 3), _LEAST)
    least[crowded] = items[(end - limit)[crowded], 1:]
    return least


def reaches(items: Tensor, least: Tensor) -> Tensor:
    """Whether items reach their group's threshold, bool (num_items,); see `thresholds`."""
    (_, last, count, tie), (least_last, least_count, least_tie) = items.T, least[items[:, 0]].T
    by_count = (count > least_count) | (count == least_count) & (tie >= least_tie)
    return (last > least_last) | (last == least_last) & by_count
