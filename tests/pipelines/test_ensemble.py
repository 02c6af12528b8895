"""Two trainings on one graph, scored together by command."""

import json
import shutil

import pytest
from flows import gam_kg, link, with_run_dir

from gam_kg.artifacts import Manifest, write_artifact
from gam_kg.inference.report import LABELS
from pipelines.evaluate import evaluate
from pipelines.progress import results
from pipelines.train import train

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def seeds(finished, tmp_path_factory):
    """Folders of the run and of another training, with another seed and other settings of the past."""
    other = with_run_dir(finished[0], tmp_path_factory.mktemp("seeds") / "other", seed=3)
    other = other.changed({"model.history.recent": 5, "evaluate.baselines": False})
    link(finished[0], other, "graph")
    train(other)
    evaluate(other)
    return finished[0].run_path, other.run_path


def test_runs_together_are_a_row_of_their_own(seeds, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "width", 160)  # no cell takes two lines
    out = tmp_path / "together"
    assert gam_kg(monkeypatch, "ensemble", *seeds, "--out", out) == 0
    shown = capsys.readouterr().out
    metrics = [json.loads((run / "evaluation" / "metrics.json").read_text()) for run in (*seeds, out)]
    best = metrics[0]["comparison"]["test"]["multi_step"]["overall"]["best_baseline"]
    trees = [*metrics, metrics[0]["baselines"][best]]
    both = [tree["test"]["multi_step"]["time_aware"]["both"] for tree in trees]
    table = shown[shown.index("test, multi-step") :].splitlines()
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in table if line.startswith("│")]
    assert [row[1:5] for row in rows[:4]] == [
        [f"{100 * one[name]:.2f}" for name in ("mrr", "hits@1", "hits@3", "hits@10")] for one in both
    ]
    assert [row[0] for row in rows[:4]] == ["run", "other", "2 runs together", f"{LABELS[best]}, untrained"]
    for row, one in zip(rows[:2], both, strict=False):
        assert row[5] == f"{100 * (both[2]['mrr'] - one['mrr']):+.2f}"
    # What was written is an evaluation like any other.
    assert gam_kg(monkeypatch, "compare", seeds[0], out) == 0
    assert f"{100 * both[2]['mrr']:.2f}" in capsys.readouterr().out
    assert gam_kg(monkeypatch, "ensemble", *seeds, "--out", out) == 1
    assert f"--out {out}: it is there already; name another folder" in capsys.readouterr().err
    assert gam_kg(monkeypatch, "ensemble", seeds[0], out) == 1
    assert f"{out / 'graph'}: no finished graph" in capsys.readouterr().err


def test_runs_on_different_graphs_are_refused(seeds, tmp_path, monkeypatch, capsys):
    made = Manifest.of("evaluation", {"graph": "of other facts", "checkpoint": "any"}, {})
    write_artifact(tmp_path / "run" / "evaluation", made, lambda _: {})
    assert gam_kg(monkeypatch, "ensemble", seeds[0], tmp_path / "run") == 1
    shown = capsys.readouterr().err
    assert f"{seeds[0]} and {tmp_path / 'run'} are on different graphs" in shown
    assert "train both on the same facts with the same settings of data and prepare" in shown


def test_an_evaluation_of_another_checkpoint_is_refused(seeds, tmp_path, monkeypatch, capsys):
    for name, run in (("graph", seeds[0]), ("checkpoint", seeds[0]), ("evaluation", seeds[1])):
        shutil.copytree(run / name, tmp_path / name)
    assert gam_kg(monkeypatch, "ensemble", seeds[0], tmp_path) == 1
    assert f"{tmp_path / 'evaluation'} was made from another checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("runs", [["one"], ["one", "one/../one"]])
def test_a_run_alone_is_refused(runs, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    assert gam_kg(monkeypatch, "ensemble", *runs) == 2
    assert "give at least two runs, each once" in capsys.readouterr().err


def test_a_run_without_evaluation_is_refused(seeds, tmp_path, monkeypatch, capsys):
    assert gam_kg(monkeypatch, "ensemble", seeds[0], tmp_path) == 1
    shown = capsys.readouterr().err
    assert str(tmp_path / "evaluation") in shown
    assert "gam-kg evaluate" in shown
