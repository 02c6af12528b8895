"""Whether the input files are still those that a graph was made from."""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gam_kg.artifacts import Manifest, write_artifact
from gam_kg.config import load_config
from gam_kg.importers.dispatch import import_facts
from gam_kg.ingest.sources import Sources
from gam_kg.workflow.inputs import notices, notices_of_run, record
from gam_kg.workflow.situation import GRAPH


def graph_of(config):
    """The manifest that a graph of the configured facts has."""
    sources = Sources.find(config.data.facts)
    recorded = record(config, GRAPH.keys, (sources,))
    return Manifest("graph", "", sources.hashes(), {}, {"quarantined": {}}, sources=recorded)


def test_facts_that_were_overwritten_are_noticed_though_size_and_time_are_the_same(tmp_path):
    facts = tmp_path / "facts.parquet"
    pq.write_table(pa.table({"subject": ["a"], "relation": ["r"], "object": ["b"], "timestamp": [1]}), facts)
    config = load_config(None, [f"data.facts={facts}"])
    graph, before = graph_of(config), facts.stat()
    facts.touch()
    assert notices(config, graph) == ()
    facts.write_bytes(facts.read_bytes()[:-1] + b"x")
    os.utime(facts, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (facts.stat().st_size, facts.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    for found in (notices(config, graph), notices_of_run(tmp_path, graph)):
        assert len(found) == 1
        assert "have changed since graph/ was made" in found[0]


@pytest.mark.parametrize("source", ["", "/*.csv"], ids=["folder", "glob"])
@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_an_import_source_that_changed_is_noticed(tmp_path, monkeypatch, source, change):
    folder, facts = tmp_path / "tables", tmp_path / "facts.parquet"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.csv").write_text(f"subject,relation,object,timestamp\n{name},r,c,1\n")
    monkeypatch.chdir(tmp_path)
    config = load_config(None, [f"data.facts={facts}", f"data.import_from=tables{source}"])
    import_facts(f"tables{source}", facts, config.data)
    graph = graph_of(config)
    (folder / "a.csv").touch()
    assert notices(config, graph) == notices_of_run(tmp_path, graph) == ()
    if change == "removed":
        (folder / "b.csv").unlink()
    else:
        name = "b" if change == "changed" else "c"
        (folder / f"{name}.csv").write_text("subject,relation,object,timestamp\nx,r,c,1\n")
    for found in (notices(config, graph), notices_of_run(tmp_path, graph)):
        assert len(found) == 1
        assert "has changed, or is gone" in found[0]


def test_changes_of_every_kind_of_import_are_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = "subject,relation,object,timestamp\na,r,b,1\n"
    for folder in ("days", "elsewhere"):
        Path(folder).mkdir()
        Path(folder, "1.csv").write_text(table)
    Path("linked").mkdir()
    Path("linked/inside").symlink_to("../elsewhere")
    for source, changed in (("days/1.csv", "days"), ("days", "days"), ("da*/*.csv", "days"), ("linked", "elsewhere")):
        config = load_config(None, [f"data.import_from={source}", "data.facts=facts.parquet"])
        Path(changed, "1.csv").write_text(table)
        import_facts(source, Path("facts.parquet"), config.data)
        sources = Sources.find("facts.parquet")
        recorded = record(config, ("data.facts", "data.import_from"), (sources,))
        graph = Manifest("graph", "", sources.hashes(), {}, {"quarantined": {}}, sources=recorded)
        assert notices(config, graph) == ()
        Path(changed, "1.csv").write_text(table + "c,r,d,2\n")
        assert [f"{source} has changed" in notice for notice in notices(config, graph)] == [True], source


def test_facts_that_an_update_has_added_have_not_changed(tmp_path):
    config = load_config(None, [f"data.facts={tmp_path / 'facts.parquet'}", f"run_dir={tmp_path / 'run'}"])

    def found_after(rows):
        pq.write_table(pa.table({"subject": ["a"] * rows}), config.data.facts)
        return graph_of(config)

    graph = found_after(1)
    assert notices(config, graph) == ()
    added = found_after(2).sources
    assert "have changed" in notices(config, graph)[0]
    manifest = replace(Manifest.of("update", {"graph": graph.id, "previous": ""}, {}), sources=added)
    write_artifact(config.run_path / "updates" / "000001", manifest, lambda _: {})
    assert notices(config, graph) == ()
    found_after(3)
    assert "have changed" in notices(config, graph)[0]
