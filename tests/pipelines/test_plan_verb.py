"""`gam-kg plan`: what it prints, its exit status, and its message where it cannot plan."""

import json
import sys
from pathlib import Path

import pytest
from graphs import graph_of, random_facts, write_graph

from pipelines.cli import main

SMALL = ["model.dim=8", "model.heads=2", "train.threads=1"]


@pytest.fixture
def run(tmp_path: Path) -> list[str]:
    """Arguments for a run with a prepared graph."""
    write_graph(tmp_path / "graph", graph_of(random_facts(0, 150), buckets=7), 7)
    config = tmp_path / "small.yaml"
    config.write_text(f"run_dir: {tmp_path}\n", encoding="utf-8")
    return [str(config), *SMALL]


def status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gam-kg", "plan", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_training_that_fits(run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert status(monkeypatch, *run, "--workers", "2,3") == 0
    printed = capsys.readouterr().out
    for part in ("entity rows", "history index", "1 worker", "2 workers", "3 workers", "fits on 1 worker"):
        assert part in printed
    for part in ("GFLOP: scoring", "GFLOP: validation", "sent per step by each", "what would save memory", "saves"):
        assert part in printed


def test_json_has_the_same(run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert status(monkeypatch, *run, "--workers", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    one, two = found["workers"]["1"], found["workers"]["2"]
    assert set(found["workers"]) == {"1", "2"}
    assert one["required_bytes"] == found["required_bytes"] <= found["usable_bytes"]
    assert one["fits"] is found["fits"] is True
    assert one["bytes_sent_step"] == {}
    assert set(two["bytes_sent_step"]) == {"halo", "queries", "softmax", "gradients"}
    assert two["bytes_sent_epoch"] == pytest.approx(two["steps"] * sum(two["bytes_sent_step"].values()))
    assert 0 < two["flops_step"] < one["flops_step"]
    assert all(knob["saved_bytes"] > 0 for knob in found["knobs"])


def test_a_training_that_does_not_fit_is_refused_with_the_knob_to_turn(
    run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert status(monkeypatch, *run, "model.dim=4096", "train.num_workers=0", "--memory", "0.5") == 1
    found = capsys.readouterr()
    assert "does not fit on 1 worker" in found.out
    assert "Traceback" not in found.err
    assert "model.dim=2048" in found.err


def test_a_named_gpu_is_planned_with_where_there_is_none(
    run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert status(monkeypatch, *run, "--gpu", "l4", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["memory_of"], found["memory_bytes"]) == ("GPU (L4)", 23.7e9)
    one = found["workers"]["1"]
    assert one["gpu_fits"] == {"training": True, "evaluation": True, "embedding": True}
    assert one["required_bytes"] == max(one["gpu_bytes"].values())
    assert status(monkeypatch, *run, "--gpu", "H100") == 0
    printed = capsys.readouterr().out
    assert "on a GPU: evaluation" in printed
    assert "that a GPU (H100) has to give" in printed
    assert "object store" not in printed, "that is in the memory of the machine"


def test_what_does_not_fit_on_a_gpu_is_refused_with_the_knob_to_turn(
    run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("pipelines.plan.gpu_bytes", lambda name: {"H100": 1e9}[name])
    assert status(monkeypatch, *run, "model.dim=4096", "train.num_workers=0", "--gpu", "H100") == 1
    found = capsys.readouterr()
    assert "does not fit on 1 worker" in found.out
    assert "GiB, does not fit" in found.out
    assert "model.dim=2048" in found.err


def test_without_a_gpu_here_one_is_to_be_named(
    run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert status(monkeypatch, *run, "train.use_gpu=true") == 1
    assert "give --gpu NAME, as H100, or --memory GIB" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--gpu", "H1000"], ["--gpu", "H100", "--memory", "80"]])
def test_a_gpu_must_be_known_and_its_memory_is_not_given_twice(
    run: list[str], options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert status(monkeypatch, *run, *options) == 2
    assert "A100-40" in capsys.readouterr().err


def test_without_a_graph_it_names_the_command_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = tmp_path / "none.yaml"
    config.write_text(f"run_dir: {tmp_path}\n", encoding="utf-8")
    assert status(monkeypatch, str(config)) == 1
    assert "make it: gam-kg prepare CONFIG" in capsys.readouterr().err


def test_settings_of_another_graph_are_refused(
    run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert status(monkeypatch, *run, "data.time_unit=week") == 1
    assert "data.time_unit=week, but graph/ was made with auto" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "two", "1,,2"])
def test_workers_must_be_numbers(
    run: list[str], workers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert status(monkeypatch, *run, "--workers", workers) == 2
    assert "--workers" in capsys.readouterr().err
