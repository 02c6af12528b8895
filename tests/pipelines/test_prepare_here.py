"""A graph made in one process is the graph that Ray's tasks make: the same files, to the last byte."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gam_kg.artifacts import read_manifest
from gam_kg.config import load_config
from gam_kg.errors import ConfigError, DataError
from gam_kg.workflow.prepare import prepare_here
from pipelines.prepare import prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def clean(size=400, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "subject": [f"e{i}" for i in rng.zipf(1.5, size) % 25],
            "relation": [f"r{i}" for i in rng.integers(0, 4, size)],
            "object": [f"e{i}" for i in rng.integers(0, 25, size)],
            "timestamp": (pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 40, size), "D")).strftime(
                "%Y-%m-%d"
            ),
        }
    )


def messy():
    """Bad rows of many kinds, names to strip and to fold, and ends."""
    facts = clean()
    rng = np.random.default_rng(1)
    facts["end_timestamp"] = facts["timestamp"].where(rng.random(len(facts)) < 0.5)
    for column, value, at in [
        *(("subject", None, 3), ("relation", " ", 9), ("object", "", 17)),
        *(("timestamp", "yesterday", 5), ("timestamp", None, 6), ("end_timestamp", "1999-01-01", 7)),
        *(("timestamp", "292279-01-01", 8), ("subject", "  E1 ", 20), ("object", "E2\t", 21), ("relation", "R1", 22)),
    ]:
        facts.loc[at, column] = value
    return facts


def integers():
    facts = clean()
    for column in ("subject", "relation", "object"):
        facts[column] = facts[column].str[1:].astype(int)
    facts["timestamp"] = facts["timestamp"].str.replace("-", "").astype(int)
    return facts


BAD = "prepare.max_bad_fraction=0.5"
CASES = {
    "clean": (clean(), []),
    "messy": (messy(), [BAD, "data.normalize_names=[case,blanks]"]),
    "open ends": (messy(), [BAD, "data.open_end=holds", "data.time_unit=week"]),
    "duplicates": (messy(), [BAD, "prepare.duplicates=refuse", "prepare.buckets=3"]),
    "dates in digits": (integers(), ["data.split.valid_start=20200201", "data.split.test_start=20200205"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_process_makes_the_graph_that_tasks_make(case, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.prepare._ROWS_A_BLOCK", 150)
    monkeypatch.setattr("gam_kg.ingest.prepare.ROWS_A_PARTITION", 90)
    facts, settings = CASES[case]
    (tmp_path / "facts").mkdir()
    first, second = facts.iloc[:150], facts.iloc[150:]
    pq.write_table(pa.Table.from_pandas(first), tmp_path / "facts" / "a.parquet", row_group_size=40)
    pq.write_table(pa.Table.from_pandas(second), tmp_path / "facts" / "b.parquet")
    features = pd.DataFrame({"entity": ["e1", "e2"], "size": [1.0, 3.0], "kind": ["x", "y"]})
    if case != "dates in digits":
        features.to_parquet(tmp_path / "features.parquet")
        settings = [*settings, f"data.entity_features={tmp_path / 'features.parquet'}"]
    made = {}
    for name, stage in {"tasks": prepare, "here": prepare_here}.items():
        config = load_config(None, [f"data.facts={tmp_path / 'facts'}", f"run_dir={tmp_path / name}", *settings])
        made[name] = read_manifest(stage(config), "graph")
    assert made["here"].content == made["tasks"].content
    assert made["here"].files == made["tasks"].files
    assert made["here"].id == made["tasks"].id
    assert made["here"].sources == made["tasks"].sources
    if case != "clean":
        assert made["here"].content["quarantined"] or case == "dates in digits"
    one, other = (pq.read_table(tmp_path / name / "graph" / "quarantine.parquet") for name in made)
    assert one.equals(other)


@pytest.mark.parametrize(
    "facts, settings",
    [
        (messy(), []),
        (clean().assign(timestamp="soon"), []),
        (clean(), ["data.split.valid_start=2030-01-01", "data.split.test_start=2031-01-01"]),
        (clean().drop(columns="object"), []),
        (clean().iloc[:0], []),
    ],
)
def test_one_process_refuses_what_tasks_refuse(facts, settings, tmp_path):
    facts.to_parquet(tmp_path / "facts.parquet")
    messages = []
    for stage in (prepare, prepare_here):
        config = load_config(
            None, [f"data.facts={tmp_path / 'facts.parquet'}", f"run_dir={tmp_path / 'run'}", *settings]
        )
        with pytest.raises((DataError, ConfigError)) as refused:
            stage(config)
        messages.append(str(refused.value))
        assert not (tmp_path / "run" / "graph").exists()
    assert messages[0] == messages[1]
