"""What is done with each block of merged facts, in any number of processes: from Arrow tables to Arrow tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gam_kg.ingest.merging import (
    anchored_tables,
    duplicates,
    open_table,
    opened,
    partition_of,
    sort_anchored,
    stored,
    tally_entities,
    tally_relations,
)
from gam_kg.ingest.splits import Timeline
from gam_kg.ingest.vocabulary import Vocabulary, merge_tallies, partition_tally
from gam_kg.parquet import write_table

ROW_GROUP_ROWS = 16_384  # a worker that streams the graph has one of each bucket in memory

_FACTS_A_TABLE = 500_000


@dataclass(frozen=True)
class MergedSummary:
    """Counts of a block of merged facts, or of several.

    Attributes:
        relations: TALLY.
        timeline: Facts a snapshot.
        merged: Duplicates that were merged with the row that they repeat, or are listed.
        duplicates: Source → row numbers, ascending, of duplicates that are listed.
    """

    relations: pa.Table
    timeline: Timeline
    merged: int
    duplicates: dict[int, np.ndarray]

    @classmethod
    def merge(cls, summaries: list["MergedSummary"]) -> "MergedSummary":
        """The summary of all the blocks together, in any order."""
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


def add_partition(facts: pa.Table, partitions: int) -> pa.Table:
    """SOURCED_FACTS → the same without notes, and the partition in which each row is merged."""
    facts = facts.drop_columns(["notes"])
    return facts.append_column("partition", pa.array(partition_of(facts, partitions)))


def summarise_merged(merged: pa.Table) -> MergedSummary:
    """Summarise a block of merged facts whose ids are not known yet; `tally_block` counts the entities."""
    facts, same = stored(merged), duplicates(merged)
    source, row = same["source"].to_numpy(), same["row"].to_numpy()
    return MergedSummary(
        tally_relations(facts),
        Timeline.of(facts["start"].to_numpy(), facts["stop"].to_numpy()),
        int(facts["merged"].to_numpy().sum()),
        {int(which): np.sort(row[source == which]) for which in np.unique(source)},
    )


def tally_block(merged: pa.Table, partitions: int) -> tuple[pa.Table, ...]:
    """MERGED → TALLY of its entities, a table for each hashed partition of names."""
    return partition_tally(tally_entities(stored(merged)), partitions)


def anchor_facts(merged: pa.Table, entities: pa.Array, relations: pa.Array, buckets: int) -> Iterator[pa.Table]:
    """MERGED → BUCKETED, given all names by id."""
    vocabularies = Vocabulary(entities, "entity"), Vocabulary(relations, "relation")
    yield from anchored_tables(stored(merged), *vocabularies, buckets, _FACTS_A_TABLE)


def encode_open(merged: pa.Table, entities: pa.Array, relations: pa.Array) -> pa.Table:
    """MERGED → OPEN_FACTS, given all names by id."""
    return open_table(opened(merged), Vocabulary(entities), Vocabulary(relations, "relation"))


def write_bucket(rows: pa.Table, folder: Path) -> pa.Table:
    """All BUCKETED rows of a bucket → its sorted file; returns the number of rows."""
    bucket = folder / f"bucket={rows['bucket'][0].as_py():03d}"
    bucket.mkdir(parents=True, exist_ok=True)
    write_table(sort_anchored(rows), bucket / "part-0.parquet", row_group_size=ROW_GROUP_ROWS)
    return pa.table({"rows": pa.array([len(rows)], pa.int64())})
