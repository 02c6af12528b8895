import logging
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gam_kg.artifacts import Manifest
from gam_kg.config import load_config
from gam_kg.errors import DataError
from gam_kg.ingest.new_facts import read_new_facts
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.schemas import ENTITIES, QUARANTINE, RELATIONS

ENTITY_NAMES, RELATION_NAMES = ["a", "b", "c"], ["q", "r"]
INTEGERS = TimeAxis("integer", 10, 100)
DAYS = TimeAxis("timestamp", "day", 0)
COLUMNS = ("subject", "relation", "object", "timestamp", "end_timestamp")


def table_of(*rows, types=None):
    """Rows of (subject, relation, object, timestamp), and an end in each or none."""
    columns = zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=False)
    return pa.table({name: pa.array(values, (types or {}).get(name)) for name, values in columns})


@pytest.fixture
def read(tmp_path):
    def read(facts, *overrides, axis=INTEGERS, last=5, **options):
        if isinstance(facts, pa.Table):
            pq.write_table(facts, tmp_path / "new.parquet")
            facts = tmp_path / "new.parquet"
        config = load_config(overrides=[f"run_dir={tmp_path / 'run'}", *overrides])
        names = Vocabulary(pa.array(ENTITY_NAMES)), Vocabulary(pa.array(RELATION_NAMES), "relation")
        graph = Manifest("graph", "", {}, {}, {"last_snapshot": last})
        return read_new_facts(str(facts), config, graph, *names, axis, **options)

    return read


def named(found):
    """The facts by name."""
    entities = ENTITY_NAMES + found.entities["entity"].to_pylist()
    relations = RELATION_NAMES + found.relations["relation"].to_pylist()
    return [(entities[s], relations[r], entities[o], at) for s, r, o, at in found.rows.tolist()]


