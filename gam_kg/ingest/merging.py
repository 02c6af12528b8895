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
from gam_kg.schemas import ANCHORED, OPEN_FACTS

# `source` is the position of the row's file among the input files.
SOURCED_FACTS = FACTS.append(pa.field("source", pa.int32(), nullable=False))

# A fact that holds in every snapshot of [start, stop], both inclusive; with a null stop: a fact that stays open; with
# null names: a duplicate row.
MERGED = pa.schema(
    dict.fromkeys(NAME_COLUMNS, pa.large_string())
    | dict.fromkeys(("start", "stop", "merged"), pa.int64())
    | {"source": pa.int32(), "row": pa.int64()}
)

BUCKETED = ANCHORED.append(pa.field("bucket", pa.int32(), nullable=False))


def partition_of(table: pa.Table, partitions: int) -> np.ndarray:
    """A number in [0, partitions) for each row, the same for all rows with the same subject, relation and object."""
    return partition_by_hash(table.select(NAME_COLUMNS), partitions)


def merge_facts(
    table: pa.Table, axis: TimeAxis, *, open_stop: int | None = None, list_duplicates: bool = False
) -> pa.Table:
    """Merge rows of the same fact that are in the same snapshots.

    A row is a duplicate if one other row of the same fact is in all the snapshots that it is in, however precise their
    timestamps are; of rows in the same snapshots, all but the first by (source, row) are duplicates.

    Args:
        table: SOURCED_FACTS with all rows of each (subject, relation, object) in it.
        axis: The time axis.
        open_stop: The last snapshot of the data, in which facts without an end still hold; None if they are in their
            first snapshot only. A row without an end to which another row of the same fact and start gives one is
            merged with that, and is no duplicate.
        list_duplicates: Also return the duplicates.

    Returns:
        A MERGED table: a row for each run of snapshots in which a fact holds, where `merged` is the number of
        duplicates in it; a row with a null `stop` for each fact that stays open; and, if they are to be listed, a row
        with null names for each duplicate.
    """
    codes = {name: table[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in NAME_COLUMNS}
    facts = pd.DataFrame(codes)
    facts["start"] = start = axis.snapshot(table["timestamp"].to_numpy())
    facts["stop"] = axis.snapshot(pc.coalesce(table["end"], table["timestamp"]).to_numpy())
    still_open, ended = np.zeros((2, len(facts)), bool)
    if open_stop is not None:
        still_open, ended = _hold(facts, table["end"].is_null().to_numpy(), open_stop)
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
    listed = facts.index[duplicate & ~ended[facts.index]] if list_duplicates else facts.index[:0]
    open_facts = table.select(NAME_COLUMNS).append_column("start", pa.array(start)).filter(pa.array(still_open))
    return pa.concat_tables(
        [merged, open_facts, table.select(["source", "row"]).take(pa.array(listed, pa.int64()))],
        promote_options="default",
    ).cast(MERGED)


def stored(merged: pa.Table) -> pa.Table:
    """The rows of a MERGED table that are facts."""
    return merged.filter(pc.is_valid(merged["stop"]))


def opened(merged: pa.Table) -> pa.Table:
    """The subject, relation, object and start of the facts that stay open in a MERGED table."""
    is_open = pc.and_(pc.is_valid(merged["subject"]), pc.is_null(merged["stop"]))
    return merged.filter(is_open).select([*NAME_COLUMNS, "start"])


def duplicates(merged: pa.Table) -> pa.Table:
    """The (source, row) of the duplicates that a MERGED table lists."""
    return merged.filter(pc.is_null(merged["subject"])).select(["source", "row"])


def _hold(facts: pd.DataFrame, is_open: np.ndarray, open_stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Set the `stop` of rows without an end: `open_stop`, or before their start where another row has their end.

    Returns:
        (the first row of each fact that stays open, rows whose end another row has), bool (num_rows,).
    """
    fact = [*NAME_COLUMNS, "start"]
    has_end = facts.assign(ends=~is_open).groupby(fact, sort=False)["ends"].transform("any").to_numpy(bool)
    ended = is_open & has_end
    # Of the rows with the same start, one with the end comes before it then.
    facts["stop"] = np.select([ended, is_open], [facts["start"] - 1, open_stop], facts["stop"])
    return is_open & ~has_end & ~facts.assign(open=is_open).duplicated([*fact, "open"]).to_numpy(), ended


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
    ids = _ids(facts, entities, relations)
    start, count = facts["start"].to_numpy(), _num_snapshots(facts)
    begins = np.cumsum(count) - count
    for low in range(0, int(count.sum()), max_facts):
        position = np.arange(low, min(low + max_facts, int(count.sum())))
        fact = np.searchsorted(begins, position, side="right") - 1
        snapshot = start[fact] + position - begins[fact]
        anchor, relation, other = anchored_facts(*(column[fact] for column in ids), len(relations))
        columns = [np.concatenate([snapshot, snapshot]), anchor, relation.astype(np.int32), other]
        yield pa.table([*columns, bucket_of(anchor, buckets).astype(np.int32)], schema=BUCKETED)


def open_table(facts: pa.Table, entities: Vocabulary, relations: Vocabulary) -> pa.Table:
    """Facts that `opened` returned, as OPEN_FACTS."""
    return pa.table([*_ids(facts, entities, relations), facts["start"]], schema=OPEN_FACTS)


def sort_anchored(table: pa.Table) -> pa.Table:
    """ANCHORED rows by snapshot, then anchor, relation and other: one order, whatever order they came in."""
    keys = [(name, "ascending") for name in ANCHORED.names]
    return table.select(ANCHORED.names).sort_by(keys).combine_chunks().cast(ANCHORED)


def _ids(facts: pa.Table, entities: Vocabulary, relations: Vocabulary) -> list[np.ndarray]:
    vocabularies = {"subject": entities, "relation": relations, "object": entities}
    return [vocabulary.encode(facts[name]) for name, vocabulary in vocabularies.items()]


def _num_snapshots(facts: pa.Table) -> np.ndarray:
    return facts["stop"].to_numpy() - facts["start"].to_numpy() + 1
