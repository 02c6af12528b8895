"""Where a step's time goes."""

from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class Stopwatch:
    """Seconds by phase since the last `take`, as the program sees them: on a GPU, until work is handed over.

    Time in collectives is part of the phase that they are in.
    """

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Count the block to a phase."""
        started = perf_counter()
        yield
        self.seconds[name] += perf_counter() - started

    def add(self, seconds: Mapping[str, float], prefix: str) -> None:
        """Add seconds by phase, whose names get a prefix."""
        for name, more in seconds.items():
            self.seconds[prefix + name] += more

    def take(self) -> dict[str, float]:
        """The sums, which start from zero again."""
        found = dict(self.seconds)
        self.seconds.clear()
        return found
