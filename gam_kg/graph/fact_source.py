"""Where a rank's anchored facts are read from: the files of a prepared graph, streamed in time order, or memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from gam_kg.artifacts import redo
from gam_kg.errors import ArtifactError
from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import lexical_order
from gam_kg.parquet import open_file
from gam_kg.schemas import ANCHORED

SLAB_ROWS = 262_144


class Rows(NamedTuple):
    """Anchored facts in columns, int64 (num_rows,) each."""

    time: Tensor
    anchor: Tensor
    relation: Tensor
    other: Tensor

    @classmethod
    def of(cls, tables: Sequence[pa.Table]) -> "Rows":
        """The rows of tables under the names of `schemas.ANCHORED`, one table after another."""
        columns = [
            np.concatenate([np.empty(0, np.int64), *(table[name].to_numpy() for table in tables)])
            for name in ANCHORED.names
        ]
        return cls(*(torch.from_numpy(column.astype(np.int64, copy=False)) for column in columns))

    def at(self, index: Tensor | slice) -> "Rows":
        """Some of the rows."""
        return Rows(*(column[index] for column in self))

    def from_snapshot(self, first: int) -> "Rows":
        """Those of sorted rows that are at or after a snapshot."""
        return self.at(slice(int(torch.searchsorted(self.time, first)), None))

    def sorted(self) -> "Rows":
        """By time, then anchor, relation and other."""
        if not len(self.time):
            return self
        # Rows of sorted files are runs, which a merge sort by one key merges in a fraction of the time.
        key = self.time * (self.anchor.max() + 1) + self.anchor
        order = torch.from_numpy(np.argsort(key.numpy(), kind="stable"))
        key, rows = key[order], self.at(order)
        rest = rows.relation * (rows.other.max() + 1) + rows.other
        if bool(((key[1:] > key[:-1]) | (rest[1:] >= rest[:-1])).all()):
            return rows
        return rows.at(lexical_order(*rows))


@dataclass(frozen=True)
class Slab:
    """All of a rank's facts of some consecutive snapshots.

    Attributes:
        end: The snapshot after the last of them.
        rows: Sorted.
    """

    end: int
    rows: Rows


class FactSource(Protocol):
    """A rank's facts, read in either of two orders."""

    def slabs(self, first: int = 0) -> Iterator[Slab]:
        """In time order, a bounded number of rows at a time; together the slabs cover all snapshots from `first` on."""
        ...

    def parts(self) -> Iterator[Rows]:
        """In any order of time, all facts of an anchor in one part."""
        ...


@dataclass(frozen=True)
class MemoryFacts:
    """Facts in memory, sorted."""

    rows: Rows

    def slabs(self, first: int = 0) -> Iterator[Slab]:
        """All at once."""
        rows = self.rows.from_snapshot(first)
        if len(rows.time):
            yield Slab(int(rows.time[-1]) + 1, rows)

    def parts(self) -> Iterator[Rows]:
        """All at once."""
        yield self.rows


class StoredFacts:
    """Facts of some buckets of a `graph/` artifact. In memory are a slab, the next one, and a row group of each file.

    No file stays open, since there may be more files than a process may open.

    Args:
        buckets: The files of each bucket, each sorted by snapshot.
        snapshots: Snapshots with facts in any bucket, ascending, int64 (num_snapshots,).
        num_rows: About how many rows each has in these buckets, (num_snapshots,).
    """

    def __init__(self, buckets: list[list[Path]], snapshots: np.ndarray, num_rows: np.ndarray) -> None:
        self._buckets = buckets
        slab = np.cumsum(num_rows) // SLAB_ROWS
        last = np.flatnonzero(np.diff(slab, append=-1))
        self._ends: list[int] = (snapshots[last] + 1).tolist()

    def slabs(self, first: int = 0) -> Iterator[Slab]:
        """In time order; row groups that end before `first` are not read.

        Raises:
            ArtifactError: A file is damaged.
        """
        files = [_SortedFile(path, first) for paths in self._buckets for path in paths]
        for end in (end for end in self._ends if end > first):
            rows = Rows.of([rows for file in files for rows in file.before(end)])
            yield Slab(end, rows.sorted().from_snapshot(first))

    def parts(self) -> Iterator[Rows]:
        """Bucket by bucket; raises what `slabs` raises."""
        for paths in self._buckets:
            yield Rows.of([rows for path in paths for rows in row_groups(path)])


@dataclass(frozen=True)
class UpdatedFacts:
    """The facts of a `graph/` artifact and those that updates have added, which are few enough for memory.

    Attributes:
        stored: The facts of the artifact, with the ids of inverse relations that they have there.
        added: The facts of the updates, sorted.
        partition: The rank's entities, the new ones included.
        num_relations: Relations of the whole graph, without inverses: before the updates and after.
    """

    stored: StoredFacts
    added: Rows
    partition: Partition
    num_relations: tuple[int, int]

    def slabs(self, first: int = 0) -> Iterator[Slab]:
        """In time order; raises what `StoredFacts.slabs` raises."""
        left = self.added.from_snapshot(first)
        for slab in self.stored.slabs(first):
            number = int(torch.searchsorted(left.time, slab.end))
            rows = self._joined(slab.rows, left.at(slice(number)))
            yield Slab(slab.end, rows.sorted() if number else rows)
            left = left.at(slice(number, None))
        yield from MemoryFacts(left).slabs()

    def parts(self) -> Iterator[Rows]:
        """Bucket by bucket; raises what `slabs` raises."""
        buckets, of_added = self.partition.own_buckets, self.added.anchor % self.partition.buckets
        for bucket, rows in zip(buckets, self.stored.parts(), strict=True):
            yield self._joined(rows, self.added.at(of_added == bucket))

    def _joined(self, stored: Rows, added: Rows) -> Rows:
        before, after = self.num_relations
        relation = torch.where(stored.relation < before, stored.relation, stored.relation + (after - before))
        stored = stored._replace(relation=relation)
        return Rows(*(torch.cat(columns) for columns in zip(stored, added, strict=True)))


class _SortedFile:
    """A file that is read once, from a snapshot to its last; a row group at a time is in memory."""

    def __init__(self, path: Path, first: int) -> None:
        self._groups = row_groups(path, first)
        self._left: pa.Table | None = None

    def before(self, end: int) -> Iterator[pa.Table]:
        """The rows before a snapshot that have not been read yet."""
        rows = self._left
        while rows is not None or (rows := next(self._groups, None)) is not None:
            stop = int(np.searchsorted(rows["snapshot"].to_numpy(), end))
            yield rows.slice(0, stop)
            if stop < len(rows):
                self._left = rows.slice(stop)
                return
            rows = self._left = None


def row_groups(path: Path, first: int = 0) -> Iterator[pa.Table]:
    """The row groups of a stored file, one after another, but those that are known to end before a snapshot.

    Raises what `StoredFacts.slabs` raises.
    """
    try:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            times = metadata.row_group(group).column(ANCHORED.names.index("snapshot")).statistics
            if times is not None and times.has_min_max and times.max < first:
                continue
            # Opened anew for each: iterating over a whole file would keep it open and all its row groups in memory.
            with open_file(path) as file:
                rows = file.read_row_group(group, columns=ANCHORED.names)
            yield rows
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); {redo('graph')}") from None


def count_rows(paths: Sequence[Path]) -> int:
    """Rows of Parquet files, by their footers.

    Raises:
        ArtifactError: A file is damaged.
    """
    try:
        return sum(pq.read_metadata(path).num_rows for path in paths)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{paths[0].parent}: cannot be read ({error}); {redo('graph')}") from None
