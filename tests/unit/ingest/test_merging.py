import numpy as np
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from gam_kg.ingest.merging import (
    MERGED,
    SOURCED_FACTS,
    anchored_tables,
    duplicates,
    merge_facts,
    open_table,
    opened,
    partition_of,
    sort_anchored,
    stored,
    tally_entities,
    tally_relations,
)
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.schemas import ANCHORED, OPEN_FACTS

AXIS = TimeAxis("integer", 3, 0)
ENTITIES = Vocabulary(pa.array(["a", "b", "c"]))
RELATIONS = Vocabulary(pa.array(["q", "r"]), "relation")

# Few names and times, so that facts collide.
facts = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.sampled_from("qr"), st.sampled_from("ac"), st.integers(0, 9), st.integers(-1, 9)
    ),
    max_size=60,
)


def sourced(rows):
    """Rows of (subject, relation, object, timestamp, length); a negative length is no end."""
    subject, relation, object, timestamp, length = zip(*rows, strict=True) if rows else ((),) * 5
    ends = [None if more < 0 else at + more for at, more in zip(timestamp, length, strict=True)]
    numbers = list(range(len(rows)))
    columns = [subject, relation, object, timestamp, ends, [None] * len(rows), numbers, *[[0] * len(rows)] * 2]
    return pa.table([pa.array(v, f.type) for v, f in zip(columns, SOURCED_FACTS, strict=True)], schema=SOURCED_FACTS)


