"""The prepare stage: facts in Parquet → `graph/`, by the tasks of Ray Data.

Tasks read, validate and shuffle the facts, and count and merge the names, in hashed partitions; this process never has
the facts. Workers write the buckets into the run's folder, which on a cluster must therefore be shared storage.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import Dataset

from gam_kg.artifacts import Content
from gam_kg.ingest import prepare as ingest
from gam_kg.ingest.blocks import Step, Summary, tables_of
from gam_kg.ingest.merged_blocks import tally_block
from gam_kg.ingest.prepare import FactsInput, make_graph
from gam_kg.ingest.vocabulary import merge_tallies
from gam_kg.workflow.prepare import prepare_stage
from .memory import Room
from .ray_session import ray_session, starts_here
from .row_counter import counted, counted_rows

_ROWS_A_BLOCK = 250_000
_MOST_TALLIES = 32

logger = logging.getLogger("gam_kg")


@dataclass(frozen=True)
class RayBlocks:
    """`gam_kg.ingest.blocks.Blocks` in a Ray Data set, on which tasks work; see there. `rows` counts what they do."""

    dataset: Dataset
    room: Room
    rows: Any

    @classmethod
    def of(cls, found: FactsInput, room: Room, rows: Any) -> "RayBlocks":
        """The row groups of the input, divided among tasks."""
        blocks = min(len(found.groups), -(-found.num_rows // _ROWS_A_BLOCK))
        groups = [asdict(group) for group in found.groups]
        return cls(ray.data.from_items(groups, override_num_blocks=max(blocks, 1)), room, rows)

    def map(self, step: Step, **shared: Any) -> "RayBlocks":
        step = counted(step, self.rows)
        if shared:
            step = partial(_with_shared, step=step, shared={name: ray.put(value) for name, value in shared.items()})
        return self._of(self.dataset.map_batches(step, batch_size=None, batch_format="pyarrow"))

    def by(self, column: str, step: Step) -> "RayBlocks":
        return self._of(self.dataset.groupby(column).map_groups(counted(step, self.rows), batch_format="pyarrow"))

    def computed(self) -> "RayBlocks":
        return self._of(self.dataset.materialize())

    def each(self, summarise: Callable[[pa.Table], Summary]) -> Iterator[Summary]:
        task = ray.remote(summarise)
        for summary in [task.remote(block) for block in self.dataset.to_arrow_refs()]:
            yield ray.get(summary)

    def tables(self) -> Iterator[pa.Table]:
        return iter(self.dataset.iter_batches(batch_size=None, batch_format="pyarrow"))

    def tally(self, num_rows: int) -> pa.Table:
        """Tasks merge it, each the names of one hashed partition; here they are concatenated."""
        partitions = min(-(-num_rows // ingest.ROWS_A_PARTITION), _MOST_TALLIES)
        task = ray.remote(num_returns=partitions)(_tally_block)
        blocks = [task.remote(block, partitions) for block in self.dataset.to_arrow_refs()]
        parts = zip(*blocks, strict=True) if partitions > 1 else [blocks]
        merge = ray.remote(_merge_parts)
        tallies: list[pa.Table] = []
        for tally in [merge.remote(*part) for part in parts]:
            tallies.append(ray.get(tally))
            self.room.check_names(sum(one.nbytes for one in tallies))
        return pa.concat_tables(tallies)

    def _of(self, dataset: Dataset) -> "RayBlocks":
        return RayBlocks(dataset, self.room, self.rows)


def _with_shared(table: pa.Table, step: Step, shared: dict[str, ray.ObjectRef]) -> Iterator[pa.Table]:
    """A step whose large values come through the object store, one copy a machine."""
    yield from tables_of(step(table, **{name: ray.get(value) for name, value in shared.items()}))


def _tally_block(merged: pa.Table, partitions: int) -> tuple[pa.Table, ...] | pa.Table:
    parts = tally_block(merged, partitions)
    return parts if partitions > 1 else parts[0]  # as Ray counts what is returned


def _merge_parts(*parts: pa.Table) -> pa.Table:
    return merge_tallies(parts)


def _make(found: FactsInput, folder: Path) -> Content:
    limit = found.config.prepare.memory_gib
    if limit is not None and not starts_here():
        logger.warning("prepare.memory_gib=%g limits a Ray that is started here; one runs already and is used", limit)
        limit = None
    room = Room.of(limit)
    with ray_session(num_cpus=room.tasks, object_store_memory=room.store), counted_rows(found.num_rows) as rows:
        return make_graph(found, RayBlocks.of(found, room, rows), folder)


prepare = prepare_stage(_make)
