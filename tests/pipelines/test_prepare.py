import hashlib
import logging
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gam_kg.artifacts import read_manifest
from gam_kg.config import load_config
from gam_kg.errors import ConfigError, DataError
from gam_kg.schemas import ANCHORED, ENTITIES, OPEN_FACTS, QUARANTINE, RELATIONS
from pipelines.prepare import prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def random_facts(size=300, seed=0):
    rng = np.random.default_rng(seed)
    rows = {
        "subject": [f"e{i}" for i in rng.zipf(1.6, size) % 20],
        "relation": [f"r{i}" for i in rng.integers(0, 4, size)],
        "object": [f"e{i}" for i in rng.integers(0, 20, size)],
        "timestamp": rng.integers(0, 12, size) * 5,
    }
    table = pa.table(rows)
    return table.group_by(table.column_names).aggregate([])


def facts_of(rows, **extra):
    columns = zip(*rows, strict=True)
    return pa.table(dict(zip(("subject", "relation", "object", "timestamp"), map(list, columns), strict=True)) | extra)


@pytest.fixture
def run(tmp_path):
    def run(facts, *overrides, name="run", force=False):
        if isinstance(facts, pa.Table):
            pq.write_table(facts, tmp_path / f"{name}.parquet")
            facts = tmp_path / f"{name}.parquet"
        config = load_config(overrides=[f"data.facts={facts}", f"run_dir={tmp_path / name}", *overrides])
        return prepare(config, force=force)

    return run


class Messages(logging.Handler):
    """Ray Data silences the handlers of pytest."""

    text = ""

    def emit(self, record):
        self.text += record.getMessage() + "\n"


@pytest.fixture
def messages():
    logger, handler = logging.getLogger("gam_kg"), Messages()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


def content(graph):
    return read_manifest(graph, "graph").content


def anchored(graph):
    """(snapshot, anchor, relation, other) of all rows, by bucket number."""
    files = {int(file.parent.name.removeprefix("bucket=")): pq.ParquetFile(file).read() for file in bucket_files(graph)}
    assert all(table.schema == ANCHORED for table in files.values())
    return {bucket: [tuple(row.values()) for row in table.to_pylist()] for bucket, table in files.items()}


def bucket_files(graph):
    return sorted((graph / "anchored").rglob("*.parquet"))


