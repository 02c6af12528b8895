"""What spreadsheets, databases and people make of a table of facts, and folders of such tables."""

import pytest
from imported import HEADER, imported, refused, rows

from gam_kg.config import load_config

ANALYST = """\
Lieferant;Beziehung;Kunde;Datum;Menge
 Müller GmbH ;beliefert;Café Zoë;31/01/2024;2,5
Müller GmbH;beliefert;Café Zoë;31/01/2024;2,5
"O'Neil; Inc";\tkauft von ;Łódź;01/02/2024;1,0
;kauft von;Łódź;02/02/2024;
Åre;kauft von;Łódź;;7
;;;;
"""
NAMES = ("subject=Lieferant", "relation=Beziehung", "object=Kunde", "timestamp=Datum")


def settings(*overrides):
    return load_config(None, [f"data.{override}" for override in overrides]).data


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_analysts_table(table, out, encoding):
    columns = settings(*(f"columns.{name}" for name in NAMES))
    summary = imported(table(ANALYST.encode(encoding)), out, columns)
    assert rows(out) == [
        ("Müller GmbH", "beliefert", "Café Zoë", "31/01/2024"),
        ("Müller GmbH", "beliefert", "Café Zoë", "31/01/2024"),
        ("O'Neil; Inc", "kauft von", "Łódź", "01/02/2024"),
        (None, "kauft von", "Łódź", "02/02/2024"),
        ("Åre", "kauft von", "Łódź", None),
    ]
    assert (summary.num_facts, summary.num_empty, summary.num_stripped) == (5, 1, 2)
    said = "\n".join(summary.lines())
    for part in ("5 facts", "dropped 1 rows", "around 2 names", "'Menge'", "'31/01/2024'", "data.time_format"):
        assert part in said


def test_hints_are_settings_of_the_verb(table, out):
    message = refused(imported, table("Head,rel,obj,when\n"), out, settings(), "")
    assert "subject=Head relation=rel object=obj timestamp=when" in message
    message = refused(imported, table("Head,rel,obj,full date\n"), out, settings(), "data.")
    assert "data.columns.subject=Head" in message
    assert "data.columns.timestamp=NAME" in message
    path = table("subject;relation;object;timestamp\ns;r;o;5,0\n")
    assert "csv.decimal=," in refused(imported, path, out, settings(), "")


@pytest.mark.parametrize(
    ("decimal", "texts", "times"),
    [
        (".", ["2014.0", "", "2016", "-3.", "+7.00"], [2014, None, 2016, -3, 7]),
        (",", ["2014,0", "", "2016"], [2014, None, 2016]),
        (".", ["2014.0", "2016.5"], ["2014.0", "2016.5"]),
        (",", ["2014,0", "2016.0"], ["2014,0", "2016.0"]),
        (".", ["1e3", "4"], ["1e3", "4"]),
        (".", ["007", "10"], [7, 10]),
        (".", ["01022024", "11022024"], ["01022024", "11022024"]),
        (".", ["5", "9" * 19], ["5", "9" * 19]),
        (".", ["٣", "4"], ["٣", "4"]),
    ],
)
def test_whole_numbers_are_integers(table, out, decimal, texts, times):
    content = HEADER.replace(",", ";") + "".join(f"s{text};r;o;{text}\n" for text in texts)
    summary = imported(table(content), out, settings(f"csv.decimal={decimal}"))
    assert [row[3] for row in rows(out)] == times
    assert [row[0] for row in rows(out)] == [f"s{text}" for text in texts]
    integers = any(isinstance(time, int) for time in times)
    assert ("are integers now" in "\n".join(summary.lines())) == (integers and "2014" in texts[0])


@pytest.mark.parametrize(("decimal", "texts"), [(".", ["1.000", "2.000"]), (",", ["5", "1,000", "12,000"])])
def test_a_sign_that_may_divide_thousands_is_refused(table, out, decimal, texts):
    content = "subject;relation;object;timestamp\n" + "".join(f"s;r;o;{text}\n" for text in texts)
    message = refused(imported, table(content), out, settings(f"csv.decimal={decimal}"))
    assert f"'1{decimal}000', which may be 1 or 1000" in message


@pytest.mark.parametrize(("decimal", "text", "other"), [(".", "2014,0", ","), (",", "2014.0", ".")])
def test_whole_numbers_of_the_other_decimal_sign_are_refused(table, out, decimal, text, other):
    content = HEADER.replace(",", ";") + f"s;r;o;{text}\n"
    message = refused(imported, table(content), out, settings(f"csv.decimal={decimal}"))
    assert f"'{text}'" in message
    assert f"data.csv.decimal={other}" in message


def test_timestamps_of_a_given_form_stay_text(table, out):
    imported(table(HEADER + "s,r,o,20140131\n"), out, settings("time_format=%Y%m%d"))
    assert rows(out) == [("s", "r", "o", "20140131")]


def test_a_column_of_ends_without_any_is_of_the_kind_of_the_starts(table, out):
    imported(table("subject,relation,object,timestamp,end_timestamp\ns,r,o,2014-01-31,\n"), out)
    assert rows(out) == [("s", "r", "o", "2014-01-31", None)]


