"""How long work shows itself: a bar with rate and time left on a terminal, plain lines in a log."""

import itertools
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)
results = Console(highlight=False)
"""What a command is asked for goes to standard output, what it says of its work to standard error."""
if not results.is_terminal:
    results.width = 120  # a pipe has no width; 80 would break names
_SECONDS_BETWEEN_LINES = 15.0


class Advance(Protocol):
    """Tells how far the work is."""

    def __call__(self, done: int, note: str = "", total: int | None = None) -> None:
        """`done` units of the total are done; `note` is shown behind them, `total` is told where it is known late."""
        ...


@contextmanager
def progress(description: str, total: int, unit: str = "snapshots") -> Generator[Advance]:
    """Show the progress of a block.

    Args:
        description: What is being done.
        total: Units to do.
        unit: What is counted.
    """
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} " + unit + "/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(description, total=total, note="", rate="…")
            started = time.monotonic()

            def show(done: int, note: str = "", total: int | None = None) -> None:
                rate = done / max(1e-9, time.monotonic() - started)
                bar.update(task, completed=done, total=total, note=note, rate=f"{rate:.1f}")

            yield show
    else:
        yield _lines(description, total, unit)


def counted(advance: Callable[[int], None]) -> Callable[[], None]:
    """A callback without arguments that advances by one each time."""
    numbers = itertools.count(1)
    return lambda: advance(next(numbers))


def _lines(description: str, num_units: int, unit: str) -> Advance:
    started = last = time.monotonic()

    def show(done: int, note: str = "", total: int | None = None) -> None:
        nonlocal last, num_units
        num_units = total or num_units
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = done / (now - started)
        left = (num_units - done) / rate if rate else float("inf")
        console.print(f"{description}: {done}/{num_units} {unit}, {rate:.1f}/s, {left:.0f} s left {note}".rstrip())

    return show
