"""Any table, in any dialect, is read back exactly, or refused with what to set."""

import bz2
import csv
import gzip
import io
import lzma

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.config import load_config
from gam_kg.errors import ConfigError, DataError
from gam_kg.importers.csv_table import SEPARATORS, read_table
from gam_kg.ingest.names import strip_names

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=12) | st.text(
    st.sampled_from("aé,;\t|\"' \u00a0\u200b\ufeff0."), max_size=8
)
TABLES = st.integers(2, 5).flatmap(lambda width: st.lists(st.lists(NAMES, min_size=width, max_size=width), max_size=8))
WRITERS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from(SEPARATORS),
        "quotechar": st.sampled_from("\"'"),
        "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    }
)


def read(path, *overrides):
    return read_table(path, load_config(None, [f"data.{override}" for override in overrides]).data)


def cells(path, *overrides):
    return [[*row.values()] for row in read(path, *overrides).to_pylist()]


def stripped(rows):
    return [[cell or None for cell in strip_names(pa.array(row, pa.large_string())).to_pylist()] for row in rows]


@given(rows=TABLES, dialect=WRITERS, encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_a_table_is_read_as_it_was_written(tmp_path_factory, rows, dialect, encoding):
    header = [f"column{number}" for number in range(len(rows[0]) if rows else 2)]
    text = io.StringIO(newline="")
    csv.writer(text, **dialect).writerows([header, *rows])
    path = tmp_path_factory.mktemp("table") / "table"
    path.write_bytes(text.getvalue().encode(encoding))
    assert cells(path, f"csv.quote={dialect['quotechar']}") == stripped(rows)
    assert cells(path, f"csv.quote={dialect['quotechar']}", f"csv.separator={dialect['delimiter']}") == stripped(rows)


@given(rows=TABLES)
def test_what_pandas_writes(tmp_path_factory, rows):
    import pandas as pd

    path = tmp_path_factory.mktemp("table") / "table.csv"
    frame = pd.DataFrame(rows, columns=[f"c{number}" for number in range(len(rows[0]) if rows else 2)])
    frame.to_csv(path)
    assert [row[1:] for row in cells(path)] == stripped(rows)


@pytest.mark.parametrize("content", ["a;b\n1,5;2,5\n", "a;b\n1;2\n", "sep=;\na;b,c\n1;2,3\n", "\n\na;b\n\n1;2\n \n"])
def test_the_separator_is_found(table, content):
    assert len(read(table(content)).column_names) == 2


def test_an_ambiguous_separator_is_refused(table):
    path = table("a,b;c\n1,2;3\n")
    with pytest.raises(DataError, match=r"may be , or ;; set it, for instance data\.csv\.separator=,"):
        read(path)
    assert cells(path, "csv.separator=;") == [["1,2", "3"]]


def test_no_separator_is_refused(table):
    with pytest.raises(DataError, match=r"'a b'.*another separator set data\.csv\.separator"):
        read(table("a b\n1 2\n"))
    assert cells(table("a b\n1 2\n"), "csv.separator= ") == [["1", "2"]]


def test_quotes_may_be_parts_of_cells(table):
    assert cells(table('a,b\n"x,2\n'), "csv.quote=null") == [['"x', "2"]]
    assert cells(table("a,b\n'x,y',2\n"), "csv.quote='") == [["x,y", "2"]]
    assert cells(table('a, b\nx, "y, z"\n')) == [["x", "y, z"]]


def test_cells_of_other_columns_may_have_several_lines(table):
    assert cells(table('note,subject\n"x\ny",s\n')) == [["x\ny", "s"]]


def test_columns_without_a_name_get_one(table):
    assert read(table(",b,\n1,2,3\n")).column_names == ["column 1", "b", "column 3"]


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: pa.compress(data, "zstd", asbytes=True)]
)
def test_packed_files_are_known_by_their_content(tmp_path, pack):
    data = pack(b"a,b\n" + b"1,2\n" * 50)
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    assert cells(path) == [["1", "2"]] * 50
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cannot read"):
        read(path)


def test_encodings(table):
    text = "a,b\né,ü\n"
    assert cells(table(text.encode("cp1252")), "csv.encoding=cp1252") == [["é", "ü"]]
    assert cells(table(text.encode("utf-16-le")), "csv.encoding=utf-16-le") == [["é", "ü"]]
    with pytest.raises(DataError, match=r"line 2: not UTF-8 text.*data\.csv\.encoding=cp1252"):
        read(table(text.encode("cp1252")))
    with pytest.raises(DataError, match=r"zero bytes.*utf-16-le"):
        read(table(text.encode("utf-16-le")))
    with pytest.raises(DataError, match="mark of UTF-8"):
        read(table(text.encode("utf-8-sig")), "csv.encoding=latin-1")
    for encoding in ("latin-0", "rot13"):
        with pytest.raises(ConfigError, match=f"data.csv.encoding={encoding}"):
            read(table(text), f"csv.encoding={encoding}")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["is empty"]),
        ("\n \n", ["is empty"]),
        ('"a,b\n1,2\n', ["begins with a wrong quote"]),
        ('a,b\n1,2\n"x"y,2\n', ["line 3", "more text follows a closing quote", "data.csv.quote=null"]),
        ('a,b\n\n"x,2\n3,4\n', ["line 3", "never closed"]),
        ('subject,b\n"x\ny",2\n', ["line 2", "several lines"]),
        ('note,b\n"x\ny",2\n1,2,3\n', ["line 4", "3 column(s)", "separated by ,"]),
        ("a,b\n1,2\n3\n", ["line 3", "1 column(s)"]),
        ("a,b,a\n1,2,3\n", ["'a' appears twice"]),
        ("a,b\n" + "x" * 200_000 + ",1\n", ["line 2", "131,072 characters"]),
        (b"PAR1", ["data.facts"]),
        (b"PK\x03\x04", ["workbook"]),
        (b"\x1f\x8b", ["cannot read"]),
    ],
)
def test_malformed(table, content, parts):
    with pytest.raises(DataError) as caught:
        read(table(content))
    assert all(part in str(caught.value) for part in ["facts.csv", *parts]), str(caught.value)


def test_a_line_without_an_end(table, monkeypatch):
    monkeypatch.setattr("gam_kg.importers.text_file.MAX_LINE", 100)
    with pytest.raises(DataError, match="line 2: more than 100 characters"):
        read(table("a,b\n" + "x" * 150))
