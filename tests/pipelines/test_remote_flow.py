"""The whole flow with facts, queries and the run in a bucket, beside the same flow on this machine.

The commands are processes of their own: Ray's workers have the environment that Ray was started in.
"""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flows import SMALL, assert_same_weights, gam_kg, with_run_dir, write_facts

from gam_kg.artifacts import read_manifest
from gam_kg.config import Config, load_config
from gam_kg.errors import ConfigError, DataError
from gam_kg.ingest.sources import Sources
from gam_kg.mirror import readable_run
from gam_kg.storage import open_uri
from gam_kg.versions import artifact_folder
from gam_kg.workflow import train as library_stage
from pipelines import workers
from pipelines.predict import predict
from pipelines.prepare import prepare
from pipelines.query_files import open_query_files
from pipelines.run import run
from pipelines.train import train

pytestmark = pytest.mark.ray

KINDS = ("graph", "checkpoint", "evaluation", "embeddings", "predictions", "report")


def ids(path):
    """Of each artifact but the report, which says how long things took."""
    return {kind: read_manifest(artifact_folder(path, kind), kind).id for kind in KINDS if kind != "report"}


def in_process(*arguments, status=0):
    found = subprocess.run([sys.executable, *map(str, arguments)], timeout=900, capture_output=True, text=True)
    assert found.returncode == status, found.stderr


@pytest.fixture
def inputs(tmp_path, bucket, object_store):
    """Facts and queries, as settings: (in a folder, in the bucket)."""
    write_facts(tmp_path / "facts.parquet")
    queries = pd.DataFrame({"subject": ["person 1"], "relation": ["visits"], "timestamp": ["2020-02-01"]})
    queries.to_csv(tmp_path / "queries.csv", index=False)
    for name in ("facts.parquet", "queries.csv"):
        object_store.write(bucket, f"in/{name}", (tmp_path / name).read_bytes())
    (tmp_path / "my.yaml").touch()
    quick = [*SMALL, "train.epochs=1", "evaluate.baselines=false"]
    return tuple(
        [f"data.facts={place}/facts.parquet", f"predict.queries={place}/queries.csv", *quick]
        for place in (tmp_path, f"s3://{bucket}/in")
    )


@pytest.mark.usefixtures("local_ray")
def test_a_run_in_a_bucket_equals_one_in_a_folder(tmp_path, bucket, object_store, inputs, monkeypatch, capsys):
    here, there = inputs
    expected, uri = load_config(None, [*here, f"run_dir={tmp_path / 'run'}"]), f"s3://{bucket}/runs/x"
    run(expected)
    in_process("-m", "pipelines", "run", tmp_path / "my.yaml", *there, f"run_dir={uri}")
    path = load_config(None, [f"run_dir={uri}"]).run_path
    assert ids(path) == ids(expected.run_path)
    copied = {name.removeprefix("runs/x/") for name in object_store.names(bucket) if name.startswith("runs/x/")}
    on_disk = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert copied - {"run.json"} == {name for name in on_disk if not name.startswith(".")}
    for name in copied - {"run.json"}:
        assert object_store.read(bucket, f"runs/x/{name}") == (path / name).read_bytes()
    # Another machine reads it, finds all of it current, and redoes what has another setting.
    monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path / "other"))
    capsys.readouterr()
    assert gam_kg(monkeypatch, "search", uri, "--query", "person 1", "visits") == 0
    assert "place" in capsys.readouterr().out
    other = load_config(readable_run(uri, "RUN") / "config.yaml")
    assert other.run_path.parent == tmp_path / "other"
    before = object_store.read(bucket, "runs/x/run.json")
    run(other)
    assert object_store.read(bucket, "runs/x/run.json") == before
    predict(other.changed({"predict.top_k": 2}))
    monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path / "cache"))
    assert readable_run(uri, "RUN") == path
    made = read_manifest(artifact_folder(path, "predictions"), "predictions")
    assert made.config["predict"]["top_k"] == 2
    # A third machine adds a day; whoever reads the bucket alone finds the new version by `latest`.
    monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path / "third"))
    day = pd.DataFrame({"subject": ["person 1"], "relation": ["visits"], "object": ["place 9"]})
    day["timestamp"] = pd.Timestamp("2020-01-25")
    day.to_parquet(tmp_path / "day.parquet")
    object_store.write(bucket, "in/day.parquet", (tmp_path / "day.parquet").read_bytes())
    assert gam_kg(monkeypatch, "update", uri, "--facts", f"s3://{bucket}/in/day.parquet") == 0
    filesystem, root = open_uri(f"{uri}/embeddings")
    latest = object_store.read(bucket, "runs/x/embeddings/latest").decode()
    assert latest == "as_of=2020-01-25"
    names = pq.read_table(f"{root}/{latest}/entities.parquet", filesystem=filesystem)["entity"].to_pylist()
    assert names[-1] == "place 9"
    assert len(names) == 19
    for machine in ("cache", "other"):
        monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path / machine))
        assert artifact_folder(readable_run(uri, "RUN"), "embeddings").name == latest


