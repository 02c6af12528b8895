"""gam_kg.train: from facts in any form to a run that the commands go on with, without Ray."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from flows import SMALL, write_facts
from flows import gam_kg as command

import gam_kg
from gam_kg.artifacts import read_manifest
from gam_kg.config import load_config
from gam_kg.errors import ArtifactError, ConfigError, DataError

SETTINGS = dict(one.split("=") for one in SMALL if "num_workers" not in one) | {"train.epochs": 1}


def ids(run):
    return [read_manifest(run.path / kind, kind).id for kind in ("graph", "checkpoint")]


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    table = write_facts(folder / "facts.parquet", num_days=12)
    table.assign(timestamp=table["timestamp"].dt.strftime("%Y-%m-%d")).to_csv(folder / "facts.csv", index=False)
    return folder, table


@pytest.fixture(scope="module")
def trained(facts, tmp_path_factory):
    return gam_kg.train(facts[1], run_dir=tmp_path_factory.mktemp("trained") / "run", progress=False, **SETTINGS)


def test_every_form_of_the_facts_gives_the_same_weights(facts, trained, tmp_path):
    folder, table = facts
    forms = {"parquet": folder / "facts.parquet", "uri": f"file://{folder}/facts.parquet", "csv": folder / "facts.csv"}
    answers = trained.ask("person 1", "visits")
    for name, given in forms.items():
        run = gam_kg.train(str(given), run_dir=str(tmp_path / name), progress=False, **SETTINGS)
        pd.testing.assert_frame_equal(run.ask("person 1", "visits"), answers)
    config = load_config(tmp_path / "csv" / "config.yaml")
    assert config.data.import_from == str(folder / "facts.csv")
    names = {"who": "subject", "what": "relation", "whom": "object", "when": "timestamp"}
    renamed = table.rename(columns={ours: theirs for theirs, ours in names.items()})
    columns = {ours: theirs for theirs, ours in names.items()}
    run = gam_kg.train(renamed, run_dir=tmp_path / "renamed", progress=False, data={"columns": columns}, **SETTINGS)
    pd.testing.assert_frame_equal(run.ask("person 1", "visits"), answers)
    assert run.ask_many(renamed.drop(columns="whom").iloc[:2], k=1)["status"].tolist() == ["answered"] * 2
    assert run.evaluate(renamed.iloc[-5:]).metrics["both"]["count"] == 10


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_the_commands_find_its_graph_and_checkpoint_current(trained, tmp_path, monkeypatch, capsys, caplog):
    """`gam-kg run` with the recorded settings makes neither anew, and the other commands work."""
    before, config = ids(trained), trained.path / "config.yaml"
    assert command(monkeypatch, "prepare", config) == 0
    assert command(monkeypatch, "train", config) == 0
    assert command(monkeypatch, "evaluate", config) == 0
    assert command(monkeypatch, "embed", config) == 0
    assert command(monkeypatch, "report", config) == 0
    assert ids(trained) == before
    assert command(monkeypatch, "search", trained.path, "--query", "person 1", "visits") == 0
    assert command(monkeypatch, "search", trained.path, "--like", "person 1") == 0
    assert "place" in capsys.readouterr().out
    new = pd.DataFrame(
        {"subject": ["person 1"], "relation": "visits", "object": "place 1", "timestamp": [pd.Timestamp("2020-01-13")]}
    )
    new.to_parquet(tmp_path / "new.parquet")
    assert command(monkeypatch, "update", trained.path, "--facts", tmp_path / "new.parquet") == 0
    updated = gam_kg.load(trained.path)
    assert updated.last == "2020-01-13"
    assert "1 updates" in repr(updated)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_prepare_of_the_command_makes_the_same_graph(trained, tmp_path):
    from pipelines.prepare import prepare

    config = load_config(trained.path / "config.yaml").changed(
        {"run_dir": str(tmp_path / "run"), "data.facts": str(trained.path / "given_facts.parquet")}
    )
    assert read_manifest(prepare(config), "graph").id == ids(trained)[0]


def test_what_is_finished_is_not_made_again(facts, tmp_path, monkeypatch):
    import gam_kg.workflow.train as stage

    place = tmp_path / "run"
    first = ids(gam_kg.train(facts[1], run_dir=place, progress=False, **SETTINGS))
    made = (place / "checkpoint" / "manifest.json").stat().st_mtime_ns
    trainings = []
    monkeypatch.setattr(stage, "train_graph", lambda *_, **__: trainings.append(1))
    again = gam_kg.train(facts[1], run_dir=place, progress=False, **SETTINGS)
    assert ids(again) == first
    assert (place / "checkpoint" / "manifest.json").stat().st_mtime_ns == made
    assert not trainings
    monkeypatch.undo()
    other = gam_kg.train(facts[1], run_dir=place, progress=False, **SETTINGS | {"seed": 3})
    assert ids(other)[0] == first[0]
    assert ids(other)[1] != first[1]


def test_an_open_run_does_not_answer_from_a_run_that_replaced_it(facts, tmp_path):
    place, table = tmp_path / "run", facts[1]
    run = gam_kg.train(table, run_dir=place, progress=False, **SETTINGS)
    assert run.ask("person 1", "visits", at="2020-01-08", k=1)["answer"][0]
    other = gam_kg.train(table[table["subject"] > "person 3"], run_dir=place, progress=False, **SETTINGS)
    questions = pd.DataFrame({"subject": ["person 1"], "relation": ["visits"], "timestamp": ["2020-01-04"]})
    for question in (
        lambda: run.ask("person 1", "visits", at="2020-01-04"),
        lambda: run.ask("person 1", "visits", at="2020-01-08"),
        lambda: run.ask_many(questions),
        lambda: run.like("person 1", at="2020-01-05"),
        lambda: run.explain("person 1", "visits", at="2020-01-06"),
        lambda: run.embeddings(at="2020-01-03"),
        lambda: run.evaluate(table.iloc[:4]),
    ):
        with pytest.raises(ArtifactError, match="graph was replaced after the run was loaded; load the run again"):
            question()
    assert len(other.ask("person 5", "visits", at="2020-01-04"))


def test_a_folder_may_get_facts_of_another_form(facts, tmp_path):
    """And a file of the user's beside the run stays as it is."""
    (tmp_path / "facts.parquet").write_text("mine")
    for given in (facts[1], str(facts[0] / "facts.csv"), facts[1]):
        run = gam_kg.train(given, run_dir=tmp_path, progress=False, **SETTINGS)
        assert run.ask("person 1", "visits", k=1)["answer"][0]
    assert (tmp_path / "facts.parquet").read_text() == "mine"


