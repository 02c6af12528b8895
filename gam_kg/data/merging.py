"""From validated rows to stored facts: exact duplicates found, facts of one snapshot merged, intervals spelt out.

A stored fact is one (subject, relation, object) in one snapshot. Until the last step a run of snapshots is kept as
its start and stop, so that a fact that holds for years costs one row.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

from gam_kg.data.anchored import anchored_facts, bucket_of
from gam_kg.data.time_axis import TimeAxis
from gam_kg.data.validation import FACTS, NAME_COLUMNS
from gam_kg.data.vocabulary import Vocabulary, tally
from gam_kg.schemas import ANCHORED

# `source` is the position of the row's file among the input files.
SOURCED_FACTS = FACTS.append(pa.field("source", pa.int32(), nullable=False))

# A fact that holds in every snapshot of [start, stop], both inclusive; or, with null names, a duplicate row.
MERGED = pa.schema(
    [
        pa.field("subject", pa.large_string()),
        pa.field("relation", pa.large_string()),
        pa.field("object", pa.large_string()),
        pa.field("start", pa.int64()),
        pa.field("stop", pa.int64()),
        pa.field("merged", pa.int64()),
        pa.field("source", pa.int32()),
        pa.field("row", pa.int64()),
    ]
)

BUCKETED = ANCHORED.append(pa.field("bucket", pa.int32(), nullable=False))


def partition_of(table: pa.Table, partitions: int) -> np.ndarray:
    """A number in [0, partitions) for each row, the same for all rows with the same subject, relation and object."""
    mixed = np.zeros(len(table), np.uint64)
    for name in NAME_COLUMNS:
        codes, distinct = _codes(table[name])
        # ty: pandas resolves this name lazily, typed as object.
        hashes = hash_array(distinct.to_numpy(zero_copy_only=False).astype(object), categorize=False)  # ty: ignore[not-callable]
        mixed = mixed * np.uint64(1_000_003) + hashes[codes]
    # The low bits of the products are the weakest.
    return ((mixed >> np.uint64(17)) % np.uint64(partitions)).astype(np.int32)


def merge_facts(table: pa.Table, axis: TimeAxis) -> pa.Table:
    """Find duplicates, and merge what the same snapshot holds twice.

    Args:
        table: SOURCED_FACTS with all rows of each (subject, relation, object) in it.
        axis: From timestamps to snapshots.

    Returns:
        A MERGED table: a row for each run of snapshots in which a fact holds, where `merged` counts the snapshots of
        raw facts that fell together; and a row with null names for each exact duplicate (same names, timestamp and
        end) but the first by (source, row).
    """
    group = np.stack([_codes(table[name])[0] for name in NAME_COLUMNS])
    timestamp = table["timestamp"].to_numpy()
    end = table["end"].combine_chunks()
    no_end = np.asarray(end.is_null())
    end = np.where(no_end, timestamp, end.fill_null(0).to_numpy(zero_copy_only=False))
    source, row = table["source"].to_numpy(), table["row"].to_numpy()
    order = np.lexsort((row, source, no_end, end, timestamp, *group[::-1]))

    new_group = _changes(group[:, order])
    duplicate = ~(new_group | _changes(np.stack([timestamp, end, no_end])[:, order]))
    duplicates = order[duplicate]
    # The first row of a group is never a duplicate, so the groups survive the removal.
    order, new_group = order[~duplicate], new_group[~duplicate]
    start, stop = axis.snapshot(timestamp[order]), axis.snapshot(end[order])
    runs = np.flatnonzero(_run_starts(start, stop, new_group))
    first, last = (np.minimum.reduceat(start, runs), np.maximum.reduceat(stop, runs)) if len(runs) else (start, stop)
    raw = np.add.reduceat(stop - start + 1, runs) if len(runs) else start
    names = table.select(NAME_COLUMNS).take(pa.array(order[runs]))
    facts = [*names.columns, first, last, raw - (last - first + 1)]
    empty = pa.nulls(len(duplicates), pa.large_string()), pa.nulls(len(duplicates), pa.int64())
    return pa.concat_tables(
        [
            pa.table([*facts, pa.nulls(len(runs), pa.int32()), pa.nulls(len(runs), pa.int64())], schema=MERGED),
            pa.table([*[empty[0]] * 3, *[empty[1]] * 3, source[duplicates], row[duplicates]], schema=MERGED),
        ]
    )


def stored(merged: pa.Table) -> pa.Table:
    """The rows of a MERGED table that are facts."""
    return merged.filter(pc.is_valid(merged["subject"]))


def duplicates(merged: pa.Table) -> pa.Table:
    """The (source, row) of the rows of a MERGED table that are duplicates."""
    return merged.filter(pc.is_null(merged["subject"])).select(["source", "row"])


def tally_entities(facts: pa.Table) -> pa.Table:
    """TALLY of the entities: in how many stored facts each is (once where it is both subject and object)."""
    start, count = facts["start"].to_numpy(), _num_snapshots(facts)
    other = np.asarray(pc.not_equal(facts["subject"], facts["object"]))
    names = pa.chunked_array([*facts["subject"].chunks, *facts["object"].filter(pa.array(other)).chunks])
    return tally(names, np.concatenate([count, count[other]]), np.concatenate([start, start[other]]))


def tally_relations(facts: pa.Table) -> pa.Table:
    """TALLY of the relations."""
    return tally(facts["relation"], _num_snapshots(facts), facts["start"].to_numpy())


def anchored_tables(
    facts: pa.Table, entities: Vocabulary, relations: Vocabulary, buckets: int, max_facts: int
) -> Iterator[pa.Table]:
    """Spell facts out into BUCKETED tables: two rows for each snapshot that a fact holds in.

    Args:
        facts: MERGED rows that are facts.
        entities: Entity ids.
        relations: Relation ids.
        buckets: Number of buckets.
        max_facts: Stored facts a table; a fact that holds for longer is cut over several.
    """
    ids = [
        vocabulary.encode(facts[name])
        for name, vocabulary in zip(NAME_COLUMNS, (entities, relations, entities), strict=True)
    ]
    start, count = facts["start"].to_numpy(), _num_snapshots(facts)
    begins = np.cumsum(count) - count
    for low in range(0, int(count.sum()), max_facts):
        position = np.arange(low, min(low + max_facts, int(count.sum())))
        fact = np.searchsorted(begins, position, side="right") - 1
        snapshot = start[fact] + position - begins[fact]
        anchor, relation, other = anchored_facts(*(column[fact] for column in ids), len(relations))
        columns = [np.concatenate([snapshot, snapshot]), anchor, relation.astype(np.int32), other]
        yield pa.table([*columns, bucket_of(anchor, buckets).astype(np.int32)], schema=BUCKETED)


def sort_anchored(table: pa.Table) -> pa.Table:
    """ANCHORED rows by snapshot, then anchor, relation and other: one order, whatever order they came in."""
    keys = [table[name].to_numpy() for name in reversed(ANCHORED.names)]
    return table.select(ANCHORED.names).take(pa.array(np.lexsort(keys))).combine_chunks().cast(ANCHORED)


def _num_snapshots(facts: pa.Table) -> np.ndarray:
    return facts["stop"].to_numpy() - facts["start"].to_numpy() + 1


def _codes(names: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    encoded = pa.concat_arrays(names.chunks or [pa.array([], pa.large_string())]).dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary


def _changes(sorted_columns: np.ndarray) -> np.ndarray:
    """Where a row differs from the row before it; the first always does. Columns have shape (keys, rows)."""
    changed = np.ones(sorted_columns.shape[1], bool)
    changed[1:] = (sorted_columns[:, 1:] != sorted_columns[:, :-1]).any(axis=0)
    return changed


def _run_starts(start: np.ndarray, stop: np.ndarray, new_group: np.ndarray) -> np.ndarray:
    """Where a row, sorted by start within its group, holds in no snapshot of the rows before it."""
    reached = pd.Series(stop).groupby(np.cumsum(new_group)).cummax().to_numpy()
    begins = new_group.copy()
    begins[1:] |= start[1:] > reached[:-1]
    return begins
