"""The prepared temporal graph as a rank has it: anchored facts in time order, read snapshot by snapshot."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pandas.util import hash_array
from torch import Tensor

from gam_kg.artifacts import Manifest, read_manifest, redo
from gam_kg.errors import ArtifactError
from gam_kg.graph.anchored import anchored_facts
from gam_kg.graph.fact_source import FactSource, MemoryFacts, Rows, StoredFacts, UpdatedFacts, count_rows
from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Snapshot
from gam_kg.graph.update_chain import Update, sizes
from gam_kg.ops.read_ahead import read_ahead
from gam_kg.parquet import read_table
from gam_kg.schemas import SPLITS

_MIX = 0x1E3779B97F4A7C15  # an odd number; products wrap around


@dataclass(frozen=True)
class TemporalGraph:
    """Anchored facts of a rank's entities.

    Attributes:
        partition: The entities of the rank, all of them in a world of one.
        num_relations: Relations of the whole graph, without inverses.
        facts: Where the rank's facts are read from.
        snapshots: Snapshots in which any rank has facts, ascending, int64 (num_snapshots,).
        num_facts: Facts of all ranks in each of them, int64 (num_snapshots,).
        trained, trained_relations: Whether each entity and each relation has a fact in train, bool (num_entities,) and
            (num_relations,).
        valid_start: First snapshot of validation.
        test_start: First snapshot of test.
        test_end: The snapshot after the last one of test; what updates add from there on is in no split.
        entity_tie, relation_tie: Hashes of the names, int64 (num_entities,) and (2 * num_relations,), which order what
            is otherwise alike. Ids cannot: they descend by degree, so they depend on the future. None without names.
    """

    partition: Partition
    num_relations: int
    facts: FactSource
    snapshots: Tensor
    num_facts: Tensor
    trained: Tensor
    trained_relations: Tensor
    valid_start: int
    test_start: int
    test_end: int
    entity_tie: Tensor | None = None
    relation_tie: Tensor | None = None

    @classmethod
    def from_facts(
        cls, facts: np.ndarray, *, num_entities: int, num_relations: int, valid_start: int, test_start: int
    ) -> "TemporalGraph":
        """Build from facts in memory: rows (subject, relation, object, snapshot), int64 (num_facts, 4)."""
        rows = _anchored_rows(facts, num_relations)
        snapshots, counts = torch.unique(rows.time, return_counts=True)
        early = rows.at(rows.time < valid_start)
        trained = torch.isin(torch.arange(num_entities), early.anchor)
        trained_relations = torch.isin(torch.arange(num_relations), early.relation)
        partition, source = Partition(num_entities), MemoryFacts(rows)
        return cls(
            partition,
            num_relations,
            source,
            snapshots,
            counts // 2,
            trained,
            trained_relations,
            valid_start,
            test_start,
            test_end=int(snapshots[-1]) + 1 if len(snapshots) else 0,
        )

    @classmethod
    def load(
        cls, path: Path, *, rank: int = 0, world_size: int = 1, updates: Sequence[Update] = ()
    ) -> tuple["TemporalGraph", Manifest]:
        """Open the buckets of one rank of a `graph/` artifact, whose facts are then streamed.

        Args:
            path: Folder of the artifact.
            rank: The rank.
            world_size: Number of ranks.
            updates: What was added since. New entities and relations count as without facts in train.

        Raises:
            ArtifactError: The artifact is missing, unfinished or lacks rows its manifest counts.
        """
        manifest = read_manifest(path, "graph")
        content = manifest.content
        num_entities, num_relations = sizes(manifest, updates)
        partition = Partition(num_entities, content["buckets"], rank, world_size)
        timeline = read_table(path / "snapshots.parquet")
        snapshots, num_facts = (timeline[name].to_numpy() for name in ("snapshot", "num_facts"))
        facts: FactSource = StoredFacts(
            _bucket_files(path, partition, content["num_facts"]), snapshots, 2 * num_facts / world_size
        )
        test_end = int(snapshots[-1]) + 1 if len(snapshots) else 0
        if updates:
            added = np.concatenate([update.facts() for update in updates])
            rows = _anchored_rows(added, num_relations)
            rows = rows.at(partition.owns(rows.anchor))
            facts = UpdatedFacts(facts, rows, partition, (content["num_relations"], num_relations))
            snapshots, num_facts = _counts_with(snapshots, num_facts, added[:, 3])
        entity_tie, relation_tie = (_name_hashes(read_names(path, kind, updates)) for kind in ("entity", "relation"))
        graph = cls(
            partition,
            num_relations,
            facts,
            torch.from_numpy(snapshots.copy()),
            torch.from_numpy(num_facts.copy()),
            *(
                _known(_read_column(path, kind, "first_snapshot").to_numpy() < content["valid_start"], number)
                for kind, number in (("entity", num_entities), ("relation", num_relations))
            ),
            content["valid_start"],
            content["test_start"],
            test_end,
            entity_tie,
            torch.cat([relation_tie, ~relation_tie]),
        )
        return graph, manifest

    def shard(self, rank: int, world_size: int) -> "TemporalGraph":
        """The part of one rank, in memory; of a graph in a world of one."""
        partition, rows = replace(self.partition, rank=rank, world_size=world_size), self.rows()
        return replace(self, partition=partition, facts=MemoryFacts(rows.at(partition.owns(rows.anchor))))

    def before(self, time: int) -> "TemporalGraph":
        """The same graph without the facts at or after `time`, in memory."""
        rows, earlier = self.rows(), self.snapshots < time
        facts = MemoryFacts(rows.at(rows.time < time))
        return replace(self, snapshots=self.snapshots[earlier], num_facts=self.num_facts[earlier], facts=facts)

    @property
    def num_entities(self) -> int:
        """Entities of the whole graph."""
        return self.partition.num_entities

    def answer_tie(self, entity: Tensor) -> Tensor:
        """Numbers that order entities which are otherwise alike; same shape, int64."""
        return entity if self.entity_tie is None else self.entity_tie[entity]

    def fact_tie(self, relation: Tensor, entity: Tensor) -> Tensor:
        """Numbers that order facts (any subject, relation, entity) which are otherwise alike; same shape, int64."""
        if self.entity_tie is None or self.relation_tie is None:
            return relation * self.num_entities + entity
        return self.relation_tie[relation] * _MIX + self.entity_tie[entity]

    @cached_property
    def times(self) -> list[int]:
        """Snapshots in which any rank has facts, ascending."""
        return self.snapshots.tolist()

    def times_in(self, split: str) -> list[int]:
        """Snapshots with facts in "train", "valid" or "test"."""
        first, end = self.bounds(split)
        return [time for time in self.times if first <= time < end]

    def share_of(self, split: str, num_facts: int) -> float:
        """The share of a split's facts that a number of facts is; 1 for 0, which stands for all, and for too many."""
        first, end = self.bounds(split)
        total = int(self.num_facts[(self.snapshots >= first) & (self.snapshots < end)].sum())
        return num_facts / total if 0 < num_facts < total else 1.0

    def bounds(self, split: str) -> tuple[int, int]:
        """The first snapshot of "train", "valid" or "test", and the first one after it."""
        starts = [0, self.valid_start, self.test_start, self.test_end]
        return starts[SPLITS.index(split)], starts[SPLITS.index(split) + 1]

    @property
    def end(self) -> int:
        """The snapshot after the last one with facts."""
        return self.times[-1] + 1 if self.times else 0

    def read(self, times: Sequence[int]) -> Iterator[Snapshot]:
        """The rank's facts of some snapshots; the next ones are read while one is used.

        Args:
            times: Ascending; a time without facts is an empty snapshot.

        Raises:
            ArtifactError: A stored file is damaged.
        """
        left = list(times)
        for slab in read_ahead(self.facts.slabs(left[0]), 1) if left else ():
            here = [time for time in left if time < slab.end]
            left = left[len(here) :]
            requested = torch.tensor(here, dtype=torch.int64)
            bounds = torch.searchsorted(slab.rows.time, torch.stack([requested, requested + 1])).T.tolist()
            for time, (start, stop) in zip(here, bounds, strict=True):
                yield Snapshot(time, *slab.rows.at(slice(start, stop))[1:], self.num_relations)
            if not left:
                return
        none = torch.zeros(0, dtype=torch.int64)
        yield from (Snapshot(time, none, none, none, self.num_relations) for time in left)

    def snapshot(self, time: int) -> Snapshot:
        """The rank's facts of one snapshot."""
        return next(self.read([time]))

    def rows(self) -> Rows:
        """All of the rank's facts, sorted."""
        slabs = [slab.rows for slab in self.facts.slabs()]
        return Rows(*(torch.cat(columns) for columns in zip(*slabs, strict=True))) if slabs else Rows.of([])

    def distinct(self, key: Callable[[Rows], Tensor]) -> Tensor:
        """The distinct keys of the rank's facts, ascending, int64 (num_keys,).

        Args:
            key: Keys of rows, int64 (num_rows,); facts of different anchors have different ones.
        """
        found = [torch.unique(key(rows)) for rows in self.facts.parts()]
        return torch.unique(torch.cat([torch.zeros(0, dtype=torch.int64), *found]))


