import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gam_kg.config import ColumnsConfig, load_config
from gam_kg.data import table_format
from gam_kg.data.formats import import_facts, import_folder, import_table
from gam_kg.errors import DataError

ROOT = Path(__file__).parents[3]
ICEWS14 = ROOT.parent / "shared" / "data" / "icews14"
ENTITIES = "China\t0\nIran\t1\nCitizen (Nigeria)\t2\n"
RELATIONS = "Make statement\t0\nConsult\t1\n"


@pytest.fixture
def folder(tmp_path):
    """Writes a folder from file names and contents; both files of names are there unless given as None."""

    def write(**files):
        files = {"entity2id": ENTITIES, "relation2id": RELATIONS} | files
        path = tmp_path / "set"
        path.mkdir()
        for name, content in files.items():
            if content is not None:
                data = content if isinstance(content, bytes) else content.encode()
                (path / f"{name}.txt").write_bytes(data)
        return path

    return write


@pytest.fixture
def out(tmp_path):
    return tmp_path / "made" / "facts.parquet"


def rows(path):
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def refused(call, *arguments):
    with pytest.raises(DataError) as caught:
        call(*arguments)
    assert not arguments[1].exists()
    assert not list(arguments[1].parent.glob(".*"))
    return str(caught.value)


class TestFolder:
    def test_three_files_in_their_order(self, folder, out):
        path = folder(train="1\t1\t0\t7\n0\t0\t1\t3\n", valid="0\t0\t2\t8\n", test="2\t0\t0\t9\n")
        summary = import_folder(path, out)
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
    def test_odd_facts(self, folder, out, train):
        import_folder(folder(train=train), out)
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
    def test_odd_names(self, folder, out, entities):
        import_folder(folder(train="0\t1\t2\t5\n", entity2id=entities), out)
        assert rows(out) == [("China", "Consult", "Citizen (Nigeria)", 5)]

    @pytest.mark.parametrize("entities", ["70\t0\n80\t1\n90\t2\n", "0\t70\n1\t80\n2\t90\n"])
    def test_names_that_are_integers(self, folder, out, entities):
        import_folder(folder(train="0\t1\t2\t5\n", entity2id=entities), out)
        assert rows(out) == [("70", "Consult", "90", 5)]

    def test_ids_are_the_names_without_files_of_names(self, folder, out):
        import_folder(folder(train="0\t1\t2\t5\n007\t1\t2\t5\n", entity2id=None, relation2id=None), out)
        assert rows(out) == [("0", "1", "2", 5), ("007", "1", "2", 5)]

    def test_one_file_of_names(self, folder, out):
        import_folder(folder(train="0\t1\t2\t5\n", entity2id=None), out)
        assert rows(out) == [("0", "Consult", "2", 5)]

    def test_names_in_place_of_ids_without_files_of_names(self, folder, out):
        train = "Citizen (Nigeria)\tMake statement\tChina\t2014-01-31\n"
        import_folder(folder(train=train, entity2id=None, relation2id=None), out)
        [(subject, relation, object_, day)] = rows(out)
        assert (subject, relation, object_, str(day)) == ("Citizen (Nigeria)", "Make statement", "China", "2014-01-31")
        assert pq.read_schema(out).field("timestamp").type == pa.date32()

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("0\t1\t2\t2014-01-31T12:30:00\n", "2014-01-31 12:30:00"),
            ("0\t1\t2\t2014-01-31 12:30:00\n", "2014-01-31 12:30:00"),
            ("0 1 2 2014-01-31 12:30:00\n", "2014-01-31 12:30:00"),
            ("0\t1\t2\t2014-01-31T12:30:00+02:00\n", "2014-01-31 10:30:00"),
        ],
    )
    def test_dates_with_a_time(self, folder, out, line, expected):
        import_folder(folder(train="0\t1\t2\t2014-01-01\n" + line), out)
        assert pq.read_schema(out).field("timestamp").type == pa.timestamp("us")
        assert [str(row[3]) for row in rows(out)] == ["2014-01-01 00:00:00", expected]

    def test_no_split_column_for_train_alone(self, folder, out):
        assert import_folder(folder(train="0\t1\t2\t5\n"), out).splits == {}
        assert "split" not in pq.read_schema(out).names

    def test_test_without_valid(self, folder, out):
        summary = import_folder(folder(train="0\t1\t2\t5\n", test="\n"), out)
        assert summary.splits == {"train": 1, "test": 0}
        assert rows(out) == [("China", "Consult", "Citizen (Nigeria)", 5, "train")]

    def test_repeated_facts(self, folder, out):
        path = folder(train="0\t1\t2\t5\n1\t1\t2\t5\n0\t1\t2\t05\n0\t1\t2\t6\n", test="0\t1\t2\t5\n")
        summary = import_folder(path, out)
        assert (summary.num_facts, summary.num_duplicates, summary.num_in_two_splits) == (4, 1, 1)
        assert [row[3:] for row in rows(out)] == [(5, "train"), (5, "train"), (6, "train"), (5, "test")]
        assert "dropped 1 rows" in "\n".join(summary.lines())

    def test_two_ids_of_one_name_stay_apart(self, folder, out):
        entities = "China\t0\nChina (id 2)\t1\nChina\t2\nChina\t3\n"
        summary = import_folder(folder(train="0\t0\t1\t5\n2\t0\t3\t5\n", entity2id=entities), out)
        names = [name for row in rows(out) for name in (row[0], row[2])]
        assert names == ["China", "China (id 2)", "China (id 2)'", "China (id 3)"]
        assert summary.renamed == ("China (id 2)'", "China (id 3)")

    def test_larger_than_a_row_group(self, folder, out, monkeypatch):
        monkeypatch.setattr("gam_kg.data.folder_format.ROWS_PER_GROUP", 3)
        import_folder(folder(train="".join(f"0\t1\t2\t{day}\n" for day in range(10))), out)
        assert [row[3] for row in rows(out)] == list(range(10))

    @pytest.mark.parametrize(
        ("files", "parts"),
        [
            ({"train": "0\t1\t2\t5\n0\t1\t2\n"}, ["train.txt, line 2", "3 column(s)", "timestamp"]),
            ({"train": "0\t\t2\t5\n"}, ["train.txt, line 1", "the relation is empty"]),
            ({"train": "0\t1\t2\tsoon\n"}, ["train.txt, line 1", "'soon'", "ISO date"]),
            ({"train": "0\t1\t2\t5.0\n"}, ["train.txt, line 1", "'5.0'", "an integer"]),
            ({"train": "0\t1\t2\t" + "9" * 19 + "\n"}, ["train.txt, line 1", "64-bit"]),
            ({"train": "0\t1\t2\t2014-02-30\n"}, ["train.txt, line 1", "'2014-02-30'"]),
            (
                {"train": "\n0\t1\t2\t5\n", "valid": "\ufeff0\t1\t2\t2014-01-01\n"},
                ["valid.txt, line 1", "'2014-01-01'", "train.txt, line 2 has '5'"],
            ),
            ({"train": "0\t1\t2\t5\n0\t1\t9\t5\n"}, ["train.txt, line 2", "entity '9'", "entity2id.txt", "3 ids"]),
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
    def test_malformed(self, folder, out, files, parts):
        message = refused(import_folder, folder(**files), out)
        assert all(part in message for part in parts), message

    def test_an_old_file_survives_a_failed_import(self, folder, out):
        out.parent.mkdir()
        out.write_bytes(b"old")
        with pytest.raises(DataError):
            import_folder(folder(train="0\t1\t2\n"), out)
        assert out.read_bytes() == b"old"

    def test_icews14(self, out):
        if not ICEWS14.is_dir():
            assert "CI" not in os.environ, f"{ICEWS14} must be there in CI"
            pytest.skip(f"no ICEWS14 in {ICEWS14}")
        summary = import_folder(ICEWS14, out)
        assert summary.splits == {"train": 74845, "valid": 8514, "test": 7371}
        assert (summary.num_entities, summary.num_relations) == (7128, 230)
        assert (summary.num_duplicates, summary.num_in_two_splits, summary.renamed) == (0, 0, ())
        days = pq.read_table(out).to_pandas().groupby("split")["timestamp"].agg(["min", "max", "nunique"])
        assert days.loc["train"].tolist() == [1, 304, 304]
        assert days.loc["valid"].tolist() == [305, 334, 30]
        assert days.loc["test"].tolist() == [335, 365, 31]


HEADER = "subject,relation,object,timestamp\n"


@pytest.fixture
def table(tmp_path):
    def write(content, name="facts.csv"):
        data = content if isinstance(content, bytes) else content.encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


class TestTable:
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
    def test_csv(self, table, out, content):
        summary = import_table(table(content), out, ColumnsConfig())
        assert rows(out) == [("007", "r", "a, b", 5)]
        assert summary.num_facts == 1
        assert pq.read_schema(out).types == [pa.large_string()] * 3 + [pa.int64()]
        assert pq.read_schema(out).metadata[b"gam_kg.source"] == b"table"

    @pytest.mark.parametrize("name", ["facts.tsv", "facts.txt", "facts.tsv.gz", "a.b.TXT.gz"])
    def test_tabs(self, table, out, name):
        import_table(table(HEADER.replace(",", "\t") + "a, b\tr\to\t5\n", name), out, ColumnsConfig())
        assert rows(out) == [("a, b", "r", "o", 5)]

    def test_gzipped_csv(self, table, out):
        import_table(table(HEADER + "s,r,o,5\n", "facts.csv.gz"), out, ColumnsConfig())
        assert rows(out) == [("s", "r", "o", 5)]

    def test_named_columns(self, table, out):
        columns = ColumnsConfig(subject="who", relation="does", object="whom", timestamp="day")
        import_table(table("who,does,whom,day\ns,r,o,5\n"), out, columns)
        assert rows(out) == [("s", "r", "o", 5)]

    def test_end_and_split(self, table, out):
        content = "subject,relation,object,timestamp,end_timestamp,split\ns,r,o,5,,train\ns,r,o,6,9,test\n"
        import_table(table(content), out, ColumnsConfig())
        assert rows(out) == [("s", "r", "o", 5, None, "train"), ("s", "r", "o", 6, 9, "test")]

    def test_empty_cells_become_nulls_and_na_is_a_name(self, table, out):
        import_table(table(HEADER + 'NA,,"",5\n,null,o,\n'), out, ColumnsConfig())
        assert rows(out) == [("NA", None, None, 5), (None, "null", "o", None)]

    def test_timestamps_stay_as_they_are(self, table, out):
        import_table(table(HEADER + "s,r,o,5\ns,r,o,2014-01-01\ns,r,o,soon\n"), out, ColumnsConfig())
        assert [row[3] for row in rows(out)] == ["5", "2014-01-01", "soon"]

    def test_many_blocks(self, table, out, monkeypatch):
        monkeypatch.setattr(table_format, "BLOCK_BYTES", 1000)
        lines = "".join(f"s{day},r,o,{day}\n" for day in range(500))
        assert import_table(table(HEADER + lines), out, ColumnsConfig()).num_facts == 500
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
            ("subject;relation;object;timestamp\n", ["line 1", "'subject;relation;object;timestamp'"]),
            (
                "who,relation,object,when\n",
                ["subject ('subject'), timestamp ('timestamp')", "'who', 'relation'", "data.columns.subject"],
            ),
            ("subject," + HEADER, ["line 1", "'subject' stands twice"]),
            (HEADER, ["no facts"]),
            ("", ["is empty"]),
            (HEADER.encode() + b"s,r,o,5\n" * 9999 + b"\xff,r,o,5\n", ["line 10001", "UTF-8"]),
        ],
    )
    def test_malformed(self, table, out, content, parts):
        message = refused(import_table, table(content), out, ColumnsConfig())
        assert all(part in message for part in parts), message

    def test_damaged_gzip(self, table, tmp_path, out):
        whole = table(HEADER + "s,r,o,5\n" * 50, "facts.csv.gz").read_bytes()
        (tmp_path / "half.csv.gz").write_bytes(whole[: len(whole) // 2])
        assert "half.csv.gz" in refused(import_table, tmp_path / "half.csv.gz", out, ColumnsConfig())


class TestImportFacts:
    def test_folder(self, folder, out):
        assert import_facts(str(folder(train="0\t1\t2\t5\n")), out).format == "folder"

    def test_table(self, table, out):
        assert import_facts(str(table(HEADER + "s,r,o,5\n")), out).format == "table"

    def test_other_things(self, tmp_path, out):
        (tmp_path / "facts.xlsx").touch()
        for source in ("nowhere.csv", str(tmp_path / "facts.xlsx")):
            message = refused(import_facts, source, out)
            assert source in message
            assert "lahman:YEAR" in message
        assert "no train.txt" in refused(import_facts, str(tmp_path), out)

    def test_out_is_a_folder(self, table, tmp_path):
        with pytest.raises(DataError, match="is a folder"):
            import_facts(str(table(HEADER + "s,r,o,5\n")), tmp_path)


@pytest.mark.parametrize("name", ["icews14", "demo"])
def test_configs(name):
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert config.name == name
    assert config.data.facts == f"runs/{name}/facts.parquet"
