"""With which facts a path of two facts may end."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gam_kg.history.recency import Recent
from gam_kg.ops.ragged import unique

if TYPE_CHECKING:
    from gam_kg.history.index import HistoryIndex


def path_ends(history: "HistoryIndex", neighbours: Tensor) -> Recent:
    """The most recent facts of neighbours, and the newest of each relation among some more. A collective.

    The present state of an entity is often the newest fact of a relation, which is not among the most recent facts of
    an entity that has many.

    Args:
        history: Where to look.
        neighbours: int64 (num_neighbours,).
    """
    limit, wider = history.config.two_hop_second, history.config.two_hop_newest
    found, nearest = history.recent(
        (history.by_subject, neighbours, max(limit, wider)), (history.by_subject, neighbours, limit)
    )
    if wider <= limit:
        return nearest
    relation = found.row * history.num_relations + found.item // history.num_rows
    relations = unique(history.gather(unique(relation)[:, None])[:, 0])  # numbered alike on all ranks
    group = torch.searchsorted(relations, relation)
    items = torch.stack([group, found.last, found.count, history.by_subject.tie(found.item)], 1)
    newest = history.among_first(items, torch.ones_like(relations))
    return found.where(newest | torch.isin(found.place, nearest.place))
