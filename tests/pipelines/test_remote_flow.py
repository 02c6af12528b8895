"""The whole flow with facts, queries and the run in a bucket, beside the same flow on this machine.

The commands are processes of their own: Ray's workers have the environment that Ray was started in.
"""

import pickle
import subprocess
import sys

import pandas as pd
import pytest
from flows import SMALL, gam_kg, write_facts

from gam_kg.artifacts import MANIFEST, read_manifest
from gam_kg.config import load_config
from gam_kg.mirror import readable_run
from gam_kg.storage import open_uri
from pipelines import train as train_stage
from pipelines.predict import predict
from pipelines.prepare import prepare
from pipelines.run import run
from pipelines.train import train

pytestmark = pytest.mark.ray

KINDS = ("graph", "checkpoint", "evaluation", "embeddings", "predictions", "report")


def ids(path):
    """Of each artifact but the report, which says how long things took."""
    return {kind: read_manifest(path / kind, kind).id for kind in KINDS if kind != "report"}


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
    return tuple(
        [f"data.facts={place}/facts.parquet", f"predict.queries={place}/queries.csv", *SMALL]
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
    for kind in KINDS:
        assert object_store.read(bucket, f"runs/x/{kind}/{MANIFEST}") == (path / kind / MANIFEST).read_bytes()
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
    assert read_manifest(path / "predictions", "predictions").config["predict"]["top_k"] == 2


@pytest.mark.usefixtures("local_ray")
def test_workers_read_the_working_copy(tmp_path, bucket, inputs, monkeypatch):
    """Two workers, which need not know of the bucket."""
    here, _ = inputs
    config = load_config(None, [*here, f"run_dir=s3://{bucket}/runs/two", "train.epochs=1", "train.num_workers=2"])
    run(config)
    monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path / "other"))
    assert set(ids(readable_run(config.run_dir, "RUN"))) < set(KINDS)
    assert len(list((config.run_path / "checkpoint").glob("*-of-*2.safetensors"))) == 2


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
    train_graph, latest = train_stage.train_graph, []

    def noted(*positional, **named):
        latest.append(named["latest"])
        train_graph(*positional, **named)

    monkeypatch.setattr(train_stage, "train_graph", noted)
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
