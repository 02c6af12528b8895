"""Plans of the history kept from epoch to epoch: in training, the past of a snapshot is the same in each."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from gam_kg.data.snapshot import Queries
from gam_kg.nn.history_plan import HistoryPlan

KEPT_PLAN_BYTES = 512 * 2**20
"""This much of the plans is kept; those of later snapshots are made anew in each epoch."""

_NARROW = (torch.uint8, torch.int16, torch.int32)


class KeptPlans:
    """Plans by snapshot, each number in as few bytes as its tensor allows, which is a fifth of what they take in use.

    All plans are of all that is before their snapshot.

    Args:
        max_bytes: How much is kept.
    """

    def __init__(self, max_bytes: int = KEPT_PLAN_BYTES) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor, HistoryPlan]] = {}
        self._room = max_bytes

    def find(self, queries: Queries) -> HistoryPlan | None:
        """The plan for just these queries, if it was kept."""
        if queries.time not in self._kept:
            return None
        subject, relation, plan = self._kept[queries.time]
        if not torch.equal(subject, queries.subject) or not torch.equal(relation, queries.relation):
            return None
        return _mapped(plan, Tensor.long)

    def keep(self, queries: Queries, plan: HistoryPlan) -> None:
        """Keep a plan if there is room and none is kept of its snapshot."""
        if self._room <= 0 or queries.time in self._kept:
            return
        narrow = _mapped(plan, _narrowed)
        self._room -= _num_bytes(narrow) + queries.subject.nbytes + queries.relation.nbytes
        if self._room >= 0:
            self._kept[queries.time] = queries.subject, queries.relation, narrow


def _narrowed(value: Tensor) -> Tensor:
    """The same integers in the narrowest type that has them all."""
    if not len(value):
        return value.to(torch.uint8)
    low, high = (int(end) for end in torch.aminmax(value))
    fitting = (dtype for dtype in _NARROW if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max)
    return value.to(next(fitting, torch.int64))


def _num_bytes(plan: HistoryPlan) -> int:
    total = 0

    def count(value: Tensor) -> Tensor:
        nonlocal total
        total += value.numel() * value.element_size()
        return value

    _mapped(plan, count)
    return total


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested dataclasses and tuples with all tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_mapped(each, change) for each in value)
    if is_dataclass(value):
        return type(value)(*(_mapped(getattr(value, field.name), change) for field in fields(value)))
    return value
