"""What the command line does with paths, flags and errors, without any run."""

import errno
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from flows import gam_kg

from gam_kg import __version__
from gam_kg.errors import ConnectionLostError, DataError
from pipelines import cli

VERBS = ["run", "prepare", "train", "evaluate", "embed", "predict", "report", "plan"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.usefixtures("bucket")
def test_a_run_in_a_bucket_that_is_not_there_is_refused(monkeypatch, tmp_path, capsys, verb):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").touch()
    assert gam_kg(monkeypatch, verb, "my.yaml", "run_dir=s3://no-such-bucket/run") == 1
    shown = capsys.readouterr().err
    assert "s3://no-such-bucket/run: there is no" in shown
    assert "create the bucket" in shown
    assert {path.name for path in tmp_path.iterdir()} <= {"my.yaml", "cache"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", "s3://bucket/facts"], "OUT=s3://bucket/facts"),
        (["search", "s3://no-such-bucket/run", "--like", "x"], "there is no bucket no-such-bucket"),
        (["compare", "s3://no-such-bucket/run", "there"], "there is no bucket no-such-bucket"),
        (["ensemble", "s3://no-such-bucket/run", "there"], "there is no bucket no-such-bucket"),
        (["import", "facts.csv", "gs://bucket/facts.parquet"], "OUT=gs://bucket/facts.parquet"),
        (["train", "s3://bucket/my.yaml"], "CONFIG=s3://bucket/my.yaml"),
        (["run", "my.yaml", "predict.out=s3://bucket/answers.csv"], "predict.out: a URI"),
        (["run", "my.yaml", "data.import_from=s3://bucket/facts.csv"], "data.import_from: a URI"),
        (
            ["submit", "my.yaml", "--address", "http://127.0.0.1:1", "--working-dir", "s3://bucket"],
            "--working-dir=s3://bucket",
        ),
    ],
)
@pytest.mark.usefixtures("bucket")
def test_other_places_that_are_uris_are_refused(monkeypatch, tmp_path, capsys, arguments, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").touch()
    assert gam_kg(monkeypatch, *arguments) == 1
    assert named in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"my.yaml", "cache"}


@pytest.mark.parametrize("setting", ["predict.out=answers.xlsx", "predict.queries=nowhere.csv"])
def test_a_run_refuses_mistakes_of_its_last_stages_before_any_work(monkeypatch, tmp_path, capsys, setting):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").touch()
    assert gam_kg(monkeypatch, "run", "my.yaml", "data.facts=nowhere.parquet", setting) == 1
    assert setting.partition("=")[0] in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_home_is_found_in_every_path(monkeypatch, tmp_path, capsys):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    (home / "base.yaml").write_text("data: {facts: ~/facts.parquet}\nrun_dir: ~/run")
    (home / "my.yaml").write_text("extends: ~/base.yaml")
    assert gam_kg(monkeypatch, "prepare", "~/my.yaml") == 1
    assert "data.facts=~/facts.parquet: no Parquet file there" in capsys.readouterr().err
    assert gam_kg(monkeypatch, "train", "~/my.yaml") == 1
    assert f"{home}/run/graph: no finished graph" in capsys.readouterr().err
    (home / "facts.csv").write_text("head;relation;object;timestamp\na;r;b;1\n")
    arguments = ["~/facts.csv", "~/facts.parquet", "subject=head", "csv.separator=;"]
    assert gam_kg(monkeypatch, "import", *arguments) == 0, capsys.readouterr().err
    assert pq.read_table(home / "facts.parquet")["subject"].to_pylist() == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (DataError("a name\x1b[31m with colours [red]"), 1, "error: a name\\x1b[31m with colours [red]"),
        (ConnectionLostError("the job may go on"), 4, "error: the job may go on"),
        (OSError(errno.ENOSPC, "No space left on device", "/full"), 1, "error: /full: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "/there"), 1, "error: /there: Read-only file system"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_a_line_and_a_status(monkeypatch, tmp_path, capsys, error, status, shown):
    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "config_of_run", fail)
    assert gam_kg(monkeypatch, "run", "my.yaml") == status
    start = "TIME ERROR run=- stage=- " if shown else ""
    assert re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", capsys.readouterr().err.strip()) == start + shown


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("predict", "my.yaml", "--out", ""), 1),
        (("plan", "my.yaml", "--memory", "0"), 2),
        (("plan", "my.yaml", "--memory", "nan"), 2),
        (("plan", "my.yaml", "--workers", "0"), 2),
        (("search", "", "--like", "a"), 1),
        (("import", "", "out.parquet"), 1),
        (("import", "my.yaml", ""), 1),
        (("generate", ""), 1),
        (("submit", "my.yaml", "--address", "http://127.0.0.1:1", "--working-dir", ""), 1),
    ],
)
def test_a_flag_with_no_meaning_is_not_left_out(monkeypatch, tmp_path, capsys, arguments, status):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").touch()
    assert gam_kg(monkeypatch, *arguments) == status
    assert "rror" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_the_version_is_shown_with_the_place_of_the_configs(monkeypatch, capsys):
    assert gam_kg(monkeypatch, "--version") == 0
    shown = re.fullmatch(r"gam-kg (\S+) \(configs in (.+)\)\n", capsys.readouterr().out)
    assert shown[1] == __version__
    assert (Path(shown[2]) / "cluster" / "rayjob.yaml").exists()


