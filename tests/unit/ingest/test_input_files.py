import os
import shutil
import sys

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from gam_kg.errors import DataError
from gam_kg.ingest import input_files
from gam_kg.ingest.input_files import describe_left_out, find_files

TABLE = pa.table({"a": [1, 2, 3]})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def write(path, table=TABLE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def found(place, **options):
    """Names of the files to read, and reason → names of those left out."""
    _, files, left_out = find_files(str(place), "data.facts", **options)
    return [file.name for file in files], left_out


NOT_READ = {
    "_SUCCESS": (b"", "hidden"),
    ".part-0.crc": (b"crc", "hidden"),
    "_temporary/0/part-1": (b"x", "hidden"),
    "empty": (b"", "empty"),
    "rows.csv": (b"a,b\n1,2\n", "text table"),
    "rows.tsv.gz": (b"\x1f\x8b....", "gzip"),
    "secret": (b"PARE........PARE", "encrypted Parquet"),
    "a.orc": (b"ORC.........", "ORC"),
    "a.avro": (b"Obj\x01......", "Avro"),
    "a.arrow": (b"ARROW1\0\0..", "Arrow IPC"),
    "README.md": (b"# Facts", "of another format"),
    "c.parquet.tmp": (b"PAR1......", "temporary"),
}


def test_every_file_is_read_by_its_bytes_or_left_out_with_a_reason(folder):
    read = ["000000_0", "a.parquet", "b.PARQUET", "deep/er/c"]
    for name in read:
        write(folder / name)
    write(folder / "_metadata")
    write(folder / ".a.parquet.swp")
    for name, (content, _) in NOT_READ.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe")
    names, left_out = found("in")
    assert names == [f"in/{name}" for name in read]
    assert left_out["hidden Parquet"] == ["in/.a.parquet.swp", "in/_metadata"]
    assert left_out["not a regular file"] == ["in/pipe"]
    for name, (_, reason) in NOT_READ.items():
        assert f"in/{name}" in left_out[reason]
    assert sum(map(len, left_out.values())) + len(names) == sum(len(files) for *_, files in os.walk(folder))
    assert "2 hidden Parquet (in/.a.parquet.swp)" in describe_left_out(left_out)
    assert found(f"file://{folder}")[0] == [f"file://{folder}/{name}" for name in read]


@pytest.mark.parametrize("name, content", [("cut", b"PAR1 and no more"), ("end", b"... PAR1"), ("b.parquet", b"")])
def test_what_should_be_parquet_is_not_left_out(folder, name, content):
    write(folder / "a.parquet")
    (folder / name).write_bytes(content)
    assert f"in/{name}" in found("in")[0]


def test_a_file_that_is_named_itself_is_read_whatever_its_name(folder):
    for name in ("_hidden", "c.tmp", "text"):
        write(folder / name)
        assert found(f"in/{name}") == ([f"in/{name}"], {})
    (folder / "text").write_text("hello")
    assert found("in/text") == (["in/text"], {})  # and is refused when its footer is read


def test_a_home_folder_is_written_as_a_tilde(folder, monkeypatch):
    write(folder / "a.parquet")
    monkeypatch.setenv("HOME", str(folder.parent))
    assert found("~/in") == found("~/in/*.parquet") == ([f"{folder}/a.parquet"], {})


def test_a_folder_without_parquet_is_refused_with_what_is_in_it(folder):
    with pytest.raises(DataError, match=r"data\.facts=in: no Parquet file there\. Give"):
        found("in")
    (folder / "a.csv").write_text("a,b")
    (folder / "_SUCCESS").touch()
    with pytest.raises(DataError, match=r"left out there: 1 hidden \(in/_SUCCESS\), 1 text table \(in/a\.csv\)"):
        found("in")
    assert found("in", text_tables=True) == (["in/a.csv"], {"hidden": ["in/_SUCCESS"]})
    assert find_files("in", "key", text_tables=True)[1][0].format == "text"


def test_links_are_followed_and_no_file_is_read_twice(folder, tmp_path):
    write(tmp_path / "elsewhere" / "x.parquet")
    write(folder / "a.parquet")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "file_link").symlink_to(tmp_path / "elsewhere" / "x.parquet")
    (folder / "circle").symlink_to(folder)
    os.link(folder / "a.parquet", folder / "b.parquet")
    names, left_out = found("in")
    assert names == ["in/a.parquet", "in/file_link"]
    assert left_out == {"read already under another name": ["in/b.parquet", "in/link/x.parquet"]}
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"in/file_link is a link that leads nowhere"):
        found("in")


