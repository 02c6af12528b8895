"""Nested records of tensors (data classes and tuples): one change for all tensors in them."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Record = TypeVar("Record")
Part = TypeVar("Part")

NARROWEST = (torch.uint8, torch.int16, torch.int32, torch.int64)


def map_tensors(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """The record with all of its tensors changed; a list has none."""
    return map_parts(record, Tensor, change)


def map_parts(record: Any, kind: type[Part] | tuple[type[Part], ...], change: Callable[[Part], Any]) -> Any:
    """The record with all of its parts of one type, or of several, changed."""
    if isinstance(record, kind):
        return change(record)
    if isinstance(record, tuple):
        return tuple(map_parts(each, kind, change) for each in record)
    if is_dataclass(record):
        parts = {field.name: map_parts(getattr(record, field.name), kind, change) for field in fields(record)}
        return type(record)(**parts)
    return record


def parts_of(record: Any, kind: type[Part] | tuple[type[Part], ...]) -> list[Part]:
    """The parts of one type, or of several, in a record."""
    found: list[Part] = []
    map_parts(record, kind, found.append)
    return found


def narrowed(record: Record) -> Record:
    """The record with each tensor of integers in the first type of `NARROWEST` that fits its values."""

    def narrow(value: Tensor) -> Tensor:
        if value.dtype not in NARROWEST:
            return value
        low, high = (int(end) for end in torch.aminmax(value)) if value.numel() else (0, 0)
        fitting = (dtype for dtype in NARROWEST if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max)
        return value.to(next(fitting))

    return map_tensors(record, narrow)


def num_bytes(record: Any) -> int:
    """Bytes of all tensors in a record."""
    return sum(value.nbytes for value in parts_of(record, Tensor))