def digests(graph):
    files = [*bucket_files(graph), graph / "entities.parquet", graph / "relations.parquet"]
    return {str(file.relative_to(graph)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def stored_facts(graph):
    """The set of (subject, relation, object, label of the snapshot), read back from the first direction of each row."""
    entities = pq.read_table(graph / "entities.parquet")["entity"].to_pylist()
    relations = pq.read_table(graph / "relations.parquet")["relation"].to_pylist()
    rows = [row for rows in anchored(graph).values() for row in rows]
    forward = {(entities[s], relations[r], entities[o], at) for at, o, r, s in rows if r < len(relations)}
    backward = {
        (entities[s], relations[r - len(relations)], entities[o], at) for at, s, r, o in rows if r >= len(relations)
    }
    assert forward == backward
    assert len(rows) == len(forward) + len(backward)
    return forward


def test_the_graph_holds_every_fact_in_both_directions(run):
    facts = random_facts()
    graph = run(facts, "prepare.buckets=7")
    expected = {(r["subject"], r["relation"], r["object"], r["timestamp"] // 5) for r in facts.to_pylist()}
    assert stored_facts(graph) == expected
    for bucket, rows in anchored(graph).items():
        assert {anchor % 7 for _, anchor, _, _ in rows} == {bucket}
        assert rows == sorted(rows)

    entities = pq.read_table(graph / "entities.parquet")
    assert entities.schema == ENTITIES
    of = {name: [at for s, _, o, at in expected if name in (s, o)] for name in entities["entity"].to_pylist()}
    assert entities["degree"].to_pylist() == [len(at) for at in of.values()]
    assert entities["first_snapshot"].to_pylist() == [min(at) for at in of.values()]
    assert list(of) == sorted(of, key=lambda name: (-len(of[name]), name))
    relations = pq.read_table(graph / "relations.parquet")
    assert relations.schema == RELATIONS
    assert relations["count"].to_pylist() == sorted(relations["count"].to_pylist(), reverse=True)
    first = {name: min(at for _, r, _, at in expected if r == name) for name in relations["relation"].to_pylist()}
    assert relations["first_snapshot"].to_pylist() == list(first.values())

    found = content(graph)
    assert found["num_facts"] == len(expected) == sum(found["splits"].values())
    assert (found["num_entities"], found["num_relations"]) == (len(entities), len(relations))
    assert (found["num_snapshots"], found["first_snapshot"], found["last_snapshot"]) == (12, 0, 11)
    assert found["time"] == {"kind": "integer", "unit": 5, "origin": 0, "zone": None, "format": None}
    for split, inside in {
        "train": lambda at: at < found["valid_start"],
        "valid": lambda at: found["valid_start"] <= at < found["test_start"],
        "test": lambda at: at >= found["test_start"],
    }.items():
        assert found["splits"][split] == sum(inside(at) for *_, at in expected) > 0
    counts = {"num_rows": len(facts), "quarantined": {}, "merged": 0, "names_changed": 0}
    assert {name: found[name] for name in counts} == counts
    assert found["look_alikes"] == {"entity": 0, "relation": 0}
    assert pq.read_table(graph / "quarantine.parquet").equals(QUARANTINE.empty_table())


def test_the_same_facts_give_the_same_bytes_in_any_order_and_any_files(run, tmp_path, monkeypatch):
    facts = random_facts()
    first = run(facts, name="first")
    shuffled = facts.take(pa.array(np.random.default_rng(1).permutation(len(facts))))
    (tmp_path / "parts" / "deep").mkdir(parents=True)
    pq.write_table(shuffled.slice(0, 50), tmp_path / "parts" / "b.parquet", row_group_size=9)
    pq.write_table(shuffled.slice(50), tmp_path / "parts" / "deep" / "a.parquet", row_group_size=100)
    (tmp_path / "parts" / "_ignored.parquet").write_text("not Parquet")
    (tmp_path / "parts" / "notes.txt").write_text("not Parquet")
    monkeypatch.setattr("pipelines.prepare._ROWS_A_BLOCK", 40)
    monkeypatch.setattr("gam_kg.ingest.prepare.ROWS_A_PARTITION", 30)
    monkeypatch.setattr("gam_kg.ingest.prepare._SUMMARIES_AT_ONCE", 2)
    expected = digests(first)
    assert len(expected) > 10
    assert digests(run(tmp_path / "parts", name="folder")) == expected
    (tmp_path / "parts" / "_ignored.parquet").unlink()
    assert digests(run(f"{tmp_path}/parts/**/*.parquet", name="glob")) == expected
    assert digests(run(f"file://{tmp_path}/parts", name="uri")) == expected
    assert digests(run(f"file://{tmp_path}/parts/**/*.parquet", name="uri_glob")) == expected


@pytest.mark.parametrize(
    ("timestamps", "unit", "kind", "num_snapshots"),
    [
        (pa.array([10, 20, 40, 45], pa.int16()), "auto", "integer", 4),
        (pa.array([10, 20, 40, 45]), "20", "integer", 2),
        (pa.array([date(2020, 1, 30), date(2020, 1, 31), date(2020, 2, 1), date(2020, 3, 1)]), "month", "timestamp", 3),
        (pa.array(["2020-01-01", "2020-01-02T23:59", "2020-01-03", "2020-01-03T01:00"]), "day", "timestamp", 3),
        (pa.array([20191231, 20200101, 20200229, 20200301], pa.int32()), "auto", "timestamp", 4),
        (pa.array(["1998", "1998", "2000", "2001"]), "auto", "timestamp", 3),
        (pa.array([datetime(2020, 1, 1, hour, tzinfo=UTC) for hour in (0, 1, 3, 23)]), "hour", "timestamp", 4),
    ],
)
def test_ids_and_timestamps_of_all_kinds(run, timestamps, unit, kind, num_snapshots):
    facts = pa.table(
        {
            "who": pa.array([1, 2, 3, 4], pa.int32()),
            "relation": pa.array(["r", "r", "q", "r"]).dictionary_encode(),
            "object": pa.array(["x", "y", "1", "x"], pa.large_string()),
            "when": timestamps,
        }
    )
    overrides = ["data.columns.subject=who", "data.columns.timestamp=when", f"data.time_unit={unit}"]
    if num_snapshots < 3:
        with pytest.raises(DataError, match="at least one each"):
            run(facts, *overrides)
        return
    graph = run(facts, *overrides)
    found = content(graph)
    assert (found["time"]["kind"], found["num_snapshots"], found["num_facts"]) == (kind, num_snapshots, 4)
    # The integer 1 and the string "1" are the same name.
    assert {name for fact in stored_facts(graph) for name in (fact[0], fact[2])} == {"1", "2", "3", "4", "x", "y"}


BAD = [
    ("a", "r", "b", 1),
    (None, "r", "b", 1),
    ("a", "r", "b", 1),
    ("a", " ", "b", 2),
    ("a", "r", "b", None),
    ("a", "r", "b", 3),
    ("a", "r", "b", 2),
    ("a", "r", "b", 1),
]


def test_bad_rows_fail_the_stage_and_are_listed(run, tmp_path):
    with pytest.raises(DataError) as error:
        run(facts_of(BAD), "prepare.duplicates=refuse")
    message = str(error.value)
    moved = tmp_path / "run" / "quarantine.parquet"
    for words in (
        "5 of 8 rows cannot be used, more than prepare.max_bad_fraction=0",
        "duplicate: 2",
        "null_subject: 1",
        f"row 1 of {tmp_path / 'run.parquet'}: subject=None, relation='r', object='b', timestamp='1'",
        str(moved),
        "prepare.max_bad_fraction=0.625",
    ):
        assert words in message
    found = pq.read_table(moved)
    assert found.schema == QUARANTINE
    assert [(row["row"], row["reason"]) for row in found.to_pylist()] == [
        (1, "null_subject"),
        (2, "duplicate"),
        (3, "empty_relation"),
        (4, "null_timestamp"),
        (7, "duplicate"),
    ]
    assert found["timestamp"].to_pylist() == ["1", "1", "2", None, "1"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["quarantine.parquet"]


def test_bad_rows_within_the_limit_are_quarantined(run, tmp_path, messages):
    with pytest.raises(DataError):
        run(facts_of(BAD), "prepare.max_bad_fraction=0.37")
    graph = run(facts_of(BAD), "prepare.max_bad_fraction=0.375")
    found = content(graph)
    assert found["quarantined"] == {"empty_relation": 1, "null_subject": 1, "null_timestamp": 1}
    assert (found["num_rows"], found["merged"]) == (8, 2)
    assert "3 of 8 rows of the facts (38%) could not be used" in messages.text
    assert len(pq.read_table(graph / "quarantine.parquet")) == 3
    assert stored_facts(graph) == {("a", "r", "b", 0), ("a", "r", "b", 1), ("a", "r", "b", 2)}
    assert not (tmp_path / "run" / "quarantine.parquet").exists()


@pytest.mark.parametrize(
    "times", [[1, 1, 8, 15, 15], ["2020-01-01", "2020-01-01T05:00", *["2020-01-08", "2020-01-15"] * 2][:5]]
)
def test_the_same_fact_twice_in_a_snapshot_is_one_whatever_its_clock(run, times):
    facts = facts_of([("a", "r", "b", at) for at in times])
    graph = run(facts)
    assert len(stored_facts(graph)) == 3
    assert (content(graph)["merged"], content(graph)["quarantined"]) == (2, {})
    with pytest.raises(DataError, match=r"2 of 5 rows(.|\n)*duplicate: 2; for instance row 1 of"):
        run(facts, "prepare.duplicates=refuse", name="refused")


def test_the_first_of_the_same_rows_over_all_files_is_stored(run, tmp_path):
    (tmp_path / "parts").mkdir()
    pq.write_table(facts_of(BAD[:1] + BAD[5:7]), tmp_path / "parts" / "a.parquet")
    pq.write_table(facts_of(BAD[:1]), tmp_path / "parts" / "b.parquet")
    graph = run(tmp_path / "parts", "prepare.max_bad_fraction=0.5", "prepare.duplicates=refuse")
    assert pq.read_table(graph / "quarantine.parquet")["file"].to_pylist() == [str(tmp_path / "parts" / "b.parquet")]


def test_names_are_stripped_and_look_alikes_are_shown_or_folded(run, messages):
    rows = [
        (" Ann\n", "likes", "bob", 1),
        ("ann", "Likes", "Bob", 2),
        ("ann", "likes", "\ufeffbob", 3),
        ("", "x", "y", 4),
    ]
    graph = run(facts_of(rows), "prepare.max_bad_fraction=0.25")
    assert stored_facts(graph) == {("Ann", "likes", "bob", 0), ("ann", "Likes", "Bob", 1), ("ann", "likes", "bob", 2)}
    found = content(graph)
    assert (found["names_changed"], found["look_alikes"]) == (2, {"entity": 2, "relation": 1})
    assert "data.normalize_names=[case, blanks, unicode]" in messages.text
    assert "'Ann', 'ann'" in messages.text or "'ann', 'Ann'" in messages.text
    folded = run(facts_of(rows), "prepare.max_bad_fraction=0.25", "data.normalize_names=[case]")
    assert stored_facts(folded) == {("ann", "likes", "bob", at) for at in range(3)}
    assert content(folded)["look_alikes"] == {"entity": 0, "relation": 0}


def test_days_are_those_of_the_zone_which_the_manifest_names(run, tmp_path, messages):
    hours = [
        datetime(2024, 3, 30, 22, tzinfo=UTC),
        datetime(2024, 3, 30, 23, tzinfo=UTC),
        datetime(2024, 3, 31, 22, tzinfo=UTC),
    ]
    rows = [("a", "r", "b", at) for at in hours]
    zoned = facts_of(rows).set_column(3, "timestamp", pa.array(hours, pa.timestamp("us", "Europe/Berlin")))
    boundaries = "data.split.valid_start=2024-03-31", "data.split.test_start=2024-04-01"
    found = content(run(zoned, *boundaries))
    assert (found["time"]["zone"], found["num_snapshots"]) == ("Europe/Berlin", 3)
    assert found["splits"] == {"train": 1, "valid": 1, "test": 1}
    assert "time unit day, zone Europe/Berlin" in messages.text
    texts = facts_of([("a", "r", "b", at.isoformat()) for at in hours])
    with pytest.raises(DataError, match="fill 2 snapshot"):
        run(texts, name="texts")  # in UTC
    assert content(run(texts, *boundaries, "data.time_zone=Europe/Berlin", name="texts"))["splits"] == found["splits"]
    with pytest.raises(DataError, match="with and without a time zone"):
        run(facts_of([("a", "r", "b", "2024-03-30T22:00Z"), ("a", "r", "b", "2024-03-31")]), name="mixed")
    plain = facts_of([("a", "r", "b", f"2024-03-{day}") for day in (29, 30, 31)])
    assert content(run(plain, name="plain"))["time"]["zone"] is None
    in_utc = ["data.split.valid_start=2024-03-30T00:00Z", "data.split.test_start=2024-03-31"]
    with pytest.raises(ConfigError, match="those of the facts have none"):
        run(plain, *in_utc, name="instant")
    assert content(run(plain, *in_utc, "data.time_zone=UTC", name="instant"))["time"]["zone"] == "UTC"


def test_a_format_is_suggested_and_then_read(run):
    texts = facts_of([("a", "r", "b", text) for text in ("31/01/2024", "1/02/2024 ", "02/02/2024", "?")])
    with pytest.raises(DataError, match=r"Most of the timestamps that cannot be read fit data\.time_format=%d/%m/%Y$"):
        run(texts)
    texts = texts.slice(0, 3)
    graph = run(
        texts, "data.time_format=%d/%m/%Y", "data.split.valid_start=1/2/2024", "data.split.test_start=2024-02-02"
    )
    assert {at for *_, at in stored_facts(graph)} == {0, 1, 2}
    assert content(graph)["time"]["format"] == "%d/%m/%Y"
    either = facts_of([("a", "r", "b", text) for text in ("01/02/2024", "02/02/2024", "03/02/2024")])
    with pytest.raises(DataError, match=r"=%d/%m/%Y or data\.time_format=%m/%d/%Y; say which"):
        run(either, name="either")


def test_no_good_row_at_all_fails_whatever_the_limit(run):
    with pytest.raises(DataError, match="not one row"):
        run(facts_of([(None, "r", "b", 1), ("", "r", "b", 1)]), "prepare.max_bad_fraction=1")
    with pytest.raises(DataError, match="without a single row"):
        run(facts_of(BAD).slice(0, 0), name="empty")


def test_intervals_hold_in_every_snapshot_of_theirs_and_meetings_are_merged(run):
    rows = [("a", "r", "b", 0), ("a", "r", "b", 20), ("a", "r", "c", 10), ("a", "r", "c", 15), ("c", "q", "c", 40)]
    facts = facts_of(rows, end_timestamp=pa.array([25, 30, None, 19, 40]))
    graph = run(facts, "data.time_unit=10", "data.split.valid_start=30", "data.split.test_start=40")
    assert stored_facts(graph) == {("a", "r", "b", at) for at in range(4)} | {("a", "r", "c", 1), ("c", "q", "c", 4)}
    found = content(graph)
    assert found["merged"] == 1  # a r c in snapshot 1; a r b from 20 on adds a snapshot
    assert found["splits"] == {"train": 4, "valid": 1, "test": 1}
    assert (found["num_facts"], found["num_snapshots"]) == (6, 5)
    entities = pq.read_table(graph / "entities.parquet").to_pydict()
    assert dict(zip(entities["entity"], entities["degree"], strict=True)) == {"a": 5, "b": 4, "c": 2}


def test_facts_without_an_end_hold_to_the_last_snapshot_where_they_may(run):
    rows = [("a", "r", "b", 0), ("a", "r", "c", 10), ("a", "r", "c", 12), ("b", "q", "c", 21), ("b", "r", "a", 40)]
    facts = facts_of(rows, end_timestamp=pa.array([None, None, 25, None, 49]))
    settings = ["data.time_unit=10", "data.split.valid_start=30", "data.split.test_start=40"]
    graph = run(facts, *settings, "data.open_end=holds")
    long = {("a", "r", "b", at) for at in range(5)} | {("b", "q", "c", at) for at in (2, 3, 4)}
    assert stored_facts(graph) == long | {("a", "r", "c", 1), ("a", "r", "c", 2), ("b", "r", "a", 4)}
    assert content(graph)["merged"] == 1
    entities = pq.read_table(graph / "entities.parquet")["entity"].to_pylist()
    relations = pq.read_table(graph / "relations.parquet")["relation"].to_pylist()
    opened = pq.read_table(graph / "open_facts.parquet")
    assert opened.schema == OPEN_FACTS
    found = [
        (entities[s], relations[r], entities[o], at) for s, r, o, at in zip(*opened.to_pydict().values(), strict=True)
    ]
    assert sorted(found) == [("a", "r", "b", 0), ("b", "q", "c", 2)]
    assert not (run(facts, "data.time_unit=10", name="first") / "open_facts.parquet").exists()
    with pytest.raises(DataError, match=r"data.open_end=holds: .* has no column 'end_timestamp'"):
        run(facts_of(rows), *settings, "data.open_end=holds", name="none")


def test_a_run_may_have_no_test(run, messages):
    rows = [("a", "r", "b", at) for at in range(6)]
    graph = run(facts_of(rows), "data.split.valid_start=4", "data.split.test_start=1000")
    assert content(graph)["splits"] == {"train": 4, "valid": 2, "test": 0}
    assert (content(graph)["valid_start"], content(graph)["test_start"]) == (4, 6)
    assert messages.text.count("no fact is in test") == 1
    by_column = run(facts_of(rows, split=["train"] * 4 + ["valid"] * 2), name="column")
    assert content(by_column)["splits"] == content(graph)["splits"]


def test_an_endless_interval_is_refused_with_its_row(run):
    facts = facts_of([("a", "r", "b", "2020-01-01")] * 2, end_timestamp=["2020-01-02", "9999-12-31"])
    with pytest.raises(DataError, match=r"row 1 of .*is valid from 2020-01-01 to 9999-12-31.*data.time_unit"):
        run(facts, "data.time_unit=day")


def test_a_split_column_divides_time_and_is_checked(run):
    rows = [("a", "r", "b", at) for at in range(6)]
    graph = run(facts_of(rows, split=["train", "train", "valid", "valid", "valid", "test"]))
    assert (content(graph)["valid_start"], content(graph)["test_start"]) == (2, 5)
    mixed = facts_of(rows, split=["train", "valid", "train", "valid", "test", "test"])
    with pytest.raises(DataError, match=r"row 2 of .*mixed.parquet is train in snapshot 2, but row 1 .* is valid"):
        run(mixed, name="mixed")
    graph = run(mixed, "data.split.valid_start=1", "data.split.test_start=3", name="mixed")
    assert content(graph)["splits"] == {"train": 1, "valid": 2, "test": 3}
    with pytest.raises(DataError, match="unknown_split: 1"):
        run(facts_of(rows, split=["train", "dev", "valid", "valid", "test", "test"]), name="unknown")


def test_a_failing_stage_leaves_the_graph_that_was_there(run, tmp_path):
    graph = run(random_facts())
    before = digests(graph)
    with pytest.raises(DataError, match="no facts in valid"):
        run(random_facts(), "data.split.valid_start=1000", "data.split.test_start=2000")
    assert digests(graph) == before
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "graph"]


def test_a_finished_graph_stays_until_forced_or_changed(run, tmp_path):
    graph = run(random_facts())

    def state():
        return bucket_files(graph)[0].stat().st_mtime_ns, digests(graph)

    written = state()
    shutil.copy(tmp_path / "run.parquet", tmp_path / "elsewhere.parquet")
    run(tmp_path / "elsewhere.parquet")
    assert state() == written
    assert read_manifest(graph, "graph").sources["data.facts"]["given"] == str(tmp_path / "elsewhere.parquet")
    identity = read_manifest(graph, "graph").id
    run(tmp_path / "run.parquet", force=True)
    forced = state()
    assert forced[0] != written[0]
    assert forced[1] == written[1]
    assert read_manifest(graph, "graph").id == identity
    run(tmp_path / "run.parquet", "prepare.buckets=3")
    assert content(graph)["buckets"] == 3
    run(random_facts(seed=5), "prepare.buckets=3")
    assert digests(graph) != forced[1]


def test_input_that_is_not_there_or_no_parquet(run, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.facts is not set"):
        prepare(load_config(overrides=[f"run_dir={tmp_path}"]))
    for nowhere in (tmp_path / "nothing.parquet", f"{tmp_path}/*.pq", f"file://{tmp_path}/none", "nope://x/y"):
        with pytest.raises(DataError, match=r"data\.facts="):
            run(nowhere)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match=r"text\.parquet is not a Parquet file"):
        run(tmp_path / "text.parquet")


def test_a_damaged_file_is_named_without_rays_words(run, tmp_path):
    pq.write_table(random_facts(5000), tmp_path / "damaged.parquet", compression="zstd")
    data = bytearray((tmp_path / "damaged.parquet").read_bytes())
    data[200:-3000] = bytes(len(data) - 3200)
    (tmp_path / "damaged.parquet").write_bytes(data)
    with pytest.raises(DataError) as error:
        run(tmp_path / "damaged.parquet")
    assert str(error.value).startswith(f"{tmp_path / 'damaged.parquet'}: cannot read the rows from 0 on")
    assert "attempts" not in str(error.value)
    assert not Path(tmp_path / "run" / "graph").exists()


def test_files_that_disagree_are_refused(run, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(facts_of([("a", "r", "b", 1)]), folder / "a.parquet")
    pq.write_table(facts_of([("a", "r", "b", "2020-01-01")]), folder / "b.parquet")
    with pytest.raises(DataError, match=r"integers in .*a.parquet, but dates in .*b.parquet"):
        run(folder)
    pq.write_table(facts_of([("a", "r", "b", 1)], split=["train"]), folder / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet has a split column 'split', .*a.parquet has none"):
        run(folder)


def test_splits_in_names_of_folders_divide_time_and_files_left_out_are_counted(run, tmp_path):
    facts = random_facts().sort_by("timestamp")
    for split, low, high in (("train", 0, 25), ("valid", 25, 40), ("test", 40, 60)):
        (tmp_path / "in" / f"split={split}").mkdir(parents=True)
        part = facts.filter((pc.field("timestamp") >= low) & (pc.field("timestamp") < high))
        pq.write_table(part, tmp_path / "in" / f"split={split}" / "000000_0")
    (tmp_path / "in" / "_SUCCESS").touch()
    (tmp_path / "in" / "more.csv").write_text("subject,relation\n")
    found = content(run(tmp_path / "in"))
    times = np.array(facts["timestamp"])
    assert found["splits"] == {
        "train": (times < 25).sum(), "valid": ((times >= 25) & (times < 40)).sum(), "test": (times >= 40).sum()
    }  # fmt: skip
    assert found["left_out"] == {"hidden": 1, "text table": 1}


def test_timestamps_in_int96_are_those_in_int64(run, tmp_path):
    facts = random_facts()
    years = [datetime(1500 + 25 * (time // 5), 6, 1) for time in facts["timestamp"].to_pylist()]
    facts = facts.set_column(3, "timestamp", pa.array(years, pa.timestamp("us")))
    facts = facts.append_column("end_timestamp", pa.array([None, datetime(9999, 12, 31)] * 200)[: len(facts)])
    pq.write_table(facts, tmp_path / "int96.parquet", use_deprecated_int96_timestamps=True, store_schema=False)
    overrides = "data.time_unit=year", "prepare.max_bad_fraction=0"
    expected = run(facts, *overrides, name="int64")
    found = run(tmp_path / "int96.parquet", *overrides, name="int96")
    assert digests(found) == digests(expected)
    assert content(found)["time"] == content(expected)["time"]
