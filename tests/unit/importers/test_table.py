import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imported import HEADER, imported, refused, rows

from gam_kg.data_config import ColumnsConfig, DataConfig
from gam_kg.importers import csv_table


@pytest.mark.parametrize(
    "content",
    [
        HEADER + '007,r,"a, b",5\n',
        "\ufeff" + HEADER + '007,r,"a, b",5\n',
        (HEADER + '007,r,"a, b",5\n').replace("\n", "\r\n"),
        HEADER + '\n007,r,"a, b",5\n\n',
        'more,timestamp,object,relation,subject\n"1\n2",5,"a, b",r,007\n',
    ],
    ids=["plain", "BOM", "CRLF", "blank lines", "other order and a further column of two lines"],
)
def test_csv(table, out, content):
    summary = imported(table(content), out)
    assert rows(out) == [("007", "r", "a, b", 5)]
    assert summary.num_facts == 1
    assert pq.read_schema(out).types == [pa.large_string()] * 3 + [pa.int64()]
    assert pq.read_schema(out).metadata[b"gam_kg.source"] == b"table"


@pytest.mark.parametrize("name", ["facts.tsv", "facts.txt", "facts.tsv.gz", "a.b.TXT.gz"])
def test_tabs(table, out, name):
    imported(table(HEADER.replace(",", "\t") + "a, b\tr\to\t5\n", name), out)
    assert rows(out) == [("a, b", "r", "o", 5)]


def test_gzipped_csv(table, out):
    imported(table(HEADER + "s,r,o,5\n", "facts.csv.gz"), out)
    assert rows(out) == [("s", "r", "o", 5)]


def test_named_columns(table, out):
    columns = DataConfig(columns=ColumnsConfig(subject="who", relation="does", object="whom", timestamp="day"))
    imported(table("who,does,whom,day\ns,r,o,5\n"), out, columns)
    assert rows(out) == [("s", "r", "o", 5)]


def test_end_and_split(table, out):
    content = "subject,relation,object,timestamp,end_timestamp,split\ns,r,o,5,,train\ns,r,o,6,9,test\n"
    imported(table(content), out)
    assert rows(out) == [("s", "r", "o", 5, None, "train"), ("s", "r", "o", 6, 9, "test")]


def test_empty_cells_become_nulls_and_na_is_a_name(table, out):
    imported(table(HEADER + 'NA,,"",5\n,null,o,\n'), out)
    assert rows(out) == [("NA", None, None, 5), (None, "null", "o", None)]


def test_timestamps_stay_as_they_are(table, out):
    imported(table(HEADER + "s,r,o,5\ns,r,o,2014-01-01\ns,r,o,soon\n"), out)
    assert [row[3] for row in rows(out)] == ["5", "2014-01-01", "soon"]


def test_many_blocks(table, out, monkeypatch):
    monkeypatch.setattr(csv_table, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(csv_table, "PIECE_ROWS", 100)
    lines = "".join(f"s{day},r,o,{day}\n" for day in range(500))
    assert imported(table(HEADER + lines), out).num_facts == 500
    assert pq.ParquetFile(out).metadata.num_row_groups > 1
    assert rows(out) == [(f"s{day}", "r", "o", day) for day in range(500)]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (HEADER + "s,r,o,5\n\ns,r,o,5,6\n", ["facts.csv, line 4", "5 column(s)", "has 4"]),
        (
            HEADER + "s,r,o,5\n" + '"Al,r,o,5\nb,r,o,6\nBo",r,o,7\n',
            ["facts.csv, line 3", "runs over several lines"],
        ),
        ("note," + HEADER + '"a\nb",s,r,o,5\n,s,r\n', ["facts.csv, line 4", "3 column(s)"]),
        ("subject relation object timestamp\n", ["line 1", "'subject relation object timestamp'", "csv.separator"]),
        (
            "who,relation,object,when\n",
            ["subject ('subject'), timestamp ('timestamp')", "'who', 'relation'", "data.columns.subject"],
        ),
        ("subject," + HEADER, ["line 1", "'subject' appears twice"]),
        (HEADER, ["no facts"]),
        ("", ["is empty"]),
        (HEADER.encode() + b"s,r,o,5\n" * 9999 + b"\xff,r,o,5\n", ["line 10001", "UTF-8"]),
    ],
)
def test_malformed(table, out, content, parts):
    message = refused(imported, table(content), out)
    assert all(part in message for part in parts), message


def test_damaged_gzip(table, tmp_path, out):
    whole = table(HEADER + "s,r,o,5\n" * 50, "facts.csv.gz").read_bytes()
    (tmp_path / "half.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert "half.csv.gz" in refused(imported, tmp_path / "half.csv.gz", out)