def read_names(path: Path, kind: str, updates: Sequence[Update] = ()) -> pa.ChunkedArray:
    """Names of a `graph/` artifact's entities (kind "entity") or relations ("relation"), in the order of their ids.

    Those of its updates follow.
    """
    chunks = [
        chunk
        for names in (_read_column(path, kind, kind), *(update.names(kind) for update in updates))
        for chunk in names.chunks
    ]
    return pa.chunked_array([chunk.cast(pa.large_string()) for chunk in chunks], pa.large_string())


def _read_column(path: Path, kind: str, column: str) -> pa.ChunkedArray:
    plural = {"entity": "entities", "relation": "relations"}[kind]
    return read_table(path / f"{plural}.parquet", columns=[column])[column]


def _bucket_files(path: Path, partition: Partition, num_facts: int) -> list[list[Path]]:
    """Files of the partition's buckets, bucket by bucket."""
    folders = [path / "anchored" / f"bucket={bucket:03d}" for bucket in partition.own_buckets]
    files = [sorted(folder.glob("*.parquet")) for folder in folders]
    found = count_rows([file for bucket in files for file in bucket]) if partition.world_size == 1 else 2 * num_facts
    if found != 2 * num_facts:
        raise ArtifactError(f"{path}/anchored: {found} rows, the manifest counts {2 * num_facts}; {redo('graph')}")
    return files


