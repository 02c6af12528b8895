"""The traffic of a rank by purpose: bytes sent, collectives and the time in them."""

from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch

from gam_kg.ops.device_times import DeviceTimes


@dataclass
class PurposeSums:
    """Sums over the collectives of one purpose.

    Attributes:
        bytes: Sent by this rank, where an all-reduce of n bytes sends 2 n (P − 1) / P, as a ring does.
        collectives: Their number.
        seconds: Time in them: transfer, and waiting for slower ranks.
    """

    bytes: float = 0.0
    collectives: int = 0
    seconds: float = 0.0


@dataclass
class Traffic:
    """Communication of a rank since the last `take`.

    Attributes:
        by_purpose: Sums of each purpose.
        halo_rows: Rows received from other ranks for attention.
    """

    by_purpose: defaultdict[str, PurposeSums] = field(default_factory=lambda: defaultdict(PurposeSums))
    halo_rows: int = 0
    _on_device: DeviceTimes = field(default_factory=DeviceTimes)

    @contextmanager
    def collective(self, purpose: str, sent: float, device: torch.device) -> Generator[None]:
        """Count the block as one collective that sends `sent` bytes."""
        found = self.by_purpose[purpose]
        found.bytes += sent
        found.collectives += 1
        if device.type == "cuda":  # kernels run behind the program
            with self._on_device.block(purpose):
                yield
        else:
            started = perf_counter()
            yield
            found.seconds += perf_counter() - started

    def add(self, found: Mapping[str, PurposeSums]) -> None:
        """Add what `take` of another has returned."""
        for purpose, more in found.items():
            sums = self.by_purpose[purpose]
            sums.bytes += more.bytes
            sums.collectives += more.collectives
            sums.seconds += more.seconds

    def take(self) -> dict[str, PurposeSums]:
        """The sums by purpose; resets them and `halo_rows` to zero.

        The time of what a GPU has not finished is part of a later `take`.
        """
        for purpose, seconds in self._on_device.take().items():
            self.by_purpose[purpose].seconds += seconds
        found = dict(self.by_purpose)
        self.by_purpose.clear()
        self.halo_rows = 0
        return found
