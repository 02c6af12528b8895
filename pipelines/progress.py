"""How long work shows itself: a bar with rate and time left on a terminal, plain lines in a log."""

import itertools
import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gam_kg.progress import Advance, progress_lines

logger = logging.getLogger("gam_kg")
console = Console(stderr=True, highlight=False)
results = Console(highlight=False)
"""Results of a command go to standard output, messages about its work to standard error."""
if not results.is_terminal:
    results.width = 120  # a pipe has no width; 80 would break names

_position = ""


@contextmanager
def stage_position(number: int, total: int, verb: str) -> Generator[None]:
    """Say which of the stages of a run the block is, before it and in its progress."""
    global _position
    logger.info("stage %d of %d: %s", number, total, verb)
    _position = f"stage {number} of {total}, "
    try:
        yield
    finally:
        _position = ""


def print_line(text: str) -> None:
    """Show how work goes on: on a terminal beside its bar, elsewhere in the log, if somebody reads that."""
    if logger.isEnabledFor(logging.INFO) and not console.is_terminal:
        logger.info(text)
    else:
        console.print(text)


@contextmanager
def progress(description: str, total: int, unit: str = "snapshots") -> Generator[Advance]:
    """Show the progress of a block.

    Args:
        description: What is being done.
        total: Units to do.
        unit: What is counted.
    """
    description = _position + description
    if not console.is_terminal:
        yield progress_lines(description, total, unit, print_line)
        return
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

        def advance(done: int, note: str = "", total: int | None = None) -> None:
            rate = done / max(1e-9, time.monotonic() - started)
            bar.update(task, completed=done, total=total, note=note, rate=f"{rate:.1f}")

        yield advance


def counted(advance: Callable[[int], None]) -> Callable[[], None]:
    """A callback without arguments that advances by one each time."""
    numbers = itertools.count(1)
    return lambda: advance(next(numbers))
