"""With which facts a path of two facts may end."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gam_kg.history.recency import Recent
from gam_kg.ops.ragged import last_of_each, sort_with_positions

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
    found = history.look_up(history.by_subject, neighbours, max(limit, wider))
    if wider > limit:
        is_end = last_of_each(found.row, len(neighbours), limit)
        relation, order = sort_with_positions(found.row * history.num_relations + found.item // history.width)
        is_newest = torch.ones_like(is_end)
        torch.ne(relation[1:], relation[:-1], out=is_newest[:-1])
        found = found.where(is_end.index_fill_(0, order[is_newest], True))
    return history.deliver((history.by_subject, len(neighbours), found))[0]
