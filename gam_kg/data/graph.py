"""The prepared temporal graph in memory: anchored facts in time order, read snapshot by snapshot."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pandas.util import hash_array
from torch import Tensor

from gam_kg.artifacts import Manifest, read_manifest
from gam_kg.data.anchored import anchored_facts, buckets_of_rank
from gam_kg.data.partition import Partition
from gam_kg.data.ragged import offsets_of, ragged_ranges
from gam_kg.errors import ArtifactError

_COLUMNS = ("time", "anchor", "relation", "other")
_TENSORS = (*_COLUMNS, "trained", "snapshots", "entity_tie", "relation_tie")
_MIX = 0x1E3779B97F4A7C15  # an odd number; products wrap around


@dataclass(frozen=True)
class Queries:
    """The questions of one snapshot: each distinct (subject, relation, ?) once, with all its answers.

    Attributes:
        time: The snapshot asked about.
        subject: int64 (num_queries,).
        relation: int64 (num_queries,); `>= num_relations` asks for the subject of the stored fact.
        answer_query: Which query each answer belongs to, int64 (num_answers,), ascending.
        answer: Entity ids, int64 (num_answers,).
    """

    time: int
    subject: Tensor
    relation: Tensor
    answer_query: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return len(self.subject)

    @classmethod
    def of(cls, time: int, rows: Tensor) -> "Queries":
        """The queries that rows ask and answer, sorted by subject, relation and answer.

        Args:
            time: The snapshot asked about.
            rows: Subject, relation and answer, int64 (3, num_rows), in any order and any number of times.
        """
        rows = rows[:, _lexical_order(*rows)]
        changed = torch.ones_like(rows, dtype=torch.bool)
        changed[:, 1:] = rows[:, 1:] != rows[:, :-1]
        asked = changed[:2].any(0)
        distinct = asked | changed[2]
        answer_query = torch.cumsum(asked, 0)[distinct] - 1
        return cls(time, *rows[:2, asked], answer_query, rows[2, distinct])

    def select(self, rows: Tensor) -> "Queries":
        """Some of the queries, in the order given, with all their answers.

        Args:
            rows: Positions of queries, int64 (num_selected,).
        """
        start, length = offsets_of(self.answer_query, len(self))
        answer_query, position = ragged_ranges(start[rows], length[rows])
        return Queries(self.time, self.subject[rows], self.relation[rows], answer_query, self.answer[position])


@dataclass(frozen=True)
class Snapshot:
    """All anchored facts of one time unit.

    Attributes:
        time: Snapshot number.
        anchor: Entity that owns the row and receives its message, int64 (num_rows,), ascending.
        relation: int64 (num_rows,), in `[0, 2 * num_relations)`.
        other: Entity that sends the message, int64 (num_rows,).
        num_relations: Number of relations without inverses.
    """

    time: int
    anchor: Tensor
    relation: Tensor
    other: Tensor
    num_relations: int

    @cached_property
    def active(self) -> Tensor:
        """Distinct anchors, ascending, int64 (num_active,)."""
        return torch.unique_consecutive(self.anchor)

    @cached_property
    def queries(self) -> Queries:
        """The questions read off the rows: (anchor, inverse relation, ?) is answered by `other`."""
        relation = _inverse(self.relation, self.num_relations)
        return Queries.of(self.time, torch.stack([self.anchor, relation, self.other]))

    def __len__(self) -> int:
        return len(self.anchor)


@dataclass(frozen=True)
class TemporalGraph:
    """Anchored facts of a rank's entities, sorted by snapshot, then anchor.

    Attributes:
        partition: The entities of the rank, all of them in a world of one.
        num_relations: Relations of the whole graph, without inverses.
        time, anchor, relation, other: The rows, int64 (num_rows,).
        snapshots: Snapshots in which any rank has facts, ascending, int64 (num_snapshots,).
        trained: Whether each entity has a fact in train, bool (num_entities,).
        valid_start: First snapshot of validation.
        test_start: First snapshot of test.
        entity_tie, relation_tie: Hashes of the names, int64 (num_entities,) and (2 * num_relations,), which order what
            is otherwise alike. Ids cannot: they descend by degree, so they tell of the future. None without names.
    """

    partition: Partition
    num_relations: int
    time: Tensor
    anchor: Tensor
    relation: Tensor
    other: Tensor
    snapshots: Tensor
    trained: Tensor
    valid_start: int
    test_start: int
    entity_tie: Tensor | None = None
    relation_tie: Tensor | None = None

    @classmethod
    def from_facts(
        cls,
        facts: np.ndarray,
        *,
        num_entities: int,
        num_relations: int,
        valid_start: int,
        test_start: int,
    ) -> "TemporalGraph":
        """Build from facts held in memory.

        Args:
            facts: Rows (subject, relation, object, snapshot), int64 (num_facts, 4).
            num_entities: Number of entities.
            num_relations: Number of relations.
            valid_start: First snapshot of validation.
            test_start: First snapshot of test.
        """
        subject, relation, other, time = np.asarray(facts, dtype=np.int64).reshape(-1, 4).T
        anchor, relation, other = anchored_facts(subject, relation, other, num_relations)
        rows = [torch.as_tensor(column) for column in (np.concatenate([time, time]), anchor, relation, other)]
        trained = torch.zeros(num_entities, dtype=torch.bool)
        trained[rows[1][rows[0] < valid_start]] = True
        snapshots = torch.unique(rows[0])
        time, anchor, relation, other = _sorted(rows)
        return cls(
            Partition(num_entities),
            num_relations,
            time,
            anchor,
            relation,
            other,
            snapshots,
            trained,
            valid_start,
            test_start,
        )

    @classmethod
    def load(cls, path: Path, *, rank: int = 0, world_size: int = 1) -> tuple["TemporalGraph", Manifest]:
        """Read the buckets of one rank of a `graph/` artifact.

        Raises:
            ArtifactError: The artifact is missing, unfinished or lacks rows its manifest counts.
        """
        manifest = read_manifest(path, "graph")
        content = manifest.content
        partition = Partition(content["num_entities"], content["buckets"], rank, world_size)
        snapshots = pq.read_table(path / "snapshots.parquet")["snapshot"].to_numpy()
        first = pq.read_table(path / "entities.parquet", columns=["first_snapshot"])["first_snapshot"].to_numpy()
        entity_tie, relation_tie = (_name_hashes(read_names(path, kind)) for kind in ("entity", "relation"))
        time, anchor, relation, other = _sorted(_read_buckets(path, partition, content))
        graph = cls(
            partition,
            content["num_relations"],
            time,
            anchor,
            relation,
            other,
            torch.from_numpy(snapshots.copy()),
            torch.from_numpy(first < content["valid_start"]),
            content["valid_start"],
            content["test_start"],
            entity_tie,
            torch.cat([relation_tie, ~relation_tie]),
        )
        return graph, manifest

    def shard(self, rank: int, world_size: int) -> "TemporalGraph":
        """The part of one rank; of a graph in a world of one."""
        partition = replace(self.partition, rank=rank, world_size=world_size)
        owned = partition.owns(self.anchor)
        return replace(self, partition=partition, **{name: getattr(self, name)[owned] for name in _COLUMNS})

    @property
    def num_entities(self) -> int:
        """Entities of the whole graph."""
        return self.partition.num_entities

    def inverse(self, relation: Tensor) -> Tensor:
        """Inverse relations; the inverse of an inverse is the relation itself."""
        return _inverse(relation, self.num_relations)

    def answer_tie(self, entity: Tensor) -> Tensor:
        """Numbers that order entities which are otherwise alike; same shape, int64."""
        return entity if self.entity_tie is None else self.entity_tie[entity]

    def fact_tie(self, relation: Tensor, entity: Tensor) -> Tensor:
        """Numbers that order facts (any subject, relation, entity) which are otherwise alike; same shape, int64."""
        if self.entity_tie is None or self.relation_tie is None:
            return relation * self.num_entities + entity
        return self.relation_tie[relation] * _MIX + self.entity_tie[entity]

    @cached_property
    def _rows_at(self) -> dict[int, slice]:
        times, counts = torch.unique_consecutive(self.time, return_counts=True)
        ends = torch.cumsum(counts, 0)
        bounds = zip(times.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
        return {time: slice(start, stop) for time, start, stop in bounds}

    @cached_property
    def times(self) -> list[int]:
        """Snapshots in which any rank has facts, ascending."""
        return self.snapshots.tolist()

    def times_in(self, split: str) -> list[int]:
        """Snapshots with facts in "train", "valid" or "test"."""
        first, last = {
            "train": (-1, self.valid_start),
            "valid": (self.valid_start, self.test_start),
            "test": (self.test_start, self.end),
        }[split]
        return [time for time in self.times if first <= time < last]

    @property
    def end(self) -> int:
        """The snapshot after the last one with facts."""
        return self.times[-1] + 1 if self.times else 0

    def snapshot(self, time: int) -> Snapshot:
        """The rows of one snapshot; none of them is an empty snapshot."""
        rows = self._rows_at.get(time, slice(0, 0))
        return Snapshot(time, self.anchor[rows], self.relation[rows], self.other[rows], self.num_relations)

    def before(self, time: int) -> "TemporalGraph":
        """The same graph without the facts at or after `time`."""
        rows = slice(0, sum(slot.stop - slot.start for start, slot in self._rows_at.items() if start < time))
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return replace(self, snapshots=self.snapshots[self.snapshots < time], **columns)

    def to(self, device: torch.device | str) -> "TemporalGraph":
        """The same graph with its rows on a device."""
        names = [name for name, value in vars(self).items() if isinstance(value, Tensor) and name in _TENSORS]
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def read_names(path: Path, kind: str) -> pa.ChunkedArray:
    """Names of a graph artifact's entities or relations, in the order of their ids.

    Args:
        path: The `graph/` folder.
        kind: "entity" or "relation".
    """
    plural = {"entity": "entities", "relation": "relations"}[kind]
    return pq.read_table(path / f"{plural}.parquet", columns=[kind])[kind]


def _read_buckets(path: Path, partition: Partition, content: dict[str, Any]) -> list[Tensor]:
    """Rows of the partition's buckets: snapshot, anchor, relation, other."""
    files = [
        file
        for bucket in buckets_of_rank(partition.buckets, partition.rank, partition.world_size)
        for file in sorted((path / "anchored" / f"bucket={bucket:03d}").glob("*.parquet"))
    ]
    names = ("snapshot", "anchor", "relation", "other")
    tables = [pq.read_table(file, columns=list(names), partitioning=None) for file in files]
    rows = [
        torch.from_numpy(np.concatenate([table[name].to_numpy() for table in tables] or [[]]).astype(np.int64))
        for name in names
    ]
    expected = 2 * content["num_facts"]
    if partition.world_size == 1 and len(rows[0]) != expected:
        raise ArtifactError(
            f"{path}/anchored: {len(rows[0])} rows, the manifest counts {expected}; redo prepare --force"
        )
    return rows


def _sorted(rows: list[Tensor]) -> list[Tensor]:
    order = _lexical_order(*rows)
    return [column[order] for column in rows]


def _name_hashes(names: pa.ChunkedArray) -> Tensor:
    hashes = hash_array(names.to_numpy(), categorize=False)  # ty: ignore[not-callable] -- its stub is lazy
    return torch.from_numpy(hashes.view(np.int64))


def _inverse(relation: Tensor, num_relations: int) -> Tensor:
    return torch.where(relation < num_relations, relation + num_relations, relation - num_relations)


def _lexical_order(*columns: Tensor) -> Tensor:
    """Order by the first column, ties by the second, and so on."""
    order = torch.argsort(columns[-1], stable=True)
    for column in reversed(columns[:-1]):
        order = order[torch.argsort(column[order], stable=True)]
    return order
