"""The report stage: it shows what there is of a run, and is made anew when a run has news."""

import logging
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graphs import graph_of, random_facts, tiny_config, write_graph
from runs import train_run

from gam_kg import run_config
from gam_kg.config import Config
from gam_kg.inference import report_examples
from gam_kg.run_config import write_config
from pipelines.evaluate import evaluate
from pipelines.report import report
from pipelines.update import update

FACTS = random_facts(1, 150)
END = int(FACTS[:, 3].max()) + 1
EVERY = ["Results", "Relations", "Examples", "Neighbours", "Probabilities", "Data", "Training", "Cost"]


@pytest.fixture
def config(tmp_path):
    """Of a run with a graph and a checkpoint."""
    pytest.importorskip("matplotlib")
    config = tiny_config(epochs=1).model_copy(update={"run_dir": str(tmp_path / "run"), "name": "<tiny>"})
    (tmp_path / "run").mkdir()
    write_graph(tmp_path / "run" / "graph", graph_of(FACTS, buckets=3), buckets=3)
    train_run(tmp_path / "run", config)
    write_config(config)
    return config


def headings(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def page_of(config, **options):
    path = report(config, **options) / "report.html"
    return path.read_text(encoding="utf-8")


def test_a_report_is_made_anew_after_an_update_and_then_shows_it(config, tmp_path, monkeypatch):
    evaluate(config)
    page = page_of(config)
    assert headings(page) == EVERY
    assert "&lt;tiny&gt;" in page
    assert str(tmp_path) not in page
    assert (config.run_path / "report" / "report.png").stat().st_size > 10_000
    made = (config.run_path / "report" / "manifest.json").stat().st_mtime_ns
    report(config)
    assert (config.run_path / "report" / "manifest.json").stat().st_mtime_ns == made
    assert " updates</text>" not in page

    rows = np.stack([np.arange(6), np.zeros(6), 9 - np.arange(6), np.repeat(END, 6)], 1).astype(int).tolist()
    names = {"subject": [f"entity {s}" for s, *_ in rows], "relation": [f"relation {r}" for _, r, *_ in rows]}
    table = pa.table({**names, "object": [f"entity {o}" for *_, o, _ in rows], "timestamp": [t for *_, t in rows]})
    pq.write_table(table, tmp_path / "day.parquet")
    update(config, str(tmp_path / "day.parquet"))
    assert " updates</text>" in page_of(config)

    monkeypatch.setattr(report_examples, "MOST_ENTITIES", 1)
    page = page_of(config, force=True)
    assert headings(page) == [name for name in EVERY if name not in ("Examples", "Neighbours")]
    assert "left out, as the graph is large" in page


def test_a_report_of_little_says_little(config, caplog, monkeypatch):
    settings = {"splits": ["valid"], "settings": ["single_step"], "baselines": False}
    little = Config.model_validate(config.model_dump() | {"evaluate": config.evaluate.model_dump() | settings})
    evaluate(little)
    monkeypatch.setattr(run_config, "find_spec", lambda _: None)
    caplog.set_level(logging.WARNING, "gam_kg")
    page = page_of(little)
    assert "pip install 'gam-kg[report]'" in caplog.text
    assert "on validation, single-step, compared with nothing" in re.sub(r"<.*?>", "", page)
    assert "<svg" not in page
    assert not (config.run_path / "report" / "report.png").exists()
    assert headings(page) == EVERY
