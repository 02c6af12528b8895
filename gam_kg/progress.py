"""Progress of long work as plain lines."""

import time
from collections.abc import Callable
from typing import Protocol

_SECONDS_BETWEEN_LINES = 15.0


class Advance(Protocol):
    """Shows the progress of one piece of work."""

    def __call__(self, done: int, note: str = "", total: int | None = None) -> None:
        """Show that `done` units are done, with a note; `total` replaces the total that was given at the start."""
        ...


def duration(seconds: float) -> str:
    """A time as people write it: 42 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def progress_lines(description: str, total: int, unit: str, print_line: Callable[[str], None]) -> Advance:
    """Print progress every 15 seconds as "{description}: {done}/{total} {unit}", with rate and time left."""
    started = last = time.monotonic()
    known = total

    def advance(done: int, note: str = "", total: int | None = None) -> None:
        nonlocal last, known
        known, now = total or known, time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES:
            return
        last, rate = now, done / (now - started)
        left = (known - done) / rate if rate else float("inf")
        print_line(f"{description}: {done}/{known} {unit}, {rate:.1f}/s, {duration(left)} left {note}".rstrip())

    return advance
