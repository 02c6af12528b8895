"""Memory that runs out, of a GPU or of the machine, as an error for the user that names what needs less."""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from gam_kg.errors import OutOfMemoryError

_NEEDED = re.compile(r"Tried to allocate ([\d.]+ \w+)")
_THERE = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")
_OF_CPU = re.compile(r"can't allocate memory: you tried to allocate (\d+) bytes")
_OTHERS_OF_GPU = "CUDA error: out of memory", "ALLOC_FAILED"


@contextmanager
def naming_knobs(work: Callable[[], str], *knobs: str) -> Generator[None]:
    """Report memory that runs out in the block.

    Args:
        work: Says what the block is doing.
        knobs: What needs less memory, as settings or in words.

    Raises:
        OutOfMemoryError: It names the work, how much was needed, and the knobs.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (found := _ran_out(error)) is None:
            raise
        memory, needed = found
        more = (*knobs, "compute on the CPU (train.use_gpu=false)") if "GPU" in memory else knobs
        raise OutOfMemoryError(f"{work()}: {memory} ran out{needed}. What needs less: {'; or '.join(more)}") from error


def _ran_out(error: Exception) -> tuple[str, str] | None:
    """Which memory has run out, and how much was needed in words; None: the error is about something else."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        needed, there = _NEEDED.search(text), _THERE.search(text)
        more = f": {needed[1]} more were needed" if needed else ""
        return "the memory of the GPU", more + (f", and of its {there[1]} there were {there[2]} free" if there else "")
    if any(part in text for part in _OTHERS_OF_GPU):
        return "the memory of the GPU", ""
    if isinstance(error, MemoryError):
        return "the memory of this machine", f" ({text})" if text else ""
    if of_cpu := _OF_CPU.search(text):
        return "the memory of this machine", f": {int(of_cpu[1]) / 2**30:,.2f} GiB more were needed"
    return None