def test_log_lines_cannot_steer_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(cli, "app", lambda **_: logging.getLogger("gam_kg").info("a %s", "\x1b]0;title\x07"))
    monkeypatch.setattr(sys, "argv", ["gam-kg"])
    cli.main()
    assert capsys.readouterr().err.endswith("Z INFO run=- stage=- a \\x1b]0;title\\x07\n")


def test_a_reader_that_stops_reading_is_no_error(tmp_path):
    command = f"{sys.executable} -m pipelines generate --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""


def test_flags_of_predict_are_its_settings(monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(cli, "_do", lambda verb, config, **flags: found.append((verb, config.predict, flags)))
    (tmp_path / "my.yaml").touch()
    arguments = ["--strict", "--out", "~/a: b.csv", "--take-over"]
    assert gam_kg(monkeypatch, "predict", tmp_path / "my.yaml", "predict.top_k=3", *arguments) == 0
    ((verb, predict, flags),) = found
    assert (verb, flags) == ("predict", {"force": False, "take_over": True})
    assert (predict.strict, predict.out, predict.top_k) == (True, "~/a: b.csv", 3)


def test_a_mistake_is_found_before_the_slow_imports(tmp_path):
    code = (
        "import sys; from pipelines import cli\n"
        "sys.argv = ['gam-kg', 'train', 'demo', 'model.dimm=3']\n"
        "try:\n    cli.main()\n"
        "finally:\n    print({'torch', 'ray', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "set()\n")
    assert "did you mean model.dim?" in done.stderr


def test_a_verb_is_completed_by_the_shell():
    code = "import sys; from pipelines import cli\nsys.argv = ['gam-kg']\ncli.main()"
    variables = {"_GAM_KG_COMPLETE": "complete_bash", "COMP_WORDS": "gam-kg se", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["search"]


@pytest.mark.parametrize("arguments", [["-h"], ["search", "-h"], ["job", "-h"]])
def test_help_has_a_short_flag(monkeypatch, capsys, arguments):
    assert gam_kg(monkeypatch, *arguments) == 0
    assert "Usage: gam-kg" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        *([verb, "nowhere"] for verb in ("evaluate", "embed", "predict", "report", "update", "plan")),
        ["search", "nowhere", "--like", "x"],
        ["compare", "nowhere", "demo"],
    ],
)
def test_a_run_that_is_nowhere_is_refused_alike(monkeypatch, tmp_path, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert gam_kg(monkeypatch, *arguments) == 1
    assert "nowhere: there is no such file or folder of a run" in capsys.readouterr().err
