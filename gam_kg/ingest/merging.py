"""From validated rows to stored facts: duplicates found, facts of one snapshot merged, intervals written out.

A stored fact is one (subject, relation, object) in one snapshot. Until the last step a run of snapshots is stored as
its start and stop, so that a fact that holds for years costs one row.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.graph.anchored import anchored_facts, bucket_of
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.ingest.validation import FACTS, NAME_COLUMNS
from gam_kg.ingest.vocabulary import Vocabulary, partition_by_hash, tally
from gam_kg.schemas import ANCHORED

# `source` is the position of the row's file among the input files.
SOURCED_FACTS = FACTS.append(pa.field("source", pa.int32(), nullable=False))

# A fact that holds in every snapshot of [start, stop], both inclusive; or, with null names, a duplicate row.
MERGED = pa.schema(
    dict.fromkeys(NAME_COLUMNS, pa.large_string())
    | dict.fromkeys(("start", "stop", "merged"), pa.int64())
    | {"source": pa.int32(), "row": pa.int64()}
)

BUCKETED = ANCHORED.append(pa.field("bucket", pa.int32(), nullable=False))


def partition_of(table: pa.Table, partitions: int) -> np.ndarray:
    """A number in [0, partitions) for each row, the same for all rows with the same subject, relation and object."""
    return partition_by_hash(table.select(NAME_COLUMNS), partitions)


def merge_facts(table: pa.Table, axis: TimeAxis, *, list_duplicates: bool = False) -> pa.Table:
    """Merge rows of the same fact that are in the same snapshots.

    A row is a duplicate if one other row of the same fact is in all the snapshots that it is in, however precise their
    timestamps are; of rows in the same snapshots, all but the first by (source, row) are duplicates.

    Args:
        table: SOURCED_FACTS with all rows of each (subject, relation, object) in it.
        axis: The time axis.
        list_duplicates: Also return the duplicates.

    Returns:
        A MERGED table: a row for each run of snapshots in which a fact holds, where `merged` is the number of
        duplicates in it; and, if they are to be listed, a row with null names for each duplicate.
    """
    codes = {name: table[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in NAME_COLUMNS}
    facts = pd.DataFrame(codes)
    facts["start"] = axis.snapshot(table["timestamp"].to_numpy())
    facts["stop"] = axis.snapshot(pc.coalesce(table["end"], table["timestamp"]).to_numpy())
    order = [table["row"].to_numpy(), table["source"].to_numpy(), -facts["stop"], facts["start"]]
    facts = facts.iloc[np.lexsort([*order, *(facts[name] for name in reversed(NAME_COLUMNS))])]
    new = ~facts.duplicated([*NAME_COLUMNS])
    reached = facts.groupby([*NAME_COLUMNS], sort=False)["stop"].cummax().shift(fill_value=0)
    duplicate = ~new & (facts["stop"] <= reached)
    facts = facts.assign(position=facts.index, merged=duplicate.astype(np.int64))
    run = (new | (facts["start"] > reached)).cumsum()
    runs = facts.groupby(run).agg({"position": "first", "start": "min", "stop": "max", "merged": "sum"})
    names = table.select(NAME_COLUMNS).take(pa.array(runs.pop("position")))
    merged = pa.table([*names.columns, *runs.to_numpy().T], names=[*NAME_COLUMNS, *runs.columns])
    listed = facts.index[duplicate] if list_duplicates else facts.index[:0]
    return pa.concat_tables(
        [merged, table.select(["source", "row"]).take(pa.array(listed, pa.int64()))], promote_options="default"
    ).cast(MERGED)


def stored(merged: pa.Table) -> pa.Table:
    """The rows of a MERGED table that are facts."""
    return merged.filter(pc.is_valid(merged["subject"]))


def duplicates(merged: pa.Table) -> pa.Table:
    """The (source, row) of the duplicates that a MERGED table lists."""
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
    """Write MERGED facts out as BUCKETED tables: two rows for each snapshot in which a fact holds.

    A table has at most `max_facts` stored facts; the snapshots of one fact may be in several tables.
    """
    vocabularies = {"subject": entities, "relation": relations, "object": entities}
    ids = [vocabulary.encode(facts[name]) for name, vocabulary in vocabularies.items()]
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
    keys = [(name, "ascending") for name in ANCHORED.names]
    return table.select(ANCHORED.names).sort_by(keys).combine_chunks().cast(ANCHORED)


def _num_snapshots(facts: pa.Table) -> np.ndarray:
    return facts["stop"].to_numpy() - facts["start"].to_numpy() + 1