def test_known_names_keep_their_ids_and_new_ones_follow(read):
    found = read(
        table_of(
            *(("a", "r", "new", 175), ("b", "s", "c", 160), ("b", "t", "z", 160), ("b", "t", "y", 160)),
            *((" y\n", "t", "y", 175), ("y", "t", "y", 171)),
        )
    )
    assert found.entities.to_pylist() == [
        {"entity_id": 3, "entity": "y", "degree": 2, "first_snapshot": 6},
        {"entity_id": 4, "entity": "z", "degree": 1, "first_snapshot": 6},
        {"entity_id": 5, "entity": "new", "degree": 1, "first_snapshot": 7},
    ]
    assert found.relations.to_pylist() == [
        {"relation_id": 2, "relation": "t", "count": 3, "first_snapshot": 6},
        {"relation_id": 3, "relation": "s", "count": 1, "first_snapshot": 6},
    ]
    assert found.rows.tolist() == [[1, 2, 3, 6], [1, 2, 4, 6], [1, 3, 2, 6], [0, 1, 5, 7], [3, 2, 3, 7]]
    assert (found.num_rows, found.merged, found.names_changed, found.quarantined) == (6, 1, 1, {})
    assert (found.entities.schema, found.relations.schema) == (ENTITIES, RELATIONS)
    assert found.quarantine.equals(QUARANTINE.empty_table())
    assert [*found.inputs] == ["facts/00000"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(
        st.tuples(
            *(st.sampled_from("abxy"), st.sampled_from("qs"), st.sampled_from("cyz")),
            *(st.integers(100, 199), st.integers(0, 40) | st.none()),
        ),
        min_size=1,
    )
)
def test_facts_are_those_of_every_row_and_snapshot(read, rows):
    rows = [(*row[:4], None if row[4] is None else row[3] + row[4]) for row in rows]
    table = table_of(*rows, types={"end_timestamp": pa.int64()})
    found = read(table)
    expected = {(*row[:3], at) for row in rows for at in range(row[3] // 10 - 10, (row[4] or row[3]) // 10 - 10 + 1)}
    facts = named(found)
    assert len(facts) == len(set(facts))
    assert set(facts) == expected
    for table, ids, known in ((found.entities, (0, 2), 3), (found.relations, (1,), 2)):
        new = [fact for fact in found.rows.tolist() if any(fact[at] >= known for at in ids)]
        number, _, count, first = table.columns
        assert number.to_pylist() == [*range(known, known + len(table))]
        of = [[fact[3] for fact in new if which in [fact[at] for at in ids]] for which in number.to_pylist()]
        assert [*map(len, of)] == count.to_pylist()
        assert [*map(min, of)] == first.to_pylist()
        keys = list(zip(first.to_pylist(), [-one for one in count.to_pylist()], table[1].to_pylist(), strict=True))
        assert keys == sorted(keys)


def test_bad_rows_fail_the_update_and_are_written_for_the_user(read, tmp_path):
    facts = table_of(("a", "r", "b", 160), ("a", None, "b", 160), ("a", "r", "b", 99), ("", "r", "b", 160))
    with pytest.raises(DataError, match=r"3 of 4 rows cannot be used(.|\n)*before_first_fact: 1; for instance row 2"):
        read(facts)
    assert len(pq.read_table(tmp_path / "run" / "quarantine.parquet")) == 3
    found = read(facts, "prepare.max_bad_fraction=0.75")
    assert named(found) == [("a", "r", "b", 6)]
    assert found.quarantined == {"before_first_fact": 1, "empty_subject": 1, "null_relation": 1}
    assert found.quarantine.schema == QUARANTINE
    rows = [(row["row"], row["reason"], row["timestamp"]) for row in found.quarantine.to_pylist()]
    assert rows == [(1, "null_relation", "160"), (2, "before_first_fact", "99"), (3, "empty_subject", "160")]


def test_duplicates_are_merged_or_refused(read):
    facts = table_of(("a", "r", "b", 160), ("a", "r", "b", 169), ("a", "r", "b", 170))
    assert read(facts).merged == 1
    found = read(facts, "prepare.duplicates=refuse", "prepare.max_bad_fraction=0.4")
    assert named(found) == [("a", "r", "b", 6), ("a", "r", "b", 7)]
    assert (found.merged, found.quarantined) == (0, {"duplicate": 1})
    assert found.quarantine["row"].to_pylist() == [1]


def test_names_are_folded_as_the_graph_folds_them(read, caplog):
    facts = table_of(("A ", "R", "New\u00a0 name", 160), ("B", "r", "new name", 160))
    found = read(facts, "data.normalize_names=[case,blanks]")
    assert named(found) == [("a", "r", "new name", 6), ("b", "r", "new name", 6)]
    with caplog.at_level(logging.WARNING):
        found = read(facts)
    assert len(found.entities) == 4
    assert "3 group(s) of entity names differ only by case" in caplog.text
    assert "'a', 'A'" in caplog.text


def test_late_rows_are_quarantined_beside_the_limit(read):
    seen = []

    def is_stored(facts):
        seen.extend(map(tuple, facts.tolist()))
        return facts[:, 3] == 5

    facts = table_of(("a", "r", "b", 150), ("a", "r", "new", 140), ("a", "r", "b", 141), ("c", "r", "b", 160))
    found = read(facts, is_stored=is_stored)
    assert named(found) == [("a", "r", "b", 5), ("c", "r", "b", 6)]
    assert found.quarantined == {"late": 2}
    assert not len(found.entities)
    assert sorted(seen) == [(0, 1, 1, 4), (0, 1, 1, 5), (0, 1, 3, 4)]
    assert len(read(facts).rows) == 4


def test_a_file_without_rows_has_no_facts(read, tmp_path):
    typed = table_of(("a", "r", "b", 160)).slice(0, 0)
    untyped = pa.table(dict.fromkeys(COLUMNS[:4], pa.array([], pa.null())))
    for facts in (typed, untyped):
        found = read(facts, axis=DAYS)
        assert found.rows.shape == (0, 4)
        assert (found.num_rows, len(found.entities), len(found.quarantine)) == (0, 0, 0)
    (tmp_path / "new.csv").write_text("subject,relation,object,timestamp\n")
    assert not len(read(tmp_path / "new.csv").rows)


DAY_10 = date(1970, 1, 11)


@pytest.mark.parametrize(
    ("axis", "timestamps", "settings"),
    [
        (DAYS, [DAY_10], []),
        (DAYS, [datetime(1970, 1, 11, 23)], []),
        (DAYS, ["1970-01-11T23:00"], []),
        (DAYS, [19700111], []),
        (DAYS, ["11/01/1970"], ["data.time_format=%d/%m/%Y"]),
        (DAYS, [11011970], ["data.time_format=%d%m%Y"]),
        (DAYS, [DAY_10], ["data.time_format=%d%m%Y"]),
        (TimeAxis("timestamp", "day", 0, "UTC"), [datetime(1970, 1, 11, 23, tzinfo=UTC)], []),
        (TimeAxis("timestamp", "day", 0, "Asia/Tokyo"), [datetime(1970, 1, 10, 15, tzinfo=UTC)], []),
        (TimeAxis("timestamp", "day", 0, "Asia/Tokyo"), ["1970-01-10T16:00Z"], []),
        (TimeAxis("timestamp", "day", 0, "Asia/Tokyo"), ["1970-01-11"], ["data.time_zone=Asia/Tokyo"]),
        (TimeAxis("integer", 10, 19700011), [19700111], []),
        (TimeAxis("integer", 10, 0), ["100"], ["data.time_format=integer"]),
    ],
)
def test_timestamps_are_read_on_the_graphs_axis(read, axis, timestamps, settings):
    found = read(table_of(*(("a", "r", "b", one) for one in timestamps)), *settings, axis=axis)
    assert found.rows.tolist() == [[0, 1, 1, 10]]


@pytest.mark.parametrize(
    ("axis", "timestamps", "message"),
    [
        (INTEGERS, [DAY_10], "timestamps are dates or text, and those of the graph are integers, for instance 100"),
        (INTEGERS, ["160"], "timestamps are dates or text, and those of the graph are integers"),
        (DAYS, [19700111, 12], "row 1 of .*new.parquet has an integer timestamp that is no date"),
        (DAYS, ["1970-01-11", "1970-01-11T00:00Z"], "with and without a time zone are mixed"),
        (DAYS, ["1970-01-11T00:00Z"], "row 0 of .* with a time zone, and those of the graph have none"),
        (TimeAxis("timestamp", "day", 0, "UTC"), [DAY_10], "row 0 of .* without a time zone, and those of the graph"),
        (TimeAxis("timestamp", "day", 0, "UTC"), [19700111], "new.parquet has a timestamp without a time zone"),
    ],
)
def test_timestamps_of_another_form_are_refused(read, axis, timestamps, message):
    with pytest.raises(DataError, match=message):
        read(table_of(*(("a", "r", "b", one) for one in timestamps)), axis=axis)


def test_text_is_imported_as_the_graphs_facts_were(read, tmp_path):
    (tmp_path / "new.csv").write_text("who;what;whom;when\na;r;new;160\na;;b;160\n")
    settings = [
        *("data.import_from=old.csv", "data.columns.subject=who", "data.columns.relation=what"),
        *("data.columns.object=whom", "data.columns.timestamp=when", "prepare.max_bad_fraction=0.5"),
    ]
    found = read(tmp_path / "new.csv", *settings)
    assert named(found) == [("a", "r", "new", 6)]
    assert found.quarantine["file"].to_pylist() == [str(tmp_path / "new.csv")]
    assert named(read(table_of(("a", "r", "b", 160)), *settings)) == [("a", "r", "b", 6)]


def test_text_beside_parquet_is_left_out(read, tmp_path, caplog):
    folder = tmp_path / "both"
    folder.mkdir()
    pq.write_table(table_of(("a", "r", "b", 160)), folder / "1.parquet")
    (folder / "2.csv").write_text("subject,relation,object,timestamp\na,r,c,160\n")
    with caplog.at_level(logging.WARNING):
        assert named(read(folder)) == [("a", "r", "b", 6)]
    assert "left out: 1 text table" in caplog.text


def test_what_is_not_there_or_cannot_hold_facts_is_refused(read, tmp_path):
    with pytest.raises(DataError, match=r"--facts=.*missing.parquet: no Parquet, CSV or TSV file there"):
        read(tmp_path / "missing.parquet")
    with pytest.raises(DataError, match="no column 'relation'"):
        read(table_of(("a", "r", "b", 160)).drop_columns("relation"))
    with pytest.raises(DataError, match=r"row 0 of .* 100001 snapshots; at most 100000 are allowed"):
        read(table_of(("a", "r", "b", 160, 1_000_160)))


HOLDS = "data.open_end=holds"


def test_open_facts_hold_until_a_row_has_their_end(read):
    open_facts = np.array([[0, 1, 1, 2], [1, 1, 2, 4]])
    facts = table_of(
        *(
            ("a", "r", "b", 120, 165),
            ("new", "s", "a", 170, None),
            ("c", "q", "c", 150, 155),
            ("x", "q", "a", 160, None),
        ),
        *(("x", "q", "a", 160, 160), ("new", "s", "a", 171, None)),
    )
    found = read(facts, HOLDS, open_facts=open_facts)
    assert named(found) == [
        ("c", "q", "c", 5),
        *(("a", "r", "b", 6), ("b", "r", "c", 6), ("x", "q", "a", 6)),
        *(("b", "r", "c", 7), ("new", "s", "a", 7)),
    ]
    assert found.open_facts.tolist() == [[1, 1, 2, 4], [4, 2, 0, 7]]
    assert found.entities["entity"].to_pylist() == ["x", "new"]
    assert found.merged == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            *(st.sampled_from("abx"), st.sampled_from("qs"), st.sampled_from("by")),
            *(st.integers(0, 5), st.integers(0, 6) | st.none()),
        ),
        min_size=1,
        unique_by=lambda row: row[:4],
    )
)
def test_day_by_day_is_all_at_once(tmp_path, facts):
    """A row arrives when it begins, and once more, with its end, when it ends."""
    config = load_config(overrides=[f"run_dir={tmp_path / 'run'}", HOLDS])
    graph, axis = Manifest("graph", "", {}, {}, {}), TimeAxis("integer", 1, 0)
    facts = [(*row[:4], None if row[4] is None else row[3] + row[4]) for row in facts]
    arrivals = [(row[3], (*row[:4], None)) for row in facts] + [(row[4], row) for row in facts if row[4] is not None]
    names = {"entity": ["a"], "relation": ["q"]}
    stored, open_facts, last = set(), np.empty((0, 4), np.int64), -1
    for day in range(12):
        rows = [row for arrival, row in arrivals if arrival == day]
        if not rows:
            continue
        pq.write_table(table_of(*rows, types={"end_timestamp": pa.int64()}), tmp_path / "day.parquet")
        known = [Vocabulary(pa.array(of_kind), kind) for kind, of_kind in names.items()]
        found = read_new_facts(
            str(tmp_path / "day.parquet"), config, graph, *known, axis, open_facts=open_facts, last=last
        )
        names["entity"] += found.entities["entity"].to_pylist()
        names["relation"] += found.relations["relation"].to_pylist()
        added = {tuple(row) for row in found.rows.tolist()}
        assert not added & stored
        stored, open_facts, last = stored | added, found.open_facts, day
    by_name = {(names["entity"][s], names["relation"][r], names["entity"][o], at) for s, r, o, at in stored}
    assert by_name == {
        (*row[:3], at) for row in facts for at in range(row[3], (last if row[4] is None else row[4]) + 1)
    }
    assert len(open_facts) == sum(row[4] is None for row in facts)


