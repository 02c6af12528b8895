import logging
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import ConfigError, DataError
from gam_kg.ingest.sources import RowGroup, Sources

COLUMNS = ColumnsConfig()
FACTS = pa.table({"subject": ["a", "b"], "relation": ["r", "r"], "object": ["c", "d"], "timestamp": [1, 2]})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def write(path, table=FACTS):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=1)


def rows(place="in", columns=COLUMNS):
    """Every row, as a task reads it, and the row groups."""
    sources = Sources.find(str(place))
    _, groups = sources.check(columns)
    tables = [table for group in groups for table, _ in sources.read(group, columns)]
    return pa.concat_tables(tables, promote_options="default"), groups


def refused(match, columns=COLUMNS):
    with pytest.raises(DataError, match=match):
        rows(columns=columns)


def test_rows_are_numbered_within_their_file_in_path_order(folder):
    write(folder / "b.parquet")
    write(folder / "a" / "x", FACTS.slice(1))
    found, groups = rows()
    assert found["subject"].to_pylist() == ["b", "a", "b"]
    assert groups == (RowGroup(0, 0, 0, 1), RowGroup(1, 0, 0, 1), RowGroup(1, 1, 1, 1))
    assert Sources.find("in").names == ("in/a/x", "in/b.parquet")
    assert Sources.find("in").paths == (str(folder / "a" / "x"), str(folder / "b.parquet"))
    with pytest.raises(ConfigError, match=r"predict\.queries is not set"):
        Sources.find(None, "predict.queries")


def test_folders_of_the_form_key_value_are_columns(folder):
    for split, year in (("train", "2019"), ("valid", "2020"), ("__HIVE_DEFAULT_PARTITION__", "2021")):
        write(folder / f"split={split}" / f"timestamp={year}" / "x=y" / "0.parquet", FACTS.drop_columns(["timestamp"]))
    found, _ = rows()
    by_year = {2019: "train", 2020: "valid", 2021: None}
    assert found["timestamp"].type == pa.int64()
    assert {row["timestamp"]: row["split"] for row in found.to_pylist()} == by_year
    assert set(found.column_names) == {*FACTS.column_names, "split"}
    other, _ = rows(columns=ColumnsConfig(split="x"))
    assert other["x"].to_pylist() == ["y"] * 6


def test_times_in_folders_are_text_where_one_is_no_integer(folder):
    for day in ("2020-01-01", "2020", "__HIVE_DEFAULT_PARTITION__"):
        write(folder / f"timestamp={day}" / "0.parquet", FACTS.drop_columns(["timestamp"]))
    assert rows()[0]["timestamp"].to_pylist() == ["2020-01-01"] * 2 + ["2020"] * 2 + [None] * 2


def test_folders_that_contradict_files_are_refused(folder):
    write(folder / "split=train" / "a.parquet", FACTS.append_column("split", pa.array(["valid"] * 2)))
    refused(r"in/split=train/a\.parquet: column 'split' stands in the file and in the name of its folder")
    write(folder / "split=train" / "a.parquet")
    rows()
    write(folder / "b.parquet")
    refused(r"in/split=train/a\.parquet is in a folder split=\.\.\., in/b\.parquet is in none")


def test_folders_with_another_spelling_of_a_column_are_refused(folder):
    write(folder / "Split=train" / "a.parquet")
    refused(r"folders Split=\.\.\. are read as a column only if they are named split=")
    assert rows(columns=ColumnsConfig(split="Split"))[0]["Split"].to_pylist() == ["train"] * 2


def test_names_that_are_integers_in_one_file_and_text_in_another_are_said_to_be_one(folder, caplog):
    caplog.set_level(logging.INFO, "gam_kg")
    write(folder / "a.parquet")
    write(folder / "b.parquet", FACTS.set_column(0, "subject", pa.array([13, 14])))
    Sources.find("in").check(COLUMNS)
    assert "column 'subject' is integers in in/b.parquet and text in in/a.parquet" in caplog.text
    assert "'object' is" not in caplog.text


def test_the_name_of_a_folder_counts_for_the_hash_and_that_of_a_file_does_not(folder):
    write(folder / "split=train" / "a.parquet")
    before = Sources.find("in").hashes()
    (folder / "split=train" / "a.parquet").rename(folder / "split=train" / "b.parquet")
    assert Sources.find("in").hashes() == before
    (folder / "split=train").rename(folder / "split=valid")
    assert Sources.find("in").hashes() != before


@pytest.mark.parametrize("role", ["split", "end_timestamp"])
def test_an_optional_column_that_the_user_names_must_be_there(folder, role):
    write(folder / "a.parquet")
    rows()
    refused(
        rf"data\.columns\.{role}=until: no file has this column; in/a\.parquet has 'subject', 'relation', 'object', "
        "'timestamp'",
        ColumnsConfig(**{role: "until"}),
    )


