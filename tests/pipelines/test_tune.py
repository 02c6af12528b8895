"""A search on a small graph, with real Ray Tune: what it writes, and how it goes on."""

import logging
import re

import pytest
from flows import gam_kg, link, with_run_dir

from gam_kg.artifacts import open_artifact, read_manifest
from gam_kg.config import load_config
from gam_kg.errors import ArtifactError, ConfigError, GamKGError, OutputError
from gam_kg.parquet import read_table
from pipelines.search_space import SearchSpace
from pipelines.train import train
from pipelines.trial import Record
from pipelines.tune import search

pytestmark = pytest.mark.ray

SPACE = "train.learning_rate: {choice: [0.02, 1e-6, 1e30]}\nmodel.dim: {choice: [8, 16]}\n"


def trials_of(config):
    return read_table(config.run_path / "tune" / "trials.parquet").to_pylist()


def records(config):
    paths = (config.run_path / "tuning").glob("*/*/record.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def searched(finished, tmp_path_factory):
    """A search of three trials one after the other, and its space."""
    folder = tmp_path_factory.mktemp("searched")
    config = with_run_dir(finished[0], folder / "run", train={"epochs": 3, "patience": 3}, seed=60)
    link(finished[0], config, "graph")
    (folder / "space.yaml").write_text(SPACE)
    space = SearchSpace.read(folder / "space.yaml", config)
    search(config, space, 3, concurrent=1)
    return config, space


def test_trials_are_rows_with_what_came_of_them(searched):
    config, space = searched
    trials = trials_of(config)
    assert [{key: trial[key] for key in space.axes} for trial in trials] == space.draw(config, 3)
    assert [(trial["train.learning_rate"], trial["status"], trial["epochs"]) for trial in trials] == [
        (0.02, "finished", 3),
        (1e-6, "stopped", 1),
        (1e30, "failed", 0),
    ]
    *trained, failed = trials
    for trial in trained:
        assert 1 <= trial["best_epoch"] <= trial["epochs"]
        assert trial["best_valid_mrr"] > 0
        assert trial["seconds"] > 0
    assert "lower train.learning_rate" in failed["error"]
    assert failed["best_valid_mrr"] is None
    assert not list(config.run_path.glob("tuning/*/ray")), "Ray's own files are removed"
    assert not list(config.run_path.glob("tuning/*/*/checkpoint"))
    assert open_artifact(config.run_path / "tune", "tune").content["num_trials"] == 3


def test_the_best_configuration_trains_as_the_trial_did(searched):
    config, _ = searched
    best = max((one for one in trials_of(config) if one["best_valid_mrr"]), key=lambda one: one["best_valid_mrr"])
    settings = {key: best[key] for key in ("train.learning_rate", "model.dim")}
    loaded = load_config(config.run_path / "tune" / "best.yaml")
    expected = config.changed({**settings, "name": f"{config.name}-best", "run_dir": None})
    assert loaded == expected
    again = with_run_dir(loaded, config.run_path.parent / "best")
    link(config, again, "graph")
    train(again)
    made = read_manifest(again.run_path / "checkpoint", "checkpoint").content
    assert made["valid_mrr"] == pytest.approx(best["best_valid_mrr"], abs=1e-3)


def test_more_trials_are_added_to_those_there_are(searched, caplog):
    config, space = searched
    before, rows = records(config), trials_of(config)
    caplog.set_level(logging.INFO, "gam_kg")
    search(config, space, 4, concurrent=2)
    after = records(config)
    assert {name: after[name] for name in before} == before, "none is trained again"
    assert trials_of(config)[:3] == rows
    assert len(trials_of(config)) == 4
    trained = {int(number) for number in re.findall(r"trial (\d+), epoch \d+: validation MRR", caplog.text)}
    assert trained == {3}
    assert "tune: 4 trials of at most 3 epochs, 2 at the same time" in caplog.messages
    settings = ", ".join(f"{key}={value}" for key, value in space.draw(config, 4)[3].items())
    assert [line for line in caplog.messages if " begins" in line] == [f"tune: trial 3 begins: {settings}"]
    (first,) = (line for line in caplog.messages if line.startswith("tune: trial 3, epoch 1:"))
    assert re.search(r"validation MRR \d+\.\d\d, \d+ s(, about \d+ s left, or less)?$", first)


def test_a_search_that_runs_out_of_time_says_what_is_unfinished(searched, tmp_path, caplog):
    config, space = searched
    long = with_run_dir(config, tmp_path / "run", train={"epochs": 100_000, "patience": 100_000})
    link(config, long, "graph")
    with pytest.raises(GamKGError, match="of 2 trials none has trained an epoch; give it more --hours"):
        search(long, space, 2, concurrent=2, hours=1e-6)
    (state,) = (long.run_path / "tuning").iterdir()
    Record(epochs=[{"epoch": 1, "valid_mrr": 0.25, "seconds": 1.0}]).write(state / "trial-0000")
    caplog.set_level(logging.INFO, "gam_kg")
    search(long, space, 2, concurrent=2, hours=1e-6)
    assert "2 of 2 trials are unfinished; the same command goes on with them" in caplog.text
    found = [(trial["status"], trial["epochs"], trial["best_valid_mrr"]) for trial in trials_of(long)]
    assert found == [("unfinished", 1, 0.25), ("unfinished", 0, None)]


def test_what_goes_wrong_in_a_trial_ends_the_search_with_its_own_error(searched, tmp_path):
    config, space = searched
    other = with_run_dir(config, tmp_path / "run", train={"max_failures": 0})
    link(config, other, "graph")
    search(other, space, 1, concurrent=1)
    (state,) = (other.run_path / "tuning").iterdir()
    (state / "trial-0001").touch()
    with pytest.raises(OutputError, match=r"cannot write .*trial-0001"):
        search(other, space, 2, concurrent=1)
    (state / "trial-0001").unlink()
    (state / "trial-0000" / "record.json").write_text("")
    with pytest.raises(ArtifactError, match=r"trial-0000/record.json is damaged"):
        search(other, space, 2, concurrent=1)


def test_too_few_cpus_are_refused(searched, tmp_path):
    config, space = searched
    with pytest.raises(ConfigError, match=r"needs 64 CPU, Ray has \d+; lower train.threads"):
        search(config.changed({"train.threads": 64}), space, 1, concurrent=1)


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        (("space.yaml",), 1, "space.yaml: No such file"),
        (("bad.yaml",), 1, "bad.yaml: train.lr: no setting of model or training; allowed here: model.name"),
        (("good.yaml", "train.precision=tf32"), 1, "train.precision=tf32 is a precision of GPUs"),
        (("tf32.yaml",), 1, "train.precision=tf32 is a precision of GPUs"),
        (("good.yaml", "--hours", "0"), 2, "--hours 0.0: give a number above 0"),
        (("good.yaml", "--trials", "0"), 2, "--trials"),
    ],
)
def test_mistakes_are_refused_before_any_work(monkeypatch, tmp_path, capsys, arguments, status, shown):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").touch()
    (tmp_path / "bad.yaml").write_text("train.lr: {uniform: [0.1, 0.2]}")
    (tmp_path / "good.yaml").write_text("model.dropout: {uniform: [0.1, 0.2]}")
    (tmp_path / "tf32.yaml").write_text("train.precision: {choice: [tf32]}")
    assert gam_kg(monkeypatch, "tune", "my.yaml", *arguments) == status
    assert shown in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "good.yaml", "my.yaml", "tf32.yaml"]