@pytest.mark.slow
def test_two_workers_make_in_a_bucket_what_one_process_makes_in_a_folder(finished, tmp_path, bucket, monkeypatch):
    """The workers, which need not know of the bucket, read the working copy."""
    config, _ = finished
    several = with_run_dir(config, f"s3://{bucket}/runs/two", train={"num_workers": 2})
    run(several)
    assert len(list((several.run_path / "checkpoint").glob("entities-*-of-00002.safetensors"))) == 2
    assert_same_weights(config, several, rtol=1e-3, atol=1e-4)
    found, expected = (artifact_folder(each.run_path, "embeddings") for each in (several, config))
    shards = [pq.read_table(path) for path in sorted(found.glob("entities-*-of-00002.parquet"))]
    together = pa.concat_tables(shards).sort_by("entity_id")
    whole = pq.read_table(expected / "entities.parquet")
    columns = ["embedding", "search_vector"]
    assert together.drop(columns).equals(whole.drop(columns))
    for name in columns:
        vectors = [np.stack(table[name].to_pylist()) for table in (together, whole)]
        np.testing.assert_allclose(*vectors, rtol=0, atol=1e-2 if name == "search_vector" else 1e-3)
    ranks = [pq.read_table(each.run_path / "evaluation" / "ranks.parquet") for each in (several, config)]
    assert ranks[0].column_names == ranks[1].column_names
    for name in ranks[1].column_names:
        if name.startswith(("popularity", "recurrency", "typed")) or "rank" not in name:
            assert ranks[0][name].equals(ranks[1][name]), name
    same = np.isclose(*(table["rank"].to_numpy() for table in ranks)).mean()
    assert same > 0.95, f"{same:.3f} of the model's ranks; float error moves a few"
    made, first = ids(several.run_path), several.run_path
    monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path / "other"))
    assert readable_run(several.run_dir, "RUN") == several.run_path != first
    assert ids(several.run_path) == made


def test_a_worker_that_does_not_see_the_working_copy_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.ray.train, "get_context", lambda: None)
    config = Config(run_dir=str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match=r"is not on this worker's machine, .*GAM_KG_CACHE"):
        workers.enter({"config": config.model_dump(mode="json"), "events": None})


LOST = """
import os, sys
from pipelines import cli
from gam_kg.mirror import RemoteRun
push = RemoteRun.push

def lost(self, start=""):
    push(self, start)
    if start:
        os._exit(9)

RemoteRun.push = lost
cli.main()
"""


@pytest.mark.usefixtures("local_ray")
def test_a_training_goes_on_on_another_machine(tmp_path, bucket, object_store, inputs, monkeypatch):
    """The first machine is lost when the first training checkpoint is copied."""
    here, prefix = inputs[0], "runs/lost/training/"
    settings = ["train.epochs=3", "train.patience=3"]
    config = load_config(None, [*here, *settings, f"run_dir=s3://{bucket}/runs/lost"])
    (tmp_path / "lost.py").write_text(LOST)
    arguments = [*here, *settings, f"run_dir={config.run_dir}"]
    in_process(tmp_path / "lost.py", "run", tmp_path / "my.yaml", *arguments, status=9)
    assert any(name.startswith(prefix) for name in object_store.names(bucket))
    monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path / "other"))
    train_graph, latest = library_stage.train_graph, []

    def noted(*positional, **named):
        latest.append(named["latest"])
        train_graph(*positional, **named)

    monkeypatch.setattr(library_stage, "train_graph", noted)
    train(config)
    assert latest[0] is not None
    assert not any(name.startswith(prefix) for name in object_store.names(bucket))
    whole = load_config(None, [*here, *settings, f"run_dir={tmp_path / 'whole'}"])
    prepare(whole)
    train(whole)
    made = [read_manifest(one.run_path / "checkpoint", "checkpoint").id for one in (config, whole)]
    assert made[0] == made[1]


def test_what_tasks_read_facts_from_travels_without_credentials(bucket):
    filesystem, _ = open_uri(f"s3://{bucket}/in")
    travelled = pickle.dumps(filesystem)
    assert b"secret-of-the-test" not in travelled
    assert pickle.loads(travelled).region == filesystem.region


def test_queries_in_a_bucket_may_be_text(bucket, object_store, tmp_path):
    place, data = f"s3://{bucket}/in/queries.csv", load_config(None, []).data
    object_store.write(bucket, "in/queries.csv", b"subject;relation\nperson 1;visits\n")
    sources = Sources.find(place, "predict.queries", text_tables=True)
    table = open_query_files(sources, data, tmp_path).read(0, 1)
    assert table.to_pydict() == {"subject": ["person 1"], "relation": ["visits"]}
    object_store.write(bucket, "in/queries.csv", b"subject;relation\nperson 1;visits;more\n")
    with pytest.raises(DataError, match=f"^{place}"):
        open_query_files(Sources.find(place, "predict.queries", text_tables=True), data, tmp_path)
