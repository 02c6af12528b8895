"""What gam-kg says of its work: log lines, and figures for Prometheus."""

import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
import ray
from flows import SMALL, write_facts

from gam_kg.config import load_config
from gam_kg.errors import DataError
from gam_kg.workflow.logs import LogFormatter, working_on
from gam_kg.workflow.stage import owned
from pipelines.metrics import record
from pipelines.prepare import prepare
from pipelines.train import train

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR) run=(\S+) stage=(\S+) (.+)", re.DOTALL)
SECONDS_TO_EXPORT = 120


@pytest.fixture
def lines(monkeypatch):
    """(level, run, stage, message) of every record so far."""
    monkeypatch.setattr("gam_kg.workflow.logs._work", ("-", "-"))
    found, handler = [], logging.Handler()
    formatter = LogFormatter(full=True)
    handler.emit = lambda made: found.append(LINE.fullmatch(formatter.format(made)).groups())
    logger = logging.getLogger("gam_kg")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_lines_have_the_run_and_the_stage_also_in_threads_and_of_the_error_that_ends_it(lines):
    logger = logging.getLogger("gam_kg")
    with working_on("outer", "run"):
        with working_on("outer", "train"):
            thread = threading.Thread(target=lambda: logger.info("an epoch"))
            thread.start()
            thread.join()
        logger.warning("between")
        with pytest.raises(DataError), working_on("outer", "embed"):
            raise DataError("wrong")
        logger.error("wrong")
    logger.info("after")
    assert lines == [
        ("INFO", "outer", "train", "an epoch"),
        ("WARNING", "outer", "run", "between"),
        ("ERROR", "outer", "embed", "wrong"),
        ("INFO", "-", "-", "after"),
    ]


def test_a_message_of_several_lines_cannot_pass_for_another_line():
    made = logging.LogRecord(
        "gam_kg", logging.INFO, "", 0, "a\n%s", ("2026-01-01T00:00:00Z ERROR run=a stage=b c",), None
    )
    first, second = LogFormatter(full=True).format(made).split("\n")
    assert LINE.fullmatch(first)
    assert not LINE.match(second)
    assert LogFormatter(full=False).format(made).startswith("a\n2026")


def config_of(folder, *overrides):
    write_facts(folder / "facts.parquet")
    return load_config(
        None, [f"data.facts={folder / 'facts.parquet'}", f"run_dir={folder / 'my-run'}", *SMALL, *overrides]
    )


def test_epochs_and_stages_are_lines_of_the_log(tmp_path, lines, local_ray):
    config = config_of(tmp_path, "train.num_workers=0", "train.epochs=1")
    with owned(config, "run"):
        prepare(config)
        train(config)
    stages = {(level, run, stage, message.partition(":")[0]) for level, run, stage, message in lines}
    assert ("INFO", "my-run", "prepare", "graph") in stages
    assert ("INFO", "my-run", "train", "epoch 1") in stages
    assert ("INFO", "my-run", "train", "checkpoint") in stages


def test_on_a_terminal_lines_are_short_and_elsewhere_full(tmp_path):
    command = [sys.executable, "-m", "pipelines", "prepare", str(tmp_path / "missing.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert LINE.fullmatch(done.stderr.strip()).groups()[:3] == ("ERROR", "-", "-")
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stderr=theirs, stdout=theirs, env=os.environ | {"TERM": "dumb"}) as process:
        assert process.wait(120) == 1
    assert os.read(ours, 10_000).decode().startswith("error: ")
    os.close(ours)
    os.close(theirs)


def scraped(names):
    """Values by (gauge, run), as soon as Prometheus would have read all of these gauges."""
    node, end = ray.nodes()[0], time.monotonic() + SECONDS_TO_EXPORT
    while time.monotonic() < end:
        with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        pairs = re.findall(r'^ray_gam_kg_(\w+)\{.*?run="([^"]*)".*?\} (\S+)$', text, re.MULTILINE)
        found = {(name, run): float(value) for name, run, value in pairs}
        if names <= found.keys():
            return found
        time.sleep(0.5)
    pytest.fail("Ray does not export the gauges")


@pytest.mark.ray
@pytest.mark.slow
def test_prometheus_reads_the_figures_of_a_training_and_of_an_update(tmp_path, local_ray):
    config = config_of(tmp_path, "train.num_workers=0", "train.epochs=1")
    prepare(config)
    train(config)
    record("another", mrr_of_the_day=0.5, update_lag_seconds=90)
    names = {(name, "my-run") for name in ("loss", "validation_mrr", "facts_per_second")}
    found = scraped(names | {("mrr_of_the_day", "another"), ("update_lag_seconds", "another")})
    assert (found["mrr_of_the_day", "another"], found["update_lag_seconds", "another"]) == (0.5, 90)
    (line,) = (config.run_path / "log" / "metrics.jsonl").read_text().splitlines()
    metrics = json.loads(line)
    assert found["validation_mrr", "my-run"] == pytest.approx(metrics["valid_mrr"])
    assert found["facts_per_second", "my-run"] == pytest.approx(metrics["facts_per_second"])
    assert found["loss", "my-run"] == pytest.approx(metrics["loss"])


def test_a_gauge_that_nobody_knows_is_refused():
    with pytest.raises(KeyError, match="accuracy"):
        record("demo", accuracy=1.0)