def test_a_folder_that_cannot_be_listed_is_refused(folder, monkeypatch):
    write(folder / "a.parquet")
    write(folder / "closed" / "b.parquet")
    listdir = os.listdir

    def closed(path):
        if path.endswith("closed"):  # root, who runs some tests, may list every folder
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", closed)
    with pytest.raises(DataError, match="closed"):
        found("in")


def test_globs_search_the_folders_that_match_and_real_names_win(folder):
    write(folder / "x1" / "a.parquet")
    write(folder / "x1" / "deep" / "b")
    write(folder / "y" / "c.parquet")
    write(folder / "d.parquet")
    write(folder / "_e.parquet")
    for place, read in {
        "in/x*": ["x1/a.parquet", "x1/deep/b"],
        "in/*.parquet": ["d.parquet"],
        "in/*/*.parquet": ["x1/a.parquet", "y/c.parquet"],
        "in/**/*.parquet": ["d.parquet", "x1/a.parquet", "y/c.parquet"],
        "in/_*": ["_e.parquet"],
        "in/[xy]*": ["x1/a.parquet", "x1/deep/b", "y/c.parquet"],
    }.items():
        assert found(place)[0] == [f"in/{name}" for name in read]
        assert found(f"file://{folder.parent}/{place}")[0] == [f"file://{folder}/{name}" for name in read]
    assert found("in/*.parquet")[1] == {"hidden Parquet": ["in/_e.parquet"]}
    write(folder / "x[1]" / "f.parquet")
    assert found("in/x[1]")[0] == ["in/x[1]/f.parquet"]
    write(folder / "a b" / "g.parquet")
    assert found(f"file://{folder}/a%20b")[0] == found(f"file://{folder}/a b")[0] == [f"file://{folder}/a b/g.parquet"]


def test_a_store_is_searched_as_a_folder_is(folder, monkeypatch):
    """A file system that only has URIs, as object stores have."""
    for name in ("x/a.parquet", "x/deep/b", "y/c.PARQUET"):
        write(folder / name)
    for name in ("x/_SUCCESS", "x/d.csv"):
        (folder / name).write_text("a,b")
    store = pyarrow.fs.SubTreeFileSystem(str(folder), pyarrow.fs.LocalFileSystem())
    monkeypatch.setattr(input_files, "open_uri", lambda uri: (store, uri.removeprefix("s3://").split("?")[0]))
    assert found("s3://x") == (
        ["s3://x/a.parquet", "s3://x/deep/b"],
        {"hidden": ["s3://x/_SUCCESS"], "text table": ["s3://x/d.csv"]},
    )
    assert found("s3://*/*.parquet?region=eu")[0] == ["s3://x/a.parquet"]
    assert found("s3://x/a.parquet")[0] == ["s3://x/a.parquet"]
    assert found("s3://*")[0] == ["s3://x/a.parquet", "s3://x/deep/b", "s3://y/c.PARQUET"]
    with pytest.raises(DataError, match="no Parquet file there"):
        found("s3://nowhere/at/all")


@pytest.mark.parametrize(
    "log, table", [("_delta_log/0.json", "Delta"), (".hoodie/x", "Hudi"), ("metadata/v1.metadata.json", "Iceberg")]
)
def test_tables_with_a_log_are_refused_for_their_folder_has_deleted_rows(folder, log, table):
    write(folder / "data" / "a.parquet")
    (folder / log).parent.mkdir()
    (folder / log).write_text("{}")
    with pytest.raises(DataError, match=f"of a {table}"):
        found("in")
    assert found("in/data")[0] == ["in/data/a.parquet"]


def test_folders_of_the_form_key_value_are_known_of_each_file(folder):
    write(folder / "year=2020" / "split=train" / "a.parquet")
    write(folder / "na me=Z%C3%BCrich%3D1" / "b.parquet")
    write(folder / "split=__HIVE_DEFAULT_PARTITION__" / "c=d.parquet")
    _, files, _ = find_files("in", "data.facts")
    assert [file.folders for file in files] == [
        {"na me": "Zürich=1"},
        {"split": None},
        {"year": "2020", "split": "train"},
    ]
    assert find_files("in/year=2020", "data.facts")[1][0].folders == {"split": "train"}
    assert find_files("in/*/split=*", "data.facts")[1][0].folders == {"year": "2020", "split": "train"}
    write(folder / "a=1" / "a=2" / "x.parquet")
    with pytest.raises(DataError, match="two of its folders are named a="):
        found("in")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_text_is_refused(folder):
    write(folder / "a.parquet")
    shutil.copy(folder / "a.parquet", os.fsencode(folder) + b"/b\xff.parquet")
    with pytest.raises(DataError, match=r"data\.facts=in: cannot be read"):
        found("in")