def _anchored_rows(facts: np.ndarray, num_relations: int) -> Rows:
    """Anchored facts of rows (subject, relation, object, snapshot), (num_facts, 4), sorted."""
    subject, relation, other, time = np.asarray(facts, dtype=np.int64).reshape(-1, 4).T
    columns = np.concatenate([time, time]), *anchored_facts(subject, relation, other, num_relations)
    return Rows(*(torch.as_tensor(column) for column in columns)).sorted()


def _counts_with(snapshots: np.ndarray, num_facts: np.ndarray, added: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Snapshots and their numbers of facts with the snapshots of more facts, (num_added,)."""
    found, place = np.unique(np.concatenate([snapshots, added]), return_inverse=True)
    weight = np.concatenate([num_facts, np.ones(len(added), np.int64)])
    return found, np.bincount(place, weight, len(found)).astype(np.int64)


def _known(trained: np.ndarray, number: int) -> Tensor:
    """Which of so many ids are trained; those that have come since are not."""
    return torch.from_numpy(np.pad(trained, (0, number - len(trained))))


def _name_hashes(names: pa.ChunkedArray) -> Tensor:
    hashes = hash_array(names.to_numpy(), categorize=False)  # ty: ignore[not-callable] -- its stub is lazy
    return torch.from_numpy(hashes.view(np.int64))
