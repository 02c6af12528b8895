import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imported import imported, refused, rows

from gam_kg.data_config import DataConfig
from gam_kg.errors import DataError

ROOT = Path(__file__).parents[3]
ICEWS14 = ROOT.parent / "shared" / "data" / "icews14"


def test_three_files_in_their_order(folder, out):
    path = folder(train="1\t1\t0\t7\n0\t0\t1\t3\n", valid="0\t0\t2\t8\n", test="2\t0\t0\t9\n")
    summary = imported(path, out)
    assert rows(out) == [
        ("Iran", "Consult", "China", 7, "train"),
        ("China", "Make statement", "Iran", 3, "train"),
        ("China", "Make statement", "Citizen (Nigeria)", 8, "valid"),
        ("Citizen (Nigeria)", "Make statement", "China", 9, "test"),
    ]
    assert (summary.num_facts, summary.num_entities, summary.num_relations) == (4, 3, 2)
    assert summary.splits == {"train": 2, "valid": 1, "test": 1}
    schema = pq.read_schema(out)
    assert schema.types == [pa.large_string()] * 3 + [pa.int64(), pa.string()]
    assert schema.metadata[b"gam_kg.source"] == b"folder"
    assert pq.ParquetFile(out).metadata.row_group(0).column(0).compression == "ZSTD"
    assert [file.name for file in out.parent.iterdir()] == ["facts.parquet"]


@pytest.mark.parametrize(
    "train",
    [
        "0\t1\t2\t5\t0\n",
        "0\t1\t2\t5\t\n",
        "0\t1\t2\t5\r\n",
        "\ufeff0\t1\t2\t5\n",
        "\n\n0\t1\t2\t5\n  \n",
        "0\t1\t2\t5   \n",
        "0  1 2   5\n",
        " 0 1 2 5 0 0",
        "1\n0\t1\t2\t5\n",
        "China\tConsult\tCitizen (Nigeria)\t5\n",
        "0\t1\t2\t5",
    ],
    ids=[
        "fifth column",
        "trailing tab",
        "CRLF",
        "BOM",
        "blank lines",
        "trailing spaces",
        "runs of spaces",
        "leading space",
        "count line",
        "names in place of ids",
        "no last newline",
    ],
)
def test_odd_facts(folder, out, train):
    imported(folder(train=train), out)
    assert rows(out) == [("China", "Consult", "Citizen (Nigeria)", 5)]


@pytest.mark.parametrize(
    "entities",
    [
        "3\nChina\t0\nIran\t1\nCitizen (Nigeria)\t2\n",
        "0\tChina\n1\tIran\n2\tCitizen (Nigeria)\n",
        "\ufeffChina\t0\r\n\r\nIran\t1\r\nCitizen (Nigeria)\t2\t\t\r\n",
        "China 0\nIran 1\nCitizen (Nigeria) 2\n",
        "0 China\n1 Iran\n2 Citizen (Nigeria)\n",
        "China\t0\tx\nIran\t1\ty\nCitizen (Nigeria)\t2\tz\n",
        "China\t0\nIran\t1\nIran\t1\nCitizen (Nigeria)\t2\n",
    ],
    ids=["count line", "swapped", "BOM and CRLF", "spaces", "spaces swapped", "third column", "a line twice"],
)
def test_odd_names(folder, out, entities):
    imported(folder(train="0\t1\t2\t5\n", entity2id=entities), out)
    assert rows(out) == [("China", "Consult", "Citizen (Nigeria)", 5)]


@pytest.mark.parametrize("entities", ["70\t0\n80\t1\n90\t2\n", "0\t70\n1\t80\n2\t90\n"])
def test_names_that_are_integers(folder, out, entities):
    imported(folder(train="0\t1\t2\t5\n", entity2id=entities), out)
    assert rows(out) == [("70", "Consult", "90", 5)]


def test_ids_are_the_names_without_files_of_names(folder, out):
    imported(folder(train="0\t1\t2\t5\n007\t1\t2\t5\n", entity2id=None, relation2id=None), out)
    assert rows(out) == [("0", "1", "2", 5), ("007", "1", "2", 5)]


