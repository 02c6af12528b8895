"""Times of blocks on a GPU, taken by events that the GPU passes, so that the program does not wait for it."""

from collections import defaultdict, deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class DeviceTimes:
    """Seconds that pass on a GPU between the beginning and the end of blocks, by name.

    They include the time in which the GPU has nothing to do because the program is slower.
    """

    _ahead: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=deque)

    @contextmanager
    def block(self, name: str) -> Generator[None]:
        """Count the block to a name; one that is captured as part of a CUDA graph has no time of its own."""
        if torch.cuda.is_current_stream_capturing():
            yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._ahead.append((name, begin, end))

    def take(self) -> dict[str, float]:
        """The sums since the last call, of blocks that the GPU has finished; the others are counted by a later call."""
        found: defaultdict[str, float] = defaultdict(float)
        while self._ahead and self._ahead[0][2].query():
            name, begin, end = self._ahead.popleft()
            found[name] += begin.elapsed_time(end) / 1000
        return dict(found)
