"""Readers of `latest` in a loop, while whole processes publish: each version is there, whole and of one moment."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graphs import graph_of, tiny_config, write_graph
from runs import train_run

from gam_kg.config import PublishConfig
from gam_kg.run_config import write_config
from gam_kg.versions import VERSIONED, versions

NUM_ENTITIES, NUM_DAYS, FACTS_A_DAY = 36, 12, 12
READER = """
import json, sys, time, duckdb
from pathlib import Path

def rows(query):
    return duckdb.execute(query).fetchall()

WHAT = {"entities": "count(embedding), max(last_seen_snapshot)", "relations": "count(embedding)",
        "predictions": "count(DISTINCT query_id)"}

# As a user reads: the name first, then the files, each by its path.
while not Path(sys.argv[1]).exists():
    for place in sys.argv[2:]:
        ((name,),) = rows(f"SELECT content FROM read_text('{place}/latest')")
        files = {"embeddings": ["entities", "relations"], "predictions": ["predictions"]}[Path(place).name]
        found = {"place": place, "version": name, "as_of": []}
        for file in files:
            path = f"{place}/{name}/{file}.parquet"
            found["as_of"] += [value.decode() for (value,) in rows(f"SELECT value FROM parquet_kv_metadata('{path}') "
                                                                   "WHERE decode(key) = 'gam_kg.as_of'")]
            found[file] = rows(f"SELECT {WHAT[file]} FROM '{path}'")[0]
        with open(f"{place}/{name}/manifest.json") as file:
            found["content"] = json.load(file)["content"]
        print(json.dumps(found), flush=True)
        time.sleep(0.05)
"""


def write_day(path: Path, day: int) -> Path:
    """Facts of a day, one of which has an entity that is new."""
    generator = np.random.default_rng(day)
    ends = generator.integers(0, NUM_ENTITIES, (2, FACTS_A_DAY))
    columns = [[f"entity {end}" for end in one] for one in ends]
    columns[0][0] = f"entity {NUM_ENTITIES + day}"
    relations = [f"relation {number % 3}" for number in range(FACTS_A_DAY)]
    table = pa.table(
        {"subject": columns[0], "relation": relations, "object": columns[1], "timestamp": [day] * FACTS_A_DAY}
    )
    pq.write_table(table, path)
    return path


@pytest.fixture
def run(tmp_path):
    """The folder of a trained run of which one version stays, and others for half a minute more."""
    generator = np.random.default_rng(0)
    columns = [generator.integers(0, most, NUM_DAYS * FACTS_A_DAY) for most in (NUM_ENTITIES, 3, NUM_ENTITIES)]
    facts = np.unique(np.stack([*columns, np.repeat(np.arange(NUM_DAYS), FACTS_A_DAY)], 1), axis=0)
    path = tmp_path / "run"
    graph = graph_of(facts, buckets=3, num_entities=NUM_ENTITIES, num_relations=3)
    write_graph(path / "graph", graph, buckets=3)
    train_run(path, tiny_config(epochs=1))
    publish = PublishConfig(keep_versions=1, grace_minutes=0.5)
    write_config(tiny_config(epochs=1).model_copy(update={"run_dir": str(path), "publish": publish}))
    return path


def gam_kg(*arguments: object) -> None:
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.nightly
def test_readers_never_see_a_missing_mixed_or_unfinished_version(run, tmp_path, record_property):
    places = [str(place / kind) for place in (run, tmp_path / "to") for kind in VERSIONED]
    updates, stop = 50, tmp_path / "stop"
    days = [write_day(tmp_path / f"{day}.parquet", day) for day in range(NUM_DAYS, NUM_DAYS + updates)]
    gam_kg("update", run, "--facts", days[0], "--to", tmp_path / "to")
    with (tmp_path / "reads").open("w") as reads:
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, str(stop), *places], stdout=reads, stderr=subprocess.PIPE, text=True
        )
        try:
            for day in days[1:]:
                gam_kg("update", run, "--facts", day, "--to", tmp_path / "to")
                assert reader.poll() is None, reader.stderr.read()
            time.sleep(1)
        finally:
            stop.touch()
            _, shown = reader.communicate(timeout=60)
    assert reader.returncode == 0, shown
    found = [json.loads(line) for line in (tmp_path / "reads").read_text().splitlines()]
    record_property("reads", len(found))
    before = dict.fromkeys(places, -1)
    for read in found:
        assert {read["version"].removeprefix("as_of="), *read["as_of"]} == {read["content"]["after"]}, read
        day = read["content"]["after_snapshot"]
        assert before[read["place"]] <= day, f"{read} after {before}"
        before[read["place"]] = day
        if "entities" in read:  # each day has facts, and an entity that is new
            assert read["entities"] == [read["content"]["num_entities"], day], read
            assert read["relations"] == [2 * read["content"]["num_relations"]], read
    assert set(before.values()) == {NUM_DAYS + updates - 1}
    seen = {(read["place"], read["version"]) for read in found}
    assert len(seen) > len(places) * updates // 2, "most of the versions were read"
    assert all(len(versions(Path(place))) < updates for place in places), "some versions were removed meanwhile"
