"""The tasks of `prepare`: each works on one block, from Arrow tables to Arrow tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from gam_kg.data_config import ColumnsConfig
from gam_kg.ingest.merging import (
    SOURCED_FACTS,
    anchored_tables,
    duplicates,
    partition_of,
    sort_anchored,
    stored,
    tally_entities,
    tally_relations,
)
from gam_kg.ingest.splits import Extremes, Timeline, split_extremes
from gam_kg.ingest.time_axis import TimestampRange
from gam_kg.ingest.time_notes import Notes
from gam_kg.ingest.timestamps import TimeForm, date_of_digits
from gam_kg.ingest.validation import DUPLICATE, Validated, quarantine, validate
from gam_kg.ingest.vocabulary import Vocabulary, merge_tallies, partition_tally
from gam_kg.parquet import write_table
from gam_kg.schemas import QUARANTINE
from pipelines.sources import RowGroup, Sources

ROW_GROUP_ROWS = 16_384  # a worker that streams the graph has one of each bucket in memory

_FACTS_A_TABLE = 500_000


@dataclass(frozen=True)
class Reader:
    """Reads and validates the input.

    Attributes:
        sources: The files.
        columns: Their names of the columns.
        form: How timestamps are read.
        folds: Differences between names that do not count.
        use_split: Whether the split column matters.
    """

    sources: Sources
    columns: ColumnsConfig
    form: TimeForm
    folds: tuple[str, ...]
    use_split: bool

    def tables(self, groups: pa.Table) -> Iterator[tuple[int, int, pa.Table, Validated]]:
        """(source, first row, raw table, the same validated) of each piece of some row groups."""
        for values in groups.to_pylist():
            group = RowGroup(**values)
            for table, first_row in self.sources.read(group, self.columns):
                found = validate(
                    table,
                    self.columns,
                    self.sources.names[group.source],
                    first_row,
                    use_split=self.use_split,
                    form=self.form,
                    folds=self.folds,
                )
                yield group.source, first_row, table, found


@dataclass(frozen=True)
class FactsSummary:
    """Counts of a block of facts; `longest` is (length, timestamp, end, source, row) of the longest interval."""

    notes: Notes
    timestamps: TimestampRange | None
    extremes: Extremes
    longest: tuple[int, int, int, int, int]


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


def read_facts(groups: pa.Table, reader: Reader) -> Iterator[pa.Table]:
    """Row groups → the good rows, as SOURCED_FACTS."""
    for source, _, _, found in reader.tables(groups):
        number = pa.array(np.full(len(found.good), source, np.int32))
        yield pa.table([*found.good.columns, number], schema=SOURCED_FACTS)


def read_quarantine(groups: pa.Table, reader: Reader, duplicate_rows: ray.ObjectRef) -> Iterator[pa.Table]:
    """Row groups → the bad rows and the listed duplicates with their original values, as QUARANTINE in row order."""
    rows_of_source: dict[int, np.ndarray] = ray.get(duplicate_rows)
    yield QUARANTINE.empty_table()
    for source, first_row, table, found in reader.tables(groups):
        rows = rows_of_source.get(source, np.empty(0, np.int64))
        here = rows[slice(*np.searchsorted(rows, [first_row, first_row + len(table)]))] - first_row
        file = reader.sources.names[source]
        same = quarantine(table, reader.columns, file, first_row, here, [DUPLICATE] * len(here))
        yield pa.concat_tables([found.quarantined, same]).sort_by("row")


def read_date_digits(facts: pa.Table) -> pa.Table:
    """SOURCED_FACTS whose timestamps are integers like 20240131 → the same with dates."""
    for name in ("timestamp", "end"):
        column = facts.column_names.index(name)
        dates, _ = date_of_digits(facts[name].fill_null(0).to_numpy())
        dates = pa.array(dates, mask=facts[name].is_null().to_numpy())
        facts = facts.set_column(column, SOURCED_FACTS.field(name), dates)
    return facts


def summarise_facts(facts: pa.Table) -> FactsSummary:
    """Summarise a block of facts whose snapshots are not known yet."""
    if not len(facts):
        return FactsSummary(Notes(0, {}), None, {}, (0, 0, 0, 0, 0))
    timestamp, source, row = (facts[name].to_numpy() for name in ("timestamp", "source", "row"))
    with_end = facts["end"].is_valid().to_numpy()
    end = np.where(with_end, facts["end"].fill_null(0).to_numpy(), timestamp)
    at = int(np.argmax(end - timestamp))
    found = TimestampRange.merge([TimestampRange.of(timestamp), TimestampRange.of(end)])
    longest = (int(end[at] - timestamp[at]), int(timestamp[at]), int(end[at]), int(source[at]), int(row[at]))
    return FactsSummary(Notes.of(facts), found, split_extremes(facts), longest)


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


def tally_block(merged: pa.Table, partitions: int) -> tuple[pa.Table, ...] | pa.Table:
    """MERGED → TALLY of its entities, a table for each hashed partition of names; for one partition, that table."""
    parts = partition_tally(tally_entities(stored(merged)), partitions)
    return parts if partitions > 1 else parts[0]


def merge_parts(*parts: pa.Table) -> pa.Table:
    """The TALLY of a partition from those of all its blocks."""
    return merge_tallies(parts)


def anchor_facts(
    merged: pa.Table, entities: ray.ObjectRef, relations: ray.ObjectRef, buckets: int
) -> Iterator[pa.Table]:
    """MERGED → BUCKETED. The vocabularies come through the object store, one copy per machine."""
    vocabularies = Vocabulary(ray.get(entities), "entity"), Vocabulary(ray.get(relations), "relation")
    yield from anchored_tables(stored(merged), *vocabularies, buckets, _FACTS_A_TABLE)


def write_bucket(rows: pa.Table, folder: Path) -> pa.Table:
    """All BUCKETED rows of a bucket → its sorted file; returns the number of rows."""
    bucket = folder / f"bucket={rows['bucket'][0].as_py():03d}"
    bucket.mkdir(parents=True, exist_ok=True)
    write_table(sort_anchored(rows), bucket / "part-0.parquet", row_group_size=ROW_GROUP_ROWS)
    return pa.table({"rows": pa.array([len(rows)], pa.int64())})
