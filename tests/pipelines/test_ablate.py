"""Ablations on a small graph: one graph for all trainings, which are real runs, and none is done twice."""

import json
import logging
import re
from contextlib import nullcontext

import pytest
import yaml
from flows import gam_kg, link, with_run_dir

from gam_kg.artifacts import read_manifest
from gam_kg.errors import ArtifactError
from gam_kg.parquet import read_table
from pipelines import ablate as ablation
from pipelines.ablate import ablate
from pipelines.prepare import prepare

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ablated(finished, tmp_path_factory):
    """An ablation that was interrupted in its third training, and given again."""
    config = with_run_dir(finished[0], tmp_path_factory.mktemp("ablated") / "run", train={"epochs": 1}, seed=3)
    link(finished[0], config, "graph")
    train, calls = ablation.train, []

    def interrupted(child):
        calls.append(child.run_path.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(child)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ablate(config, ["paths"], 2)
        assert calls == ["full-3", "paths-3", "full-4"]
        before = states(config)
        assert {run for run, *_ in before} == {"full-3", "paths-3"}
        ablate(config, ["paths"], 2)
    after = states(config)
    assert {run for run, *_ in after} == {"full-3", "paths-3", "full-4", "paths-4"}
    assert before <= after, "what was finished is not done again"
    return config


def states(config):
    manifests = (config.run_path / "ablation").glob("*/*/manifest.json")
    return {
        (path.parts[-3], path.parts[-2], path.stat().st_mtime_ns) for path in manifests if "graph" not in path.parts
    }


def test_each_training_is_a_run_on_the_same_graph(ablated):
    graph = read_manifest(ablated.run_path / "graph", "graph")
    for part, seed in (("full", 3), ("full", 4), ("paths", 3), ("paths", 4)):
        run = ablated.run_path / "ablation" / f"{part}-{seed}"
        assert (run / "graph").is_symlink()
        assert (run / "graph").resolve() == (ablated.run_path / "graph").resolve()
        made = read_manifest(run / "checkpoint", "checkpoint")
        assert made.inputs == {"graph": graph.id}
        assert made.config["seed"] == seed
        assert made.config["model"]["history"]["two_hop_first"] == (15 if part == "full" else 0)
        assert yaml.safe_load((run / "config.yaml").read_text())["run_dir"] == str(run)
        assert not (run / ".lock").exists()


def test_the_figures_are_those_of_the_runs(ablated):
    rows = read_table(ablated.run_path / "ablation" / "ablation.parquet").to_pylist()
    assert {row["part"] for row in rows} == {"full", "paths"}
    assert {row["setting"] for row in rows if row["answers"].startswith("horizon")} == {"multi_step"}
    for row in rows:
        mrr = {}
        for part in ("full", "paths"):
            runs = [ablated.run_path / "ablation" / f"{part}-{seed}" for seed in (3, 4)]
            trees = [json.loads((run / "evaluation" / "metrics.json").read_text()) for run in runs]
            of_setting = [tree[row["split"]][row["setting"]] for tree in trees]
            horizons = [{f"horizon {name}": one for name, one in tree["horizons"].items()} for tree in of_setting]
            found = [
                {**tree["time_aware"], **tree["strata"], **tree["entities"], **ahead}[row["answers"]]
                for tree, ahead in zip(of_setting, horizons, strict=True)
            ]
            assert {one["count"] for one in found} == {row["num_answers"]}
            mrr[part] = [one["mrr"] for one in found]
        here = mrr[row["part"]]
        assert row["mrr"] == pytest.approx(sum(here) / 2)
        assert [row["mrr_min"], row["mrr_max"]] == pytest.approx([min(here), max(here)])
        assert row["mrr_std"] == pytest.approx(abs(here[0] - here[1]) / 2**0.5)
        assert row["difference"] == pytest.approx((sum(here) - sum(mrr["full"])) / 2)
        assert row["low"] <= row["difference"] <= row["high"]
    page = (ablated.run_path / "ablation" / "ablation.html").read_text()
    assert page.index("valid, single-step") < page.index("valid, multi-step") < page.index("test, single-step")
    assert "<td>no paths</td>" in page
    assert (ablated.run_path / "ablation" / "ablation.png").stat().st_size > 5000


def test_what_the_first_seed_has_so_far_is_in_the_table_and_the_log_says_how_long_the_rest_takes(
    finished, tmp_path, monkeypatch, caplog
):
    config = with_run_dir(finished[0], tmp_path / "run")
    link(finished[0], config, "graph")
    trained = []

    def instead(_, child, __):
        trained.append(child.run_path.name)
        if len(trained) == 3:
            raise KeyboardInterrupt
        (child.run_path / "evaluation").mkdir(parents=True)
        (child.run_path / "evaluation" / "manifest.json").touch()
        return finished[0].run_path

    monkeypatch.setattr(ablation, "_train", instead)
    monkeypatch.setattr(ablation, "ray_session", nullcontext)
    caplog.set_level(logging.INFO, "gam_kg")
    with pytest.raises(KeyboardInterrupt):
        ablate(config, ["paths", "rules"], 1)
    rows = read_table(config.run_path / "ablation" / "ablation.parquet").to_pylist()
    assert {row["part"] for row in rows} == {"full", "paths"}
    messages = [line for line in caplog.messages if line.startswith("ablate: ")]
    assert messages[0] == "ablate: 1 of 3: full, seed 0"
    assert re.fullmatch(r"ablate: 2 of 3: paths, seed 0, about \d+ s left", messages[1])


def test_runs_are_compared_by_command(ablated, monkeypatch, capsys):
    folder = ablated.run_path / "ablation"
    assert gam_kg(monkeypatch, "compare", folder / "full-3", folder / "paths-3") == 0
    shown = capsys.readouterr().out
    metrics = [json.loads((folder / run / "evaluation" / "metrics.json").read_text()) for run in ("full-3", "paths-3")]
    mrr = [100 * tree["test"]["multi_step"]["time_aware"]["object"]["mrr"] for tree in metrics]
    table = shown[shown.index("test, multi-step, MRR") :]
    row = next(line for line in table.splitlines() if "object" in line)
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells[2:5] == [f"{mrr[0]:.2f}", f"{mrr[1]:.2f}", f"{mrr[1] - mrr[0]:+.2f}"]


def test_a_graph_that_waits_for_the_run_itself_is_refused(finished, tmp_path):
    config = with_run_dir(finished[0], tmp_path / "run")
    link(finished[0], config, "graph", "checkpoint")
    other = with_run_dir(config, tmp_path / "run", prepare={"buckets": 2})
    prepare(other)
    with pytest.raises(ArtifactError, match="next waits for a training of the run itself"):
        ablate(other, ["paths"], 1)


def test_a_graph_of_its_own_is_not_replaced(finished, tmp_path):
    config = with_run_dir(finished[0], tmp_path / "run")
    link(finished[0], config, "graph")
    own = tmp_path / "run" / "ablation" / "full-0" / "graph"
    own.mkdir(parents=True)
    with pytest.raises(ArtifactError, match="full-0/graph is a graph of its own"):
        ablate(config, ["paths"], 1)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("--parts", "attention"), "--parts attention: there is no such part; allowed here: past_facts"),
        (("model.name_words=false", "--parts", "name_words"), "--parts name_words: it is off already"),
        (("--out", "s3://bucket/table"), "--out=s3://bucket/table: a URI is not allowed"),
    ],
)
def test_mistakes_are_refused_before_any_work(monkeypatch, tmp_path, capsys, arguments, shown):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").touch()
    assert gam_kg(monkeypatch, "ablate", "my.yaml", *arguments) == 1
    assert shown in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]