def test_one_file_of_names(folder, out):
    imported(folder(train="0\t1\t2\t5\n", entity2id=None), out)
    assert rows(out) == [("0", "Consult", "2", 5)]


def test_names_in_place_of_ids_without_files_of_names(folder, out):
    train = "Citizen (Nigeria)\tMake statement\tChina\t2014-01-31\n"
    imported(folder(train=train, entity2id=None, relation2id=None), out)
    [(subject, relation, object_, day)] = rows(out)
    assert (subject, relation, object_, str(day)) == ("Citizen (Nigeria)", "Make statement", "China", "2014-01-31")
    assert pq.read_schema(out).field("timestamp").type == pa.date32()


@pytest.mark.parametrize(
    "line", ["0\t1\t2\t2014-01-31T12:30:00\n", "0\t1\t2\t2014-01-31 12:30:00\n", "0 1 2 2014-01-31 12:30:00\n"]
)
def test_dates_with_a_time(folder, out, line):
    imported(folder(train="0\t1\t2\t2014-01-01\n" + line), out)
    assert pq.read_schema(out).field("timestamp").type == pa.timestamp("us")
    assert [str(row[3]) for row in rows(out)] == ["2014-01-01 00:00:00", "2014-01-31 12:30:00"]


def test_times_of_a_zone(folder, out):
    train = "0\t1\t2\t2014-01-31T12:30:00+02:00\n1\t1\t2\t2014-01-31T10:30:00Z\n"
    imported(folder(train=train), out)
    assert pq.read_schema(out).field("timestamp").type == pa.timestamp("us", tz="UTC")
    assert [str(row[3]) for row in rows(out)] == ["2014-01-31 10:30:00+00:00"] * 2


@pytest.mark.parametrize("months", ["2014-01 2014-11", "1998-05 2014-01-31"])
def test_months_stay_text_which_prepare_reads(folder, out, months):
    imported(folder(train="".join(f"0\t1\t2\t{month}\n" for month in months.split())), out)
    assert [row[3] for row in rows(out)] == months.split()


def test_timestamps_of_a_given_form_stay_text(folder, out):
    imported(folder(train="0\t1\t2\t01022014\n0\t1\t2\t11022014\n"), out, DataConfig(time_format="%d%m%Y"))
    assert [row[3] for row in rows(out)] == ["01022014", "11022014"]


def test_no_split_column_for_train_alone(folder, out):
    assert imported(folder(train="0\t1\t2\t5\n"), out).splits == {}
    assert "split" not in pq.read_schema(out).names


def test_test_without_valid(folder, out):
    summary = imported(folder(train="0\t1\t2\t5\n", test="\n"), out)
    assert summary.splits == {"train": 1, "test": 0}
    assert rows(out) == [("China", "Consult", "Citizen (Nigeria)", 5, "train")]


def test_repeated_facts(folder, out):
    path = folder(train="0\t1\t2\t5\n1\t1\t2\t5\n0\t1\t2\t05\n0\t1\t2\t6\n", test="0\t1\t2\t5\n")
    summary = imported(path, out)
    assert (summary.num_facts, summary.num_duplicates, summary.num_in_two_splits) == (4, 1, 1)
    assert [row[3:] for row in rows(out)] == [(5, "train"), (5, "train"), (6, "train"), (5, "test")]
    assert "dropped 1 rows" in "\n".join(summary.lines())


def test_two_ids_of_one_name_stay_apart(folder, out):
    entities = "China\t0\nChina (id 2)\t1\nChina\t2\nChina\t3\n"
    summary = imported(folder(train="0\t0\t1\t5\n2\t0\t3\t5\n", entity2id=entities), out)
    names = [name for row in rows(out) for name in (row[0], row[2])]
    assert names == ["China", "China (id 2)", "China (id 2)'", "China (id 3)"]
    assert summary.renamed == ("China (id 2)'", "China (id 3)")


