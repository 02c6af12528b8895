"""Records of tensors packed into one buffer, so that a record moves to a device in one copy."""

from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True, eq=False)
class PaddedArray:
    """An array with more items along its last dimension, which are written where it is packed.

    Attributes:
        value: Numbers; integers fit int32.
        size: Number of items with what is padded.
        fill: What is padded: one number, or as many as are missing.
    """

    value: np.ndarray
    size: int
    fill: float | np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape with what is padded."""
        return (*self.value.shape[:-1], self.size)

    def write(self, target: np.ndarray) -> None:
        """Write all of it."""
        length = self.value.shape[-1]
        np.copyto(target[..., :length], self.value, casting="same_kind")
        target[..., length:] = self.fill


PARTS = Tensor, PaddedArray
"""What a record that is packed is made of."""


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

        def place(part: Tensor | PaddedArray) -> Place:
            nonlocal end
            found = Place(end, _packed_type(part), tuple(part.shape))
            end = -(-found.end // _ALIGNMENT) * _ALIGNMENT
            return found

        packed = map_parts(record, PARTS, place)
        return cls(packed, end)

    def pack(self, record: Record, buffer: Tensor) -> None:
        """Write a record into a buffer.

        Args:
            record: A record on the CPU with this packing.
            buffer: uint8 (num_bytes,), on the CPU.

        Raises:
            ValueError: The record has other shapes.
        """
        # For many small tensors numpy takes a fraction of the time of torch.
        room = buffer.numpy()
        for part, place in zip(parts_of(record, PARTS), self._places, strict=True):
            if tuple(part.shape) != place.shape:
                raise ValueError(f"a part of shape {tuple(part.shape)} is written where one of {place.shape} has room")
            target = room[place.start : place.end].view(_NUMPY[place.dtype]).reshape(place.shape)
            if isinstance(part, PaddedArray):
                part.write(target)
            else:
                np.copyto(target, part.numpy(), casting="same_kind")

    @cached_property
    def _places(self) -> list[Place]:
        return parts_of(self.record, Place)

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
    packing = Packing.of(record)
    buffer = torch.empty(packing.num_bytes, dtype=torch.uint8, device=device)
    packing.send(record, buffer)
    return packing.unpack(buffer)


def _packed_type(part: Tensor | PaddedArray) -> torch.dtype:
    if isinstance(part, PaddedArray):
        return _TORCH.get(part.value.dtype.type, torch.int32)
    value = part.numpy()
    if value.dtype == np.int64 and value.size:
        most = torch.iinfo(torch.int32)
        if value.min() < most.min or value.max() > most.max:
            return torch.int64
    return _TORCH.get(value.dtype.type, torch.int32)
