"""Records of tensors packed into one buffer, so that a record moves to a device in one copy."""

from dataclasses import dataclass
from math import prod
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor

from gam_kg.ops.records import Record, map_parts, parts_of

_ALIGNMENT = 64  # bytes; devices read memory in pieces of about this size
_NUMPY = {
    torch.bool: np.bool_,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.float64: np.float64,
}
_TORCH = {kind: dtype for dtype, kind in _NUMPY.items() if kind is not np.int64}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a buffer of bytes.

    Attributes:
        start: Its first byte.
        dtype: Its type.
        shape: Its shape.
    """

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The byte after its last one."""
        return self.start + prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Packing(Generic[Record]):
    """Where the tensors of a record lie in a buffer of bytes, with integers as int32 where all of a tensor fit.

    Records have equal packings if they differ in nothing but the numbers in their tensors.

    Attributes:
        record: The record, with a `Place` for each tensor.
        num_bytes: Size of the buffer.
    """

    record: Any
    num_bytes: int

    @classmethod
    def of(cls, record: Record) -> "Packing[Record]":
        """The packing of a record on the CPU."""
        end = 0

        def place(value: np.ndarray) -> Place:
            nonlocal end
            found = Place(end, _packed_type(value), value.shape)
            end = -(-found.end // _ALIGNMENT) * _ALIGNMENT
            return found

        packed = map_parts(as_arrays(record), np.ndarray, place)
        return cls(packed, end)

    def pack(self, record: Record, buffer: Tensor) -> None:
        """Write a record into a buffer.

        Args:
            record: A record on the CPU with this packing.
            buffer: uint8 (num_bytes,), on the CPU.
        """
        # For many small tensors numpy takes a fraction of the time of torch.
        room = buffer.numpy()
        for value, place in zip(parts_of(as_arrays(record), np.ndarray), parts_of(self.record, Place), strict=True):
            target = room[place.start : place.end].view(_NUMPY[place.dtype]).reshape(place.shape)
            np.copyto(target, value, casting="same_kind")

    def unpack(self, buffer: Tensor) -> Record:
        """The record in a buffer, uint8 (num_bytes,), on any device; its tensors are views of the buffer."""
        return map_parts(
            self.record, Place, lambda place: buffer[place.start : place.end].view(place.dtype).view(place.shape)
        )

    def send(self, record: Record, buffer: Tensor) -> None:
        """Write a record on the CPU into a buffer, uint8 (num_bytes,), on any device, without waiting for the copy."""
        # Torch reuses pinned memory only after the copies from it are done.
        staged = torch.empty(self.num_bytes, dtype=torch.uint8, pin_memory=buffer.is_cuda)
        self.pack(record, staged)
        buffer.copy_(staged, non_blocking=True)


def on_device(record: Record, device: torch.device) -> Record:
    """A record on the CPU as one on a device, in one copy; its integers are int32."""
    arrays = as_arrays(record)
    packing = Packing.of(arrays)
    buffer = torch.empty(packing.num_bytes, dtype=torch.uint8, device=device)
    packing.send(arrays, buffer)
    return packing.unpack(buffer)


def as_arrays(record: Any) -> Any:
    """A record on the CPU with arrays in place of tensors, which can be packed as well."""
    return map_parts(record, Tensor, Tensor.numpy)


def _packed_type(value: np.ndarray) -> torch.dtype:
    if value.dtype == np.int64 and value.size:
        most = torch.iinfo(torch.int32)
        if value.min() < most.min or value.max() > most.max:
            return torch.int64
    return _TORCH.get(value.dtype.type, torch.int32)
