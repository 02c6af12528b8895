"""Every notebook runs from top to bottom, and is committed without outputs."""

import asyncio
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
SECONDS_A_CELL, SECONDS = 120, 180


@pytest.mark.ray
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_anywhere_and_leaves_nothing(name, tmp_path, monkeypatch):
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # not the start-up files of whoever runs the tests
    client = NotebookClient(
        read(name), kernel_name="python3", timeout=SECONDS_A_CELL, resources={"metadata": {"path": str(folder)}}
    )
    asyncio.run(asyncio.wait_for(client.async_execute(), SECONDS))
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_committed_without_outputs(name):
    for cell in read(name).cells:
        assert not cell.metadata, cell.id
        if cell.cell_type == "code":
            assert not cell.outputs, cell.id
            assert cell.execution_count is None, cell.id


def read(name):
    return nbformat.read(FOLDER / name, as_version=4)
