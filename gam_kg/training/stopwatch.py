"""Where a step's time goes."""

from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch

from gam_kg.ops.device_times import DeviceTimes


@dataclass
class Stopwatch:
    """Seconds by phase since the last `take`: of the program, or on a GPU those of the GPU, see `DeviceTimes`.

    Time in collectives is part of the phase that they are in.

    Attributes:
        device: Where the phases compute.
        seconds: The sums, apart from those of a GPU.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _on_device: DeviceTimes = field(default_factory=DeviceTimes)

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Count the block to a phase."""
        if self.device.type == "cuda":
            with self._on_device.block(name):
                yield
            return
        started = perf_counter()
        yield
        self.seconds[name] += perf_counter() - started

    def add(self, seconds: Mapping[str, float], prefix: str) -> None:
        """Add seconds by phase, whose names get a prefix."""
        for name, more in seconds.items():
            self.seconds[prefix + name] += more

    def take(self) -> dict[str, float]:
        """The sums, which start from zero again; a phase that a GPU has not finished is part of a later `take`."""
        for name, seconds in self._on_device.take().items():
            self.seconds[name] += seconds
        found = dict(self.seconds)
        self.seconds.clear()
        return found
