"""The blocks of docs/python.md run one after another, on a small run of the same data, and give what the page shows."""

import ast
import re
from pathlib import Path

import pandas as pd
import pytest

import gam_kg
from gam_kg.importers.dispatch import import_facts

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with runs/demo, whose model is small."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        split = {"valid_start": 2019, "test_start": 2020}
        import_facts("lahman:2011", Path("runs/demo/facts.parquet"))
        gam_kg.train(
            "runs/demo/facts.parquet",
            run_dir="runs/demo",
            data={"time_unit": 1, "split": split},
            model={"dim": 16, "history": {"dim": 4}},
            train={"epochs": 1, "threads": 1, "valid_facts": 50},
            progress=False,
        )
    return folder


def value_of(block, names):
    """What a block's last line is, as a notebook shows it."""
    *before, last = ast.parse(block).body
    if not isinstance(last, ast.Expr):
        before, last = [*before, last], None
    exec(compile(ast.Module(before, []), "docs/python.md", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "docs/python.md", "eval"), names)


def shape(text):
    """Text without its numbers and names."""
    return re.sub(r"'[^']*'|[\d.,%+-]+", "#", text).split()


def test_every_block_runs_and_gives_what_the_page_shows(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names = {}
    assert len(BLOCKS) > 9
    for block, shown in BLOCKS:
        value = value_of(block, names)
        printed = capsys.readouterr().out
        if isinstance(value, pd.DataFrame):
            assert shown.splitlines()[0].split() == list(value.columns), block
            assert len(shown.splitlines()) == len(value) + 1, block
        elif printed:
            assert shape(printed)[:6] == shape(shown)[:6], block
        elif shown and not isinstance(value, str):
            assert type(value).__name__ in ("Run", "FactRanks", "Size"), block
            assert shape(repr(value))[:4] == shape(shown)[:4], block
        else:
            assert value is None or len(value), block
    assert names["mine"].path == folder / "runs" / "mine"
    assert set(names["answers"]["status"]) == {"answered", "unknown_name"}
