"""What the workers of `prepare` do with a block. Each takes and gives Arrow tables and holds no more than a block."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from gam_kg.config import ColumnsConfig
from gam_kg.data.merging import (
    SOURCED_FACTS,
    anchored_tables,
    duplicates,
    merge_facts,
    partition_of,
    sort_anchored,
    stored,
    tally_entities,
    tally_relations,
)
from gam_kg.data.splits import Extremes, Timeline, split_extremes
from gam_kg.data.time_axis import TimeAxis, TimestampRange
from gam_kg.data.validation import DUPLICATE, quarantine, validate
from gam_kg.data.vocabulary import Vocabulary, merge_tallies, partition_tally
from gam_kg.schemas import QUARANTINE
from pipelines.sources import RowGroup, Sources

ROW_GROUP_ROWS = 16_384  # a worker that streams the graph holds one of each bucket

_FACTS_A_TABLE = 500_000

TableStep = Callable[[pa.Table], Iterator[pa.Table]]


@dataclass(frozen=True)
class FactsSummary:
    """Of a block of validated facts. `longest` is (length, timestamp, end, source, row) of the longest interval."""

    num_facts: int
    timestamps: TimestampRange | None
    extremes: Extremes
    longest: tuple[int, int, int, int, int]


@dataclass(frozen=True)
class MergedSummary:
    """Of a block of merged facts, or of several.

    Attributes:
        relations: TALLY.
        timeline: Facts a snapshot.
        merged: Raw facts that fell together in a snapshot.
        duplicates: Source → row numbers, ascending, of duplicates.
    """

    relations: pa.Table
    timeline: Timeline
    merged: int
    duplicates: dict[int, np.ndarray]

    @classmethod
    def merge(cls, summaries: list["MergedSummary"]) -> "MergedSummary":
        """Of all the blocks together, in whatever order."""
        sources = sorted({source for found in summaries for source in found.duplicates})
        rows = {
            source: [found.duplicates[source] for found in summaries if source in found.duplicates]
            for source in sources
        }
        return cls(
            merge_tallies([found.relations for found in summaries]),
            Timeline.merge([found.timeline for found in summaries]),
            sum(found.merged for found in summaries),
            {source: np.sort(np.concatenate(found)) for source, found in rows.items()},
        )


def read_facts(sources: Sources, columns: ColumnsConfig, *, use_split: bool) -> TableStep:
    """Row groups → the good rows, as SOURCED_FACTS."""

    def step(groups: pa.Table) -> Iterator[pa.Table]:
        for group in _row_groups(groups):
            for table, first_row in sources.read(group, columns):
                name = sources.names[group.source]
                good = validate(table, columns, name, first_row, use_split=use_split).good
                source = pa.array(np.full(len(good), group.source, np.int32))
                yield pa.table([*good.columns, source], schema=SOURCED_FACTS)

    return step


def read_quarantine(
    sources: Sources, columns: ColumnsConfig, duplicate_rows: ray.ObjectRef, *, use_split: bool
) -> TableStep:
    """Row groups → the bad rows and the duplicates with their original values, as QUARANTINE in row order."""

    def step(groups: pa.Table) -> Iterator[pa.Table]:
        rows_of_source: dict[int, np.ndarray] = ray.get(duplicate_rows)
        yield QUARANTINE.empty_table()
        for group in _row_groups(groups):
            rows = rows_of_source.get(group.source, np.empty(0, np.int64))
            for table, first_row in sources.read(group, columns):
                name = sources.names[group.source]
                bad = validate(table, columns, name, first_row, use_split=use_split).quarantined
                here = rows[slice(*np.searchsorted(rows, [first_row, first_row + len(table)]))] - first_row
                same = quarantine(table, columns, name, first_row, here, [DUPLICATE] * len(here))
                yield pa.concat_tables([bad, same]).sort_by("row")

    return step


def summarise_facts(facts: pa.Table) -> FactsSummary:
    """What is needed of all facts before their snapshots are known."""
    if not len(facts):
        return FactsSummary(0, None, {}, (0, 0, 0, 0, 0))
    timestamp, source, row = (facts[name].to_numpy() for name in ("timestamp", "source", "row"))
    with_end = facts["end"].is_valid().to_numpy()
    end = np.where(with_end, facts["end"].fill_null(0).to_numpy(), timestamp)
    at = int(np.argmax(end - timestamp))
    found = TimestampRange.merge([TimestampRange.of(timestamp), TimestampRange.of(end)])
    longest = (int(end[at] - timestamp[at]), int(timestamp[at]), int(end[at]), int(source[at]), int(row[at]))
    return FactsSummary(len(facts), found, split_extremes(facts), longest)


def add_partition(partitions: int) -> Callable[[pa.Table], pa.Table]:
    """SOURCED_FACTS → the same with the partition that each row is merged in."""

    def step(facts: pa.Table) -> pa.Table:
        return facts.append_column("partition", pa.array(partition_of(facts, partitions)))

    return step


def merge_partition(axis: TimeAxis) -> Callable[[pa.Table], pa.Table]:
    """A partition of SOURCED_FACTS → MERGED."""

    def step(facts: pa.Table) -> pa.Table:
        return merge_facts(facts, axis)

    return step


def summarise_merged(merged: pa.Table) -> MergedSummary:
    """What is needed of all merged facts before their ids are known, but for the entities."""
    facts, same = stored(merged), duplicates(merged)
    source, row = same["source"].to_numpy(), same["row"].to_numpy()
    return MergedSummary(
        tally_relations(facts),
        Timeline.of(facts["start"].to_numpy(), facts["stop"].to_numpy()),
        int(facts["merged"].to_numpy().sum()),
        {int(which): np.sort(row[source == which]) for which in np.unique(source)},
    )


def tally_block(partitions: int) -> Callable[[pa.Table], tuple[pa.Table, ...] | pa.Table]:
    """MERGED → TALLY of its entities, by hashed partitions of their names; of one partition the table itself."""

    def step(merged: pa.Table) -> tuple[pa.Table, ...] | pa.Table:
        parts = partition_tally(tally_entities(stored(merged)), partitions)
        return parts if partitions > 1 else parts[0]

    return step


def merge_parts(*parts: pa.Table) -> pa.Table:
    """The TALLY of a partition from those of all blocks."""
    return merge_tallies(parts)


def anchor_facts(entities: ray.ObjectRef, relations: ray.ObjectRef, buckets: int) -> TableStep:
    """MERGED → BUCKETED. The vocabularies come through the object store, one copy a machine."""

    def step(merged: pa.Table) -> Iterator[pa.Table]:
        vocabularies = Vocabulary(ray.get(entities), "entity"), Vocabulary(ray.get(relations), "relation")
        yield from anchored_tables(stored(merged), *vocabularies, buckets, _FACTS_A_TABLE)

    return step


def write_bucket(folder: Path) -> Callable[[pa.Table], pa.Table]:
    """All BUCKETED rows of a bucket → its sorted file; gives the number of rows."""

    def step(rows: pa.Table) -> pa.Table:
        place = folder / f"bucket={rows['bucket'][0].as_py():03d}"
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(sort_anchored(rows), place / "part-0.parquet", compression="zstd", row_group_size=ROW_GROUP_ROWS)
        return pa.table({"rows": pa.array([len(rows)], pa.int64())})

    return step


def _row_groups(groups: pa.Table) -> Iterator[RowGroup]:
    for values in groups.to_pylist():
        yield RowGroup(**values)