def test_facts_that_are_refused_leave_those_of_the_run_as_they_are(facts, tmp_path):
    place, table = tmp_path / "run", facts[1].head(60)
    run = gam_kg.train(table, run_dir=place, progress=False, **SETTINGS)
    before, bad = (place / "given_facts.parquet").read_bytes(), table.copy()
    bad.loc[3, "object"] = None
    with pytest.raises(DataError, match="rows cannot be used"):
        gam_kg.train(bad, run_dir=place, progress=False, **SETTINGS)
    assert (place / "given_facts.parquet").read_bytes() == before
    # A process that is killed while it makes the graph: the next one still has the earlier facts.
    (place / "given_facts.parquet").rename(place / ".given_facts.parquet.before")
    bad.to_parquet(place / "given_facts.parquet")
    with pytest.raises(DataError, match="rows cannot be used"):
        gam_kg.train(bad, run_dir=place, progress=False, **SETTINGS)
    assert (place / "given_facts.parquet").read_bytes() == before
    made = ids(run)
    assert ids(gam_kg.train(table, run_dir=place, progress=False, **SETTINGS)) == made
    assert not list(place.glob(".given*"))


@pytest.mark.parametrize("place", ["run.yaml", "run.yml", 5])
def test_a_run_folder_that_can_be_none_is_refused_first(facts, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="run_dir="):
        gam_kg.train(facts[1], run_dir=place, progress=False, **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_a_run_may_be_at_a_uri(facts, trained, bucket, object_store, tmp_path, monkeypatch):
    place = f"s3://{bucket}/runs/api"
    made = gam_kg.train(facts[1], run_dir=place, progress=False, **SETTINGS)
    monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path / "another machine"))
    fetched = gam_kg.load(place)
    assert fetched.path != made.path
    assert ids(fetched) == ids(made)
    pd.testing.assert_frame_equal(fetched.ask("person 1", "visits"), trained.ask("person 1", "visits"))


