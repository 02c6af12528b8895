from pathlib import Path

import pyarrow.parquet as pq
import pytest
from imported import HEADER, refused

from gam_kg.config import load_config
from gam_kg.errors import OutputError
from gam_kg.importers.dispatch import import_facts

ROOT = Path(__file__).parents[3]


def source_of(out):
    return pq.read_schema(out).metadata[b"gam_kg.source"]


def test_a_folder_is_imported(folder, out):
    import_facts(str(folder(train="0\t1\t2\t5\n")), out)
    assert source_of(out) == b"folder"


def test_a_table_is_imported(table, out):
    import_facts(str(table(HEADER + "s,r,o,5\n")), out)
    assert source_of(out) == b"table"


def test_other_things_are_refused(tmp_path, out):
    message = refused(import_facts, "nowhere.csv", out)
    assert "nowhere.csv" in message
    assert "lahman:YEAR" in message
    assert "URI" in refused(import_facts, "s3://bucket/facts.csv", out)
    (tmp_path / "facts.xlsx").write_bytes(b"PK\x03\x04")
    assert "workbook" in refused(import_facts, str(tmp_path / "facts.xlsx"), out)
    assert "no train.txt" in refused(import_facts, str(tmp_path), out)


def test_an_out_that_is_a_folder_is_refused(table, tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        import_facts(str(table(HEADER + "s,r,o,5\n")), tmp_path)


@pytest.mark.parametrize("name", ["icews14", "demo"])
def test_configs(name):
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert config.name == name
    assert config.data.facts == f"runs/{name}/facts.parquet"
