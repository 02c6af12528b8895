"""Files to import, and where to."""

import gzip

import pytest
from imported import ENTITIES, RELATIONS


@pytest.fixture
def folder(tmp_path):
    """Writes a folder from file names and contents; both files of names are there unless given as None."""

    def write(**files):
        files = {"entity2id": ENTITIES, "relation2id": RELATIONS} | files
        path = tmp_path / "set"
        path.mkdir()
        for name, content in files.items():
            if content is not None:
                data = content if isinstance(content, bytes) else content.encode()
                (path / f"{name}.txt").write_bytes(data)
        return path

    return write


@pytest.fixture
def out(tmp_path):
    return tmp_path / "made" / "facts.parquet"


@pytest.fixture
def table(tmp_path):
    def write(content, name="facts.csv"):
        data = content if isinstance(content, bytes) else content.encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write