def brute_force(rows):
    """(stored facts, duplicate rows), a snapshot and a pair of rows at a time."""
    spans = [
        ((subject, relation, object), {*range(at // 3, (at + max(more, 0)) // 3 + 1)})
        for subject, relation, object, at, more in rows
    ]
    copies = [
        number
        for number, (fact, span) in enumerate(spans)
        if any(
            other == fact and (span < more or (span == more and earlier < number))
            for earlier, (other, more) in enumerate(spans)
        )
    ]
    return {(*fact, snapshot) for fact, span in spans for snapshot in span}, copies


@given(facts)
@example([("a", "r", "c", 1, -1), ("a", "r", "c", 2, 0), ("a", "r", "c", 1, 0)])
@example([("a", "r", "c", 0, 9), ("a", "r", "c", 3, 0), ("a", "r", "c", 9, 0)])
@example([("a", "r", "c", 0, 3), ("a", "r", "c", 3, 3), ("b", "r", "c", 3, 0), ("a", "r", "c", 5, -1)])
def test_merging_equals_brute_force_over_every_snapshot(rows):
    stored_facts, copies = brute_force(rows)
    merged = merge_facts(sourced(rows), AXIS, list_duplicates=True)
    assert merged.schema == MERGED
    found = stored(merged).to_pylist()
    runs = [(f["subject"], f["relation"], f["object"], at) for f in found for at in range(f["start"], f["stop"] + 1)]
    assert len(runs) == len(set(runs))
    assert set(runs) == stored_facts
    assert sum(f["merged"] for f in found) == len(copies)
    assert sorted(duplicates(merged)["row"].to_pylist()) == copies
    assert merge_facts(sourced(rows), AXIS).equals(stored(merged))


@given(facts)
@example([("a", "r", "c", 4, -1), ("a", "r", "c", 3, 0), ("a", "r", "c", 3, 0)])
@example([("a", "r", "c", 4, -1), ("a", "r", "c", 3, 7), ("a", "r", "c", 6, -1), ("a", "r", "c", 7, -1)])
def test_facts_without_an_end_hold_unless_another_row_has_it(rows):
    last = 4
    closed = {(*row[:3], row[3] // 3) for row in rows if row[4] >= 0}
    still_open = {(*row[:3], row[3] // 3) for row in rows if row[4] < 0} - closed
    # The same with ends: the last timestamp, or none where another row has the end.
    ended = [row for row in rows if row[4] >= 0 or (*row[:3], row[3] // 3) in still_open]
    ended = [(*row[:4], row[4] if row[4] >= 0 else 3 * last - row[3]) for row in ended]
    stored_facts, copies = brute_force(ended)
    merged = merge_facts(sourced(rows), AXIS, open_stop=last, list_duplicates=True)
    found = stored(merged).to_pylist()
    runs = [(f["subject"], f["relation"], f["object"], at) for f in found for at in range(f["start"], f["stop"] + 1)]
    assert len(runs) == len(set(runs))
    assert set(runs) == stored_facts
    assert len(duplicates(merged)) == len(copies)
    assert sum(f["merged"] for f in found) == len(copies) + len(rows) - len(ended)
    table = open_table(opened(merged), ENTITIES, RELATIONS)
    assert table.schema == OPEN_FACTS
    names = {
        ("abc"[f["subject_id"]], "qr"[f["relation_id"]], "abc"[f["object_id"]], f["start"]) for f in table.to_pylist()
    }
    assert names == still_open
    assert len(table) == len(still_open)


@given(facts, st.randoms(use_true_random=False))
def test_repeats_and_order_do_not_change_what_is_stored(rows, random):
    once = merge_facts(sourced(rows), AXIS)
    again = merge_facts(sourced(random.sample(rows + rows, 2 * len(rows))), AXIS)

    def runs(merged):
        return sorted(zip(*(merged[name].to_pylist() for name in MERGED.names[:5]), strict=True))

    assert runs(again) == runs(once)
    assert sum(again["merged"].to_pylist()) == sum(once["merged"].to_pylist()) + len(rows)


@given(facts)
def test_tallies_count_stored_facts(rows):
    stored_facts, _ = brute_force(rows)
    merged = stored(merge_facts(sourced(rows), AXIS))
    entities = {row["name"]: (row["count"], row["first"]) for row in tally_entities(merged).to_pylist()}
    of = {name: [at for s, _, o, at in stored_facts if name in (s, o)] for name in "abc"}
    assert entities == {name: (len(at), min(at)) for name, at in of.items() if at}
    relations = {row["name"]: row["count"] for row in tally_relations(merged).to_pylist()}
    assert relations == {r: n for r in "qr" if (n := sum(fact[1] == r for fact in stored_facts))}


@given(facts, st.integers(1, 4), st.integers(1, 7))
def test_anchored_tables_have_both_directions_of_every_stored_fact(rows, buckets, max_facts):
    stored_facts, _ = brute_force(rows)
    merged = stored(merge_facts(sourced(rows), AXIS))
    tables = list(anchored_tables(merged, ENTITIES, RELATIONS, buckets, max_facts))
    assert all(len(table) <= 2 * max_facts for table in tables)
    found = [row for table in tables for row in table.to_pylist()]
    assert all(row["bucket"] == row["anchor"] % buckets for row in found)
    expected = set()
    for subject, relation, object, at in stored_facts:
        s, r, o = "abc".index(subject), "qr".index(relation), "abc".index(object)
        expected |= {(at, o, r, s), (at, s, r + 2, o)}
    rows_found = [(row["snapshot"], row["anchor"], row["relation"], row["other"]) for row in found]
    assert len(rows_found) == 2 * len(stored_facts)
    assert set(rows_found) == expected


@given(facts, st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_fact_has_one_partition_in_every_block(rows, partitions, random):
    shuffled = random.sample(rows, len(rows))
    places = {}
    for block in (rows, shuffled, shuffled[:3]):
        for row, partition in zip(block, partition_of(sourced(block), partitions).tolist(), strict=True):
            assert 0 <= partition < partitions
            assert places.setdefault(row[:3], partition) == partition


def test_partitions_are_even():
    rows = [(f"s{i % 100}", f"r{i % 7}", f"o{i}", 0, -1) for i in range(4000)]
    sizes = np.bincount(partition_of(sourced(rows), 4))
    assert sizes.min() > 800


def test_anchored_rows_have_one_order():
    rows = [(1, 2, 0, 5), (1, 0, 3, 5), (0, 9, 0, 0), (1, 0, 3, 4), (1, 0, 2, 9)]
    table = pa.table(
        [pa.array(v, f.type) for v, f in zip(zip(*rows, strict=True), ANCHORED, strict=True)], schema=ANCHORED
    )
    found = sort_anchored(table.append_column("bucket", pa.array([0] * 5)))
    assert found.schema == ANCHORED
    assert [tuple(row.values()) for row in found.to_pylist()] == sorted(rows)
