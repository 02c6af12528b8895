"""The prepared temporal graph in memory: anchored facts in time order, read snapshot by snapshot."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pandas.util import hash_array
from torch import Tensor

from gam_kg.artifacts import Manifest, read_manifest
from gam_kg.data.anchored import anchored_facts, buckets_of_rank
from gam_kg.data.ragged import offsets_of, ragged_ranges
from gam_kg.errors import ArtifactError

_COLUMNS = ("time", "anchor", "relation", "other")
_TENSORS = (*_COLUMNS, "entity_tie", "relation_tie")


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
        rows = torch.unique(torch.stack([self.anchor, relation, self.other]), dim=1)
        distinct, answer_query = torch.unique_consecutive(rows[:2], dim=1, return_inverse=True)
        return Queries(self.time, distinct[0], distinct[1], answer_query, rows[2])

    def __len__(self) -> int:
        return len(self.anchor)


@dataclass(frozen=True)
class TemporalGraph:
    """Anchored facts of a rank's entities, sorted by snapshot, then anchor.

    Attributes:
        num_entities: Entities of the whole graph.
        num_relations: Relations of the whole graph, without inverses.
        time, anchor, relation, other: The rows, int64 (num_rows,).
        valid_start: First snapshot of validation.
        test_start: First snapshot of test.
        entity_tie, relation_tie: Hashes of the names, int64 (num_entities,) and (2 * num_relations,), which order what
            is otherwise alike. Ids cannot: they descend by degree, so they tell of the future. None without names.
    """

    num_entities: int
    num_relations: int
    time: Tensor
    anchor: Tensor
    relation: Tensor
    other: Tensor
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
        return cls._sorted(num_entities, num_relations, rows, valid_start, test_start)

    @classmethod
    def load(cls, path: Path, *, rank: int = 0, world_size: int = 1) -> tuple["TemporalGraph", Manifest]:
        """Read the buckets of one rank of a `graph/` artifact.

        Raises:
            ArtifactError: The artifact is missing, unfinished or lacks rows its manifest counts.
        """
        manifest = read_manifest(path, "graph")
        content = manifest.content
        files = [
            file
            for bucket in buckets_of_rank(content["buckets"], rank, world_size)
            for file in sorted((path / "anchored" / f"bucket={bucket:03d}").glob("*.parquet"))
        ]
        names = ("snapshot", "anchor", "relation", "other")
        tables = [pq.read_table(file, columns=list(names), partitioning=None) for file in files]
        rows = [
            torch.from_numpy(np.concatenate([table[name].to_numpy() for table in tables] or [[]]).astype(np.int64))
            for name in names
        ]
        if world_size == 1 and len(rows[0]) != 2 * content["num_facts"]:
            expected = 2 * content["num_facts"]
            raise ArtifactError(
                f"{path}/anchored: {len(rows[0])} rows, the manifest counts {expected}; redo prepare --force"
            )
        counts = (content["num_entities"], content["num_relations"])
        graph = cls._sorted(*counts, rows, content["valid_start"], content["test_start"])
        entity, relation = (_name_hashes(read_names(path, kind)) for kind in ("entity", "relation"))
        return replace(graph, entity_tie=entity, relation_tie=torch.cat([relation, ~relation])), manifest

    @classmethod
    def _sorted(
        cls, num_entities: int, num_relations: int, rows: list[Tensor], valid_start: int, test_start: int
    ) -> "TemporalGraph":
        order = _lexical_order(*rows)
        time, anchor, relation, other = (column[order] for column in rows)
        return cls(num_entities, num_relations, time, anchor, relation, other, valid_start, test_start)

    @cached_property
    def _rows_at(self) -> dict[int, slice]:
        times, counts = torch.unique_consecutive(self.time, return_counts=True)
        ends = torch.cumsum(counts, 0)
        bounds = zip(times.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
        return {time: slice(start, stop) for time, start, stop in bounds}

    @property
    def times(self) -> list[int]:
        """Snapshots that have facts, ascending."""
        return list(self._rows_at)

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
        return self.times[-1] + 1 if len(self.time) else 0

    def snapshot(self, time: int) -> Snapshot:
        """The rows of one snapshot; none of them is an empty snapshot."""
        rows = self._rows_at.get(time, slice(0, 0))
        return Snapshot(time, self.anchor[rows], self.relation[rows], self.other[rows], self.num_relations)

    def before(self, time: int) -> "TemporalGraph":
        """The same graph without the facts at or after `time`."""
        rows = slice(0, sum(slot.stop - slot.start for start, slot in self._rows_at.items() if start < time))
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return replace(self, **columns)

    def to(self, device: torch.device | str) -> "TemporalGraph":
        """The same graph with its rows on a device."""
        names = [name for name, value in vars(self).items() if isinstance(value, Tensor) and name in _TENSORS]
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @cached_property
    def trained(self) -> Tensor:
        """Whether each entity has a fact in train, bool (num_entities,)."""
        seen = torch.zeros(self.num_entities, dtype=torch.bool, device=self.anchor.device)
        seen[self.before(self.valid_start).anchor] = True
        return seen


def read_names(path: Path, kind: str) -> pa.ChunkedArray:
    """Names of a graph artifact's entities or relations, in the order of their ids.

    Args:
        path: The `graph/` folder.
        kind: "entity" or "relation".
    """
    plural = {"entity": "entities", "relation": "relations"}[kind]
    return pq.read_table(path / f"{plural}.parquet", columns=[kind])[kind]


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
