"""Nested records of tensors (data classes and tuples): one change for all tensors in them."""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Record = TypeVar("Record")

INT32 = (torch.int32, torch.int64)
NARROWEST = (torch.uint8, torch.int16, *INT32)


def map_tensors(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """The record with all of its tensors changed; a list has none."""
    return _changed(record, change)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_changed(each, change) for each in value)
    if is_dataclass(value):
        return type(value)(**{field.name: _changed(getattr(value, field.name), change) for field in fields(value)})
    return value


def narrowed(record: Record, dtypes: Sequence[torch.dtype]) -> Record:
    """The record with each int64 tensor in the first of the types that fits its values."""

    def narrow(value: Tensor) -> Tensor:
        if value.dtype not in NARROWEST:
            return value
        low, high = (int(end) for end in torch.aminmax(value)) if value.numel() else (0, 0)
        fitting = (dtype for dtype in dtypes if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max)
        return value.to(next(fitting))

    return map_tensors(record, narrow)


def num_bytes(record: Any) -> int:
    """Bytes of all tensors in a record."""
    sizes: list[int] = []
    map_tensors(record, lambda value: (sizes.append(value.nbytes), value)[1])
    return sum(sizes)