def test_larger_than_a_row_group(folder, out, monkeypatch):
    monkeypatch.setattr("gam_kg.importers.folder.ROWS_PER_GROUP", 3)
    imported(folder(train="".join(f"0\t1\t2\t{day}\n" for day in range(10))), out)
    assert [row[3] for row in rows(out)] == list(range(10))


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"train": "0\t1\t2\t5\n0\t1\t2\n"}, ["train.txt, line 2", "3 column(s)", "timestamp"]),
        ({"train": "0\t\t2\t5\n"}, ["train.txt, line 1", "the relation is empty"]),
        ({"train": "0\t1\t2\tsoon\n"}, ["train.txt, line 1", "'soon'", "ISO date"]),
        ({"train": "0\t1\t2\t5.0\n"}, ["train.txt, line 1", "'5.0'", "integer"]),
        ({"train": "0\t1\t2\t" + "9" * 19 + "\n"}, ["train.txt, line 1", "18 digits"]),
        ({"train": "0\t1\t2\t2014-02-30\n"}, ["train.txt, line 1", "'2014-02-30'"]),
        (
            {"train": "\n0\t1\t2\t5\n", "valid": "\ufeff0\t1\t2\t2014-01-01\n"},
            ["valid.txt, line 1", "'2014-01-01'", "train.txt, line 2 has '5'"],
        ),
        ({"train": "0\t1\t2\t5\n0\t1\t9\t5\n"}, ["train.txt, line 2", "entity '9'", "entity2id.txt", "3 ids"]),
        (
            {"train": "0\t1\t2\t2014-01-01\n", "test": "0\t1\t2\t2014-01-31T12:30:00+02:00\n"},
            ["test.txt, line 1", "train.txt, line 1", "a time zone throughout"],
        ),
        ({"train": "0\t1\t2\t31/01/2014\n"}, ["train.txt, line 1", "data.time_format"]),
        ({"train": "0\t1\t2\t2014-W05-1\n"}, ["train.txt, line 1", "'2014-W05-1'"]),
        ({"train": "0\t7\t2\t5\n"}, ["train.txt, line 1", "relation '7'", "relation2id.txt"]),
        ({"train": "0\t1\t2\t5\n", "entity2id": "China\t0\nIran\n"}, ["entity2id.txt, line 2", "'Iran'"]),
        ({"train": "0\t1\t2\t5\n", "entity2id": "China\t0\n\t1\n"}, ["entity2id.txt, line 2"]),
        (
            {"train": "0\t1\t2\t5\n", "entity2id": "China\t0\nIran\t0\n"},
            ["entity2id.txt, line 2", "id 0", "'Iran'", "'China'"],
        ),
        ({"train": b"0\t1\t2\t5\n0\t\xff\t2\t5\n"}, ["train.txt, line 2", "UTF-8"]),
        ({"train": "\n"}, ["no facts", "train.txt"]),
        ({"valid": "0\t1\t2\t5\n"}, ["no train.txt"]),
    ],
)
def test_malformed(folder, out, files, parts):
    message = refused(imported, folder(**files), out)
    assert all(part in message for part in parts), message


def test_an_old_file_survives_a_failed_import(folder, out):
    out.parent.mkdir()
    out.write_bytes(b"old")
    with pytest.raises(DataError):
        imported(folder(train="0\t1\t2\n"), out)
    assert out.read_bytes() == b"old"


def test_icews14(out):
    if not ICEWS14.is_dir():
        assert "CI" not in os.environ, f"{ICEWS14} must be there in CI"
        pytest.skip(f"no ICEWS14 in {ICEWS14}")
    summary = imported(ICEWS14, out)
    assert summary.splits == {"train": 74845, "valid": 8514, "test": 7371}
    assert (summary.num_entities, summary.num_relations) == (7128, 230)
    assert (summary.num_duplicates, summary.num_in_two_splits, summary.renamed) == (0, 0, ())
    days = pq.read_table(out).to_pandas().groupby("split")["timestamp"].agg(["min", "max", "nunique"])
    assert days.loc["train"].tolist() == [1, 304, 304]
    assert days.loc["valid"].tolist() == [305, 334, 30]
    assert days.loc["test"].tolist() == [335, 365, 31]


def test_files_of_the_folder_that_are_not_read_are_named(folder, out):
    path = folder(train="0\t1\t2\t1\n", dev="0\t1\t2\t2\n")
    assert imported(path, path / "facts.parquet").notes == ("not read: dev.txt",)
    assert imported(path, out).lines()[-1] == "not read: dev.txt, facts.parquet"
