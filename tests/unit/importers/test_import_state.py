"""Whether an imported file is still what its source has."""

import os

import pyarrow.parquet as pq
import pytest
from imported import HEADER, imported

from gam_kg.config import load_config
from gam_kg.importers.dispatch import import_state

CSV = HEADER + "s,r,o,5\n"


def settings(*overrides):
    return load_config(None, [f"data.{override}" for override in overrides]).data


@pytest.fixture
def source(table, out):
    path = table(CSV)
    imported(path, out, settings())
    return path


def test_an_import_is_current(source, out):
    assert import_state(out, str(source), settings()) == "current"
    assert import_state(out, str(source), settings("time_unit=7", "normalize_names=[case]")) == "current"


def test_same_size_and_time_but_other_content_is_stale(source, out):
    times = source.stat().st_atime_ns, source.stat().st_mtime_ns
    source.write_text(CSV.replace("s,r,o,5", "s,r,p,5"))
    os.utime(source, ns=times)
    assert import_state(out, str(source), settings()) == "stale"


@pytest.mark.parametrize(
    "override", ["columns.subject=who", "columns.split=part", "csv.decimal=,", "csv.quote='", "time_format=%Y"]
)
def test_other_settings_make_it_stale(source, out, override):
    assert import_state(out, str(source), settings(override)) == "stale"


def test_another_source_makes_it_stale(source, out, tmp_path):
    (tmp_path / "other.csv").write_text(CSV)
    assert import_state(out, str(tmp_path / "other.csv"), settings()) == "stale"


def test_a_source_that_is_gone(source, out):
    source.unlink()
    assert import_state(out, str(source), settings()) == "gone"
    assert import_state(out, str(source), settings("columns.subject=head")) == "stale"
    assert import_state(out, str(source) + "2", settings()) == "stale"


@pytest.mark.parametrize("name", ["valid.txt", "entity2id.txt"])
def test_every_file_of_a_folder_counts(folder, out, name):
    path = folder(train="0\t1\t2\t5\n", valid="0\t1\t2\t6\n")
    imported(path, out, settings())
    (path / "stat.txt").write_text("3 2 1")
    assert import_state(out, str(path), settings("columns.subject=head")) == "current"
    (path / name).write_text((path / name).read_text() + "\n")
    assert import_state(out, str(path), settings()) == "stale"


def test_a_file_of_a_folder_that_is_gone_makes_it_stale(folder, out):
    path = folder(train="0\t1\t2\t5\n", valid="0\t1\t2\t6\n")
    imported(path, out, settings())
    (path / "valid.txt").unlink()
    assert import_state(out, str(path), settings()) == "stale"


def test_a_table_more_makes_it_stale(tmp_path, out):
    (tmp_path / "days").mkdir()
    (tmp_path / "days" / "1.csv").write_text(CSV)
    for source in (tmp_path / "days", tmp_path / "days" / "*.csv"):
        imported(source, out, settings())
        assert import_state(out, str(source), settings()) == "current"
        (tmp_path / "days" / "2.csv").write_text(CSV)
        assert import_state(out, str(source), settings()) == "stale"
        (tmp_path / "days" / "2.csv").unlink()


def test_the_imported_file_is_no_part_of_its_source(tmp_path):
    (tmp_path / "1.csv").write_text(CSV)
    out = tmp_path / "facts.parquet"
    imported(tmp_path, out, settings())
    assert import_state(out, str(tmp_path), settings()) == "current"


def test_what_is_no_import(source, out, tmp_path):
    assert import_state(tmp_path / "none.parquet", str(source), settings()) == "missing"
    for content in (b"", b"PAR1", out.read_bytes()[:-9]):
        (tmp_path / "other.parquet").write_bytes(content)
        assert import_state(tmp_path / "other.parquet", str(source), settings()) == "foreign"
    pq.write_table(pq.read_table(out).replace_schema_metadata(None), tmp_path / "other.parquet")
    assert import_state(tmp_path / "other.parquet", str(source), settings()) == "foreign"
    assert import_state(tmp_path, str(source), settings()) == "foreign"


def test_an_import_of_before_without_a_hash_is_stale(source, out):
    facts = pq.read_table(out)
    metadata = {key: value for key, value in facts.schema.metadata.items() if key != b"gam_kg.import_hash"}
    pq.write_table(facts.replace_schema_metadata(metadata), out)
    assert import_state(out, str(source), settings()) == "stale"


def test_a_path_that_is_no_utf8(tmp_path, out):
    path = tmp_path / os.fsdecode(b"caf\xe9.csv")
    path.write_text(CSV)
    imported(path, out, settings())
    assert import_state(out, str(path), settings()) == "current"