def test_bad_rows_are_in_quarantine_or_refused(facts, tmp_path):
    table = facts[1].copy()
    table.loc[3, "object"] = None
    with pytest.raises(DataError, match=r"1 of .* rows cannot be used.*\n.*null_object: 1"):
        gam_kg.train(table, run_dir=tmp_path / "strict", progress=False, **SETTINGS)
    assert (tmp_path / "strict" / "quarantine.parquet").exists()
    run = gam_kg.train(table, run_dir=tmp_path / "run", progress=False, prepare={"max_bad_fraction": 0.1}, **SETTINGS)
    assert run.trained_run.graph_manifest.content["quarantined"] == {"null_object": 1}
    assert pd.read_parquet(run.path / "graph" / "quarantine.parquet")["row"].tolist() == [3]


def test_without_a_folder_the_run_is_in_a_temporary_one_that_is_shown(facts, capsys):
    run = gam_kg.train(facts[1], **SETTINGS)
    shown = capsys.readouterr().err
    assert f"the run is in {run.path}, a temporary folder" in shown
    assert "epoch 1: loss" in shown
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"train": {"epoch": 2}}, r"train.epoch: unknown key; allowed here: .*; did you mean train.epochs"),
        ({"epochs": 2}, "epochs: unknown key; allowed here: .*; did you mean train.epochs"),
        ({"model.dimm": 16}, "model.dimm: unknown key; allowed here: .*; did you mean model.dim"),
        ({"train": {"epochs": 0}}, "train.epochs: .*greater than or equal to 1 .found 0"),
        ({"train": 3}, "train: expected keys with values"),
        ({"train.epochs.more": 3}, "'epochs' has a value, and no keys of its own"),
        ({"train": {"num_workers": 2}}, "train.num_workers=2 is not taken here; gam_kg.train works in this process"),
        ({"data": {"facts": "x.parquet"}}, "give the facts as the first argument"),
        ({"prepare.memory_gib": 4}, "it limits Ray"),
    ],
)
def test_settings_that_are_not_allowed_are_refused_first(facts, settings, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        gam_kg.train(facts[1], run_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_facts_that_are_none_are_refused(tmp_path):
    for given, words in {
        "no/such/file.parquet": "no/such/file.parquet",
        3: "expected a DataFrame or a path, found int",
    }.items():
        with pytest.raises(DataError, match=words):
            gam_kg.train(given, run_dir=tmp_path / "run", progress=False)
    mixed = pd.DataFrame({"subject": ["a", 3], "relation": "r", "object": "b", "timestamp": [1, 2]})
    with pytest.raises(DataError, match="facts: column 'subject' cannot be read"):
        gam_kg.train(mixed, run_dir=tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "graph").exists()


IMPORTS = """
import json, sys
import gam_kg
heavy = [name for name in ("torch", "pandas", "pyarrow", "pydantic", "ray") if name in sys.modules]
assert set(gam_kg.__all__) <= set(dir(gam_kg))
run = gam_kg.train(sys.argv[1], run_dir=sys.argv[2], **json.loads(sys.argv[3]))
gam_kg.load(run.path).ask("person 1", "visits")
print(json.dumps([heavy, "torch" in sys.modules, "ray" in sys.modules, gam_kg.__version__]))
"""


def test_importing_takes_nothing_and_ray_is_never_imported(facts, tmp_path):
    arguments = [str(facts[0] / "facts.parquet"), str(tmp_path / "run"), json.dumps(SETTINGS)]
    done = subprocess.run([sys.executable, "-c", IMPORTS, *arguments], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [[], True, False, gam_kg.__version__]
    with pytest.raises(AttributeError, match="module 'gam_kg' has no attribute 'laod'"):
        gam_kg.laod  # noqa: B018