def test_an_end_before_a_stored_snapshot_is_refused(read):
    open_facts = np.array([[0, 1, 1, 2]])
    facts = table_of(("a", "r", "b", 120, 149), ("c", "r", "b", 160, None))
    with pytest.raises(DataError, match=r"closes_in_the_past: 1; .* stored facts are not taken back"):
        read(facts, HOLDS, open_facts=open_facts)
    found = read(facts, HOLDS, "prepare.max_bad_fraction=0.5", open_facts=open_facts)
    assert found.quarantined == {"closes_in_the_past": 1}
    assert found.open_facts.tolist() == [[0, 1, 1, 2], [2, 1, 1, 6]]
    assert named(found) == [("a", "r", "b", 6), ("c", "r", "b", 6)]


def test_a_fact_far_ahead_does_not_carry_open_facts_there(read):
    with pytest.raises(DataError, match=r"last fact is in 1000120, and open facts that began in 120 .* 100001 snap"):
        read(table_of(("a", "r", "b", 1_000_120, 1_000_120)), HOLDS, open_facts=np.array([[0, 1, 1, 2]]))


def test_ends_of_open_facts_need_a_column(read):
    with pytest.raises(DataError, match=r"data.open_end=holds: .* has no column 'end_timestamp'"):
        read(table_of(("a", "r", "b", 160)), HOLDS)
    assert read(table_of(("a", "r", "b", 160))).open_facts.shape == (0, 4)