@pytest.mark.parametrize(
    ("header", "override", "parts"),
    [
        ("subject,relation,object,timestamp,fold", "columns.split=part", ["split ('part')", "data.columns.split=fold"]),
        ("subject,relation,object,timestamp,Split", None, ["split ('split')", "data.columns.split=Split"]),
        ("Subject,relation,object,timestamp", None, ["subject ('subject')", "data.columns.subject=Subject"]),
    ],
)
def test_a_column_that_is_not_found_is_refused(table, out, header, override, parts):
    path = table(f"{header}\ns,r,o,5,x\n".replace(",x", ",x" if header.count(",") > 3 else ""))
    message = refused(imported, path, out, settings(*[override] if override else []))
    assert all(part in message for part in parts), message


@pytest.fixture
def days(tmp_path):
    """Writes a folder of files."""

    def write(**files):
        folder = tmp_path / "days"
        for name, content in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write


def test_a_folder_of_tables_is_read_in_the_order_of_paths(days, out):
    files = {
        "b.csv": HEADER + "b,r,o,2\n",
        "a__1.TSV": HEADER.replace(",", "\t") + "a\tr\to\t1\n",
        "c.txt": "timestamp;object;relation;subject\n3;o;r;c\n",
        "README.md": "no table\n",
        "_SUCCESS": "",
        "old.parquet": b"PAR1",
        "empty": "",
    }
    folder = days(**files)
    (folder / "link").symlink_to(folder)  # leads back
    summary = imported(folder, out)
    assert rows(out) == [("a", "r", "o", 1), ("b", "r", "o", 2), ("c", "r", "o", 3)]
    said = "\n".join(summary.lines())
    assert "read 3 files, left out 4" in said
    for name in ("README.md", "_SUCCESS", "old.parquet", "empty"):
        assert f"left out {folder / name}: " in said


def test_files_named_after_splits(days, out):
    days(**{"train.csv": HEADER + "a,r,o,1\n", "valid.csv": HEADER, "test.csv": HEADER + "b,r,o,2\n"})
    imported(days(), out)
    assert rows(out) == [("b", "r", "o", 2, "test"), ("a", "r", "o", 1, "train")]
    message = refused(imported, days(**{"more.csv": HEADER + "c,r,o,3\n"}), out.with_name("other.parquet"))
    assert "test.csv is named after a split" in message
    assert "more.csv is not" in message
    imported(days() / "train.csv", out)
    assert rows(out) == [("a", "r", "o", 1)]


def test_a_glob_of_tables(days, out):
    folder = days(**{"1.csv": HEADER + "a,r,o,1\n", "2.csv": HEADER + "b,r,o,2.0\n", "3.txt": "x"})
    imported(folder / "*.csv", out)
    assert rows(out) == [("a", "r", "o", 1), ("b", "r", "o", 2)]


@pytest.mark.parametrize(
    ("second", "part"),
    [
        ("subject,relation,object,day\nb,r,o,2\n", "2.csv, line 1: no column for timestamp"),
        (HEADER.strip() + ",split\nb,r,o,2,train\n", "has a column for split"),
        ("", "2.csv is empty"),
        (b"\xff\xfeab,c", "2.csv"),
    ],
)
def test_a_table_that_differs_is_refused(days, out, second, part):
    folder = days(**{"1.csv": HEADER + "a,r,o,1\n", "2.csv": second})
    assert part in refused(imported, folder, out)


def test_folders_with_values_are_refused(days, out):
    folder = days(**{"split=train__1.csv": HEADER + "a,r,o,1\n"})
    assert "split=train" in refused(imported, folder, out)
    imported(folder / "split=train", out)
    assert rows(out) == [("a", "r", "o", 1)]


def test_a_folder_without_a_table_is_refused(days, out):
    assert "no table among 1 files" in refused(imported, days(**{"notes": "nothing here\n"}), out)
    assert "does not exist" in refused(imported, "nowhere/*.csv", out)


def test_files_that_prepare_would_leave_out_are_not_imported(days, out):
    files = {
        "1.csv": HEADER + "a,r,o,1\n",
        "1.csv~": HEADER + "old,r,o,1\n",
        "2.csv.part": HEADER + "half,r,o,1\n",
        ".ipynb_checkpoints__1-checkpoint.csv": HEADER + "old,r,o,1\n",
    }
    folder = days(**files)
    said = "\n".join(imported(folder, out).lines())
    assert rows(out) == [("a", "r", "o", 1)]
    for name, reason in (("1.csv~", "temporary"), ("2.csv.part", "temporary"), (".ipynb_checkpoints", "hidden")):
        assert any(name in line and line.endswith(reason) for line in said.splitlines()), said


def test_a_link_that_leads_nowhere_is_refused(days, out):
    folder = days(**{"1.csv": HEADER + "a,r,o,1\n"})
    (folder / "2.csv").symlink_to(folder / "gone.csv")
    assert "2.csv is a link that leads nowhere" in refused(imported, folder, out)
