"""What a run was made with is known, and other settings are refused."""

import os
from pathlib import Path

import pytest

from gam_kg.artifacts import Manifest, write_artifact
from gam_kg.config import load_config
from gam_kg.errors import ArtifactError, ConfigError
from gam_kg.run_config import (
    SETTINGS,
    config_of_run,
    differences,
    folder_of_run,
    mend_config,
    require_same_settings,
    write_config,
)


def made(kind, *overrides):
    return Manifest.of(kind, {}, SETTINGS[kind](load_config(None, overrides)))


def refusal(verb, config, *manifests):
    with pytest.raises(ConfigError) as caught:
        require_same_settings(verb, config, {config.run_path / manifest.kind: manifest for manifest in manifests})
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "override", "there", "verb"),
    [
        ("graph", "data.split.valid_fraction=0.2", "0.1", "prepare"),
        ("graph", "data.columns.subject=head", "subject", "prepare"),
        ("graph", "data.time_zone=Europe/Berlin", "null", "prepare"),
        ("graph", "prepare.duplicates=refuse", "merge", "prepare"),
        ("checkpoint", "seed=5", "0", "train"),
        ("checkpoint", "model.history.recent=7", "100", "train"),
        ("checkpoint", "train.learning_rate=0.5", "0.003", "train"),
        ("evaluation", "evaluate.baselines=false", "true", "evaluate"),
        ("evaluation", "evaluate.splits=[test]", "[valid, test]", "evaluate"),
    ],
)
def test_a_refusal_has_the_key_both_values_and_the_stage_to_redo(kind, override, there, verb):
    message = refusal("report", load_config(None, [override]), made(kind))
    assert f"  {override}, but {kind}/ was made with {there}; run: gam-kg {verb} CONFIG" in message


def test_all_differences_are_said_at_once():
    config = load_config(None, ["model.dim=64", "data.time_unit=week"])
    message = refusal("evaluate", config, made("graph"), made("checkpoint"))
    assert message.startswith("evaluate: settings differ")
    assert "data.time_unit=week, but graph/ was made with auto" in message
    assert "model.dim=64, but checkpoint/ was made with 200" in message


@pytest.mark.parametrize(
    "override",
    [
        *("train.num_workers=3", "train.threads=2", "train.use_gpu=true", "train.cuda_graphs=false"),
        *("train.max_logits=5", "prepare.memory_gib=4"),
    ],
)
def test_how_something_is_done_is_no_difference(override):
    config = load_config(None, [override])
    for kind in ("graph", "checkpoint"):
        assert differences(config, made(kind)) == []


def test_a_setting_newer_than_an_artifact_had_its_default():
    manifest = made("checkpoint")
    del manifest.config["model"]["entity_dropout"]
    assert differences(load_config(), manifest) == []
    changed = load_config(None, ["model.entity_dropout=0.1"])
    assert differences(changed, manifest) == [("model.entity_dropout", 0.1, 0.5)]


def test_the_written_configuration_describes_the_artifacts(tmp_path):
    run = f"run_dir={tmp_path / 'run'}"
    first = load_config(None, [run, "embed.at=2010", "model.dim=16", "train.threads=2", "data.facts=a.parquet"])
    for kind in ("graph", "checkpoint", "embeddings"):
        manifest = Manifest.of(kind, {}, SETTINGS[kind](first))
        if kind == "graph":
            manifest.sources["data.facts"] = {"given": "a.parquet"}
        write_artifact(tmp_path / "run" / kind, manifest, lambda _: {})
    second = load_config(None, [run, "embed.at=2020", "evaluate.facts=9", "train.threads=3", "data.facts=b.parquet"])
    write_config(second)
    found = load_config(tmp_path / "run" / "config.yaml")
    assert (found.embed.at, found.model.dim, found.data.facts) == (2010, 16, "a.parquet")
    assert (found.evaluate.facts, found.train.threads) == (9, 3), "nothing here was made with others"


def test_a_record_that_a_killed_process_left_behind_is_mended(tmp_path):
    run = tmp_path / "run"
    config = load_config(None, [f"run_dir={run}", "embed.at=2020"])
    write_config(config)
    os.utime(run / "config.yaml", (1, 1))
    mend_config(run)
    made = load_config(None, ["embed.at=2010"])
    write_artifact(run / "embeddings", Manifest.of("embeddings", {}, SETTINGS["embeddings"](made)), lambda _: {})
    mend_config(run)
    assert load_config(run / "config.yaml").embed.at == 2010
    write_config(load_config(None, [f"run_dir={run}", "seed=3"]))
    edited = (run / "config.yaml").read_text().replace("at: 2010", "at: 2015")
    (run / "config.yaml").write_text(edited)
    mend_config(run)
    assert (run / "config.yaml").read_text() == edited, "what a user writes into it stays"


def test_a_run_is_named_by_its_folder_its_file_or_what_comes_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(None, ["name=mine", f"run_dir={tmp_path}/runs/mine", "model.dim=64"])
    Path("my.yaml").write_text("name: mine\nmodel: {dim: 64}\n")
    config.run_path.mkdir(parents=True)
    write_config(config)
    for place in ("my.yaml", "runs/mine", f"file://{tmp_path}/runs/mine"):
        found = config_of_run(place, ["seed=3"])
        assert (found.run_path, found.model.dim, found.seed) == (config.run_path, 64, 3)
        assert folder_of_run(place, "RUN") == config.run_path
    Path("demo").mkdir()  # a folder that is no run
    assert config_of_run("demo").run_path == folder_of_run("configs/demo.yaml", "RUN")
    with pytest.raises(ArtifactError, match="no run folder"):
        config_of_run("runs")
    with pytest.raises(ConfigError, match="there is no such file or folder of a run"):
        config_of_run("runs/other")
