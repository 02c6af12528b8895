"""The progress of `prepare`: the rows that its tasks have worked on, wherever they run."""

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray

from gam_kg.ingest.blocks import Step, tables_of
from .progress import progress

_PASSES = {"read_facts": "reading", "merge_facts": "merging", "write_bucket": "writing"}
"""Steps that go through all rows, in their order; what others do takes little."""

_SECONDS_BETWEEN_LOOKS = 0.5


@ray.remote(num_cpus=0)
class _Rows:
    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()

    def add(self, name: str, rows: int) -> None:
        self._rows[name] += rows

    def counts(self) -> dict[str, int]:
        return dict(self._rows)


@contextmanager
def counted_rows(num_rows: int) -> Generator[Any]:
    """Show how far the steps of `counted` are while the block lasts; of `num_rows` rows in the files.

    Gives the actor that counts.
    """
    rows: Any = _Rows.remote()
    ended = threading.Event()
    # Each fact is written at both of its ends.
    with progress("prepare", 4 * num_rows, unit="rows") as advance:

        def look() -> None:
            while not ended.wait(_SECONDS_BETWEEN_LOOKS):
                try:
                    found = ray.get(rows.counts.remote())
                except Exception:  # Ray is stopping
                    return
                done = sum(found.values())
                names = [title for name, title in _PASSES.items() if name in found]
                advance(done, names[-1] if names else "", max(done, 4 * num_rows))

        watch = threading.Thread(target=look, daemon=True)
        watch.start()
        try:
            yield rows
        finally:
            ended.set()
            watch.join()


def counted(step: Step, rows: Any) -> Step:
    """A step that counts its rows, if it is one that goes through all of them."""
    inner = step
    while isinstance(inner, partial):
        inner = inner.func
    name = getattr(inner, "__name__", "")
    return partial(_counted, step=step, name=name, rows=rows) if name in _PASSES else step


def _counted(table: Any, step: Step, name: str, rows: Any, **shared: Any) -> Any:
    total = 0
    for made in tables_of(step(table, **shared)):
        total += made.num_rows
        yield made
    rows.add.remote(name, max(total, table.num_rows))  # it reads a file by one row, or writes one by many
