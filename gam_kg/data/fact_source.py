"""Where a rank's anchored facts are read from: files of a prepared graph, streamed in time order, or memory."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from gam_kg.data.snapshot import lexical_order
from gam_kg.errors import ArtifactError
from gam_kg.schemas import ANCHORED

_SLAB_ROWS = 262_144
_BATCH_ROWS = 16_384

Item = TypeVar("Item")


class Rows(NamedTuple):
    """Anchored facts, int64 (num_rows,) a column."""

    time: Tensor
    anchor: Tensor
    relation: Tensor
    other: Tensor

    @classmethod
    def of(cls, tables: Sequence[pa.Table | pa.RecordBatch]) -> "Rows":
        """The rows of tables under the names of `schemas.ANCHORED`, one table after another."""
        columns = [
            np.concatenate([np.empty(0, np.int64), *(table[name].to_numpy() for table in tables)])
            for name in ANCHORED.names
        ]
        return cls(*(torch.from_numpy(column.astype(np.int64, copy=False)) for column in columns))

    def at(self, index: Tensor | slice) -> "Rows":
        """Some of the rows."""
        return Rows(*(column[index] for column in self))

    def sorted(self) -> "Rows":
        """By time, then anchor, relation and other."""
        return self.at(lexical_order(*self))

    def to(self, device: torch.device | str) -> "Rows":
        """The rows on a device."""
        return Rows(*(column.to(device) for column in self))


@dataclass(frozen=True)
class Slab:
    """All of a rank's facts of some consecutive snapshots.

    Attributes:
        first, end: The snapshots, `[first, end)`.
        rows: Sorted.
    """

    first: int
    end: int
    rows: Rows


class FactSource(Protocol):
    """A rank's facts, read in either of two orders."""

    def slabs(self) -> Iterator[Slab]:
        """In time order, a bounded number of rows at a time; together the slabs cover all snapshots."""
        ...

    def parts(self) -> Iterator[Rows]:
        """In any order of time, all facts of an anchor in one part."""
        ...


@dataclass(frozen=True)
class MemoryFacts:
    """Facts held in memory, sorted."""

    rows: Rows

    def slabs(self) -> Iterator[Slab]:
        """All at once."""
        if len(self.rows.time):
            yield Slab(int(self.rows.time[0]), int(self.rows.time[-1]) + 1, self.rows)

    def parts(self) -> Iterator[Rows]:
        """All at once."""
        yield self.rows


class StoredFacts:
    """Facts of some buckets of a `graph/` artifact. Memory holds a slab, the next one, and a batch a file.

    Args:
        buckets: The files of each bucket, each sorted by snapshot.
        snapshots: Snapshots with facts in any bucket, ascending, int64 (num_snapshots,).
        num_rows: About how many rows each has in these buckets, (num_snapshots,).
    """

    def __init__(self, buckets: list[list[Path]], snapshots: np.ndarray, num_rows: np.ndarray) -> None:
        self._buckets = buckets
        slab = np.cumsum(num_rows) // _SLAB_ROWS
        first = np.flatnonzero(np.diff(slab, prepend=-1))
        ends = [*snapshots[first[1:]].tolist(), int(snapshots[-1]) + 1] if len(snapshots) else []
        self._bounds = list(zip(snapshots[first].tolist(), ends, strict=True))

    def slabs(self) -> Iterator[Slab]:
        """In time order.

        Raises:
            ArtifactError: A file is damaged.
        """
        files = [_SortedFile(path) for paths in self._buckets for path in paths]
        for first, end in self._bounds:
            batches = [batch for file in files for batch in file.before(end)]
            yield Slab(first, end, Rows.of(batches).sorted())

    def parts(self) -> Iterator[Rows]:
        """Bucket by bucket; raises as `slabs`."""
        for paths in self._buckets:
            yield Rows.of([batch for path in paths for batch in _batches(path)])


class _SortedFile:
    """A file that is read once, from its first snapshot to its last."""

    def __init__(self, path: Path) -> None:
        self._batches = _batches(path)
        self._left: pa.RecordBatch | None = None

    def before(self, end: int) -> Iterator[pa.RecordBatch]:
        """The rows not read yet that are before a snapshot."""
        batch = self._left
        while batch is not None or (batch := next(self._batches, None)) is not None:
            stop = int(np.searchsorted(batch["snapshot"].to_numpy(), end))
            yield batch.slice(0, stop)
            if stop < len(batch):
                self._left = batch.slice(stop)
                return
            batch = self._left = None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(_BATCH_ROWS, columns=ANCHORED.names)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); redo prepare --force") from None


def count_rows(paths: Sequence[Path]) -> int:
    """Rows of Parquet files, by their footers.

    Raises:
        ArtifactError: A file is damaged.
    """
    try:
        return sum(pq.read_metadata(path).num_rows for path in paths)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{paths[0].parent}: cannot be read ({error}); redo prepare --force") from None


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, of which the next is made in a thread while one is used."""

    def following() -> list[Item]:
        return list(islice(items, 1))

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        coming = thread.submit(following)
        while found := coming.result():
            coming = thread.submit(following)
            yield from found