@pytest.mark.parametrize("name", ["Split", "split ", "SPLIT", "End_Timestamp", "end timestamp", "endTimestamp"])
def test_a_column_that_only_its_spelling_keeps_from_being_read_is_refused(folder, name):
    write(folder / "a.parquet", FACTS.append_column(name, pa.nulls(2)))
    refused(rf"in/a\.parquet: column '{name}' is read only if it is named")
    columns = ColumnsConfig(**{"split" if name.lower()[0] == "s" else "end_timestamp": name})
    assert name in rows(columns=columns)[0].column_names


def test_a_split_is_in_all_files_or_in_none_and_ends_may_be_in_some(folder, caplog):
    write(folder / "a.parquet", FACTS.append_column("end_timestamp", pa.array([5, None])))
    write(folder / "b.parquet")
    with caplog.at_level(logging.INFO, "gam_kg"):
        rows()
    assert "1 of 2 files have no column 'end_timestamp', as in/b.parquet" in caplog.text
    write(folder / "a.parquet", FACTS.append_column("split", pa.array(["train", "test"])))
    refused(r"in/a\.parquet has a split column 'split', in/b\.parquet has none")


def test_the_log_says_what_is_read_left_out_and_passed_over(folder, caplog):
    write(folder / "year=2020" / "a.parquet", FACTS.append_column("end_time", pa.array([1, 2])))
    (folder / "notes.csv").write_text("a,b")
    with caplog.at_level(logging.INFO, "gam_kg"):
        rows()
    assert "data.facts: 2 rows in 1 file(s)" in caplog.text
    assert "data.facts: left out: 1 text table (in/notes.csv)" in caplog.text
    assert "folders year=... stand for no configured column" in caplog.text
    assert "column 'end_time' is not read; if it is meant, set data.columns.end_timestamp=end_time" in caplog.text
    assert Sources.find("in").num_left_out == {"text table": 1}


@pytest.mark.parametrize("times, found", [(2, "twice"), (3, "3 times")])
def test_a_column_that_stands_several_times_is_refused(folder, times, found):
    table = FACTS
    for _ in range(times - 1):
        table = table.append_column("subject", FACTS["object"]).append_column("unread", FACTS["object"])
    write(folder / "a.parquet", table)
    refused(rf"in/a\.parquet: column 'subject' stands {found}; rename one of them")
    write(folder / "a.parquet", table.select(range(4)).append_column("x", FACTS["object"]).append_column("x", [[1, 2]]))
    assert rows()[0].column_names == FACTS.column_names


def test_a_column_inside_another_is_not_taken_for_one_of_its_own(folder):
    write(folder / "a.parquet", FACTS.append_column("a", pa.array([{"b": "x"}, {"b": "y"}])))
    refused(r"in/a\.parquet: no column 'a\.b'", ColumnsConfig(subject="a.b"))
    write(
        folder / "a.parquet",
        FACTS.append_column("a", pa.array([{"b": "x"}, {"b": "y"}])).append_column("a.b", [["v", "w"]]),
    )
    assert rows(columns=ColumnsConfig(subject="a.b"))[0]["a.b"].to_pylist() == ["v", "w"]


def test_a_file_that_changes_while_it_is_read_is_refused(folder):
    write(folder / "a.parquet")
    sources = Sources.find("in")
    _, groups = sources.check(COLUMNS)
    write(folder / "a.parquet", FACTS.slice(1))
    os.utime(folder / "a.parquet", ns=(1, 1))
    with pytest.raises(DataError, match=r"in/a\.parquet was changed while it was read"):
        next(sources.read(groups[0], COLUMNS))
    with pytest.raises(DataError, match=r"in/a\.parquet was changed while it was read"):
        sources.hashes()


def test_files_that_are_no_parquet_or_point_to_another_are_refused(folder):
    folder.mkdir()
    (folder / "a.parquet").write_text("subject,relation\n")
    refused(r"in/a\.parquet is not a Parquet file, or is damaged .*`gam-kg import`")
    (folder / "a.parquet").write_bytes(b"PARE" * 10)
    refused(r"in/a\.parquet is not a Parquet file, or is damaged \(it is encrypted\)")
    write(folder / "a.parquet")
    metadata = pq.read_metadata(folder / "a.parquet")
    metadata.set_file_path("elsewhere.parquet")
    metadata.write_metadata_file(folder / "a.parquet")
    refused(r"its rows are in another file, elsewhere\.parquet")


@pytest.mark.parametrize("names", [("train.parquet", "Test.parquet"), ("valid/part-0.parquet", "test/part-0.parquet")])
def test_files_named_after_splits_are_said_to_be_divided_by_time(folder, caplog, names):
    caplog.set_level(logging.INFO, "gam_kg")
    for name in names:
        write(folder / name)
    Sources.find("in").check(COLUMNS)
    assert f"in/{names[1]} are named after splits" in caplog.text or f"in/{names[0]} are named" in caplog.text
    caplog.clear()
    write(folder / names[1], FACTS.append_column("split", pa.array(["test"] * len(FACTS))))
    (folder / names[0]).unlink()
    Sources.find("in").check(COLUMNS)
    assert "named after" not in caplog.text
