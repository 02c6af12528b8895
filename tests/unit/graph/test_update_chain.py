"""A graph with its updates is the graph that has everything from the start."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from graphs import TEST_START, VALID_START
from hypothesis import given, settings
from hypothesis import strategies as st
from updates import (
    CHECKPOINT,
    END,
    LAST,
    SIZES,
    add_update,
    add_updates,
    divided_facts,
    new_names,
    write_prepared,
    write_whole,
)

from gam_kg.artifacts import Manifest, open_artifact, read_manifest, write_artifact
from gam_kg.errors import ArtifactError
from gam_kg.graph import fact_source, folded_updates, stored_update
from gam_kg.graph.folded_updates import fold_updates, read_folded
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.graph.update_chain import chain_id, read_updates, sizes, updates_after, write_update
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.schemas import QUARANTINE, SCHEMA_VERSION, UPDATE_FACTS

WORLDS = [(0, 1), (1, 2), (0, 3), (2, 3), (5, 7)]


@pytest.fixture
def chain(tmp_path):
    """A run with three updates: its folder, the manifest of its graph, and the updates."""
    divided = divided_facts(0)
    write_prepared(tmp_path, divided)
    updates = add_updates(tmp_path, divided)
    return tmp_path, read_manifest(tmp_path / "graph", "graph"), updates


@given(seed=st.integers(0, 1000), num_facts=st.integers(0, 250), late=st.booleans(), slab=st.integers(1, 400))
@settings(max_examples=15)
def test_a_graph_with_updates_is_the_graph_of_all_facts(tmp_path_factory, seed, num_facts, late, slab):
    folder, divided = tmp_path_factory.mktemp("graphs"), divided_facts(seed, num_facts, late=late)
    prepared = write_prepared(folder / "run", divided)
    updates = add_updates(folder / "run", divided)
    write_whole(folder / "whole", divided)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fact_source, "SLAB_ROWS", slab)
        for rank, world_size in WORLDS:
            share = {"rank": rank, "world_size": world_size}
            found, _ = TemporalGraph.load(folder / "run" / "graph", **share, updates=updates)
            whole, _ = TemporalGraph.load(folder / "whole" / "graph", **share)
            for name in ("snapshots", "num_facts", "entity_tie", "relation_tie"):
                assert torch.equal(getattr(found, name), getattr(whole, name)), name
            assert (found.partition, found.num_relations, found.end) == (whole.partition, 4, whole.end)
            for first in (0, END - 2, END, LAST):
                times = range(first, LAST + 1)
                for mine, theirs in zip(found.read(times), whole.read(times), strict=True):
                    for name in ("anchor", "relation", "other"):
                        assert torch.equal(getattr(mine, name), getattr(theirs, name)), f"{name} of {mine.time}"
                    assert torch.equal(mine.queries.answer, theirs.queries.answer)

            def key(rows):
                return rows.anchor * 100 + rows.relation

            assert torch.equal(found.distinct(key), whole.distinct(key))
            for column, other in zip(found.rows(), whole.rows(), strict=True):
                assert torch.equal(column, other)
            anchors = [set(part.anchor.tolist()) for part in found.facts.parts()]
            assert sum(map(len, anchors)) == len(set().union(*anchors))
    # What is known of training stays.
    assert found.trained.tolist() == [*prepared.trained.tolist(), False, False, False, False]
    assert found.trained_relations.tolist() == [*prepared.trained_relations.tolist(), False, False]


def test_splits_end_where_the_prepared_graph_ends(chain):
    run, _, updates = chain
    before, _ = TemporalGraph.load(run / "graph")
    after, _ = TemporalGraph.load(run / "graph", updates=updates)
    assert (before.end, after.end) == (END, LAST)
    assert [after.bounds(split) for split in ("train", "valid", "test")] == [
        (0, VALID_START),
        (VALID_START, TEST_START),
        (TEST_START, END),
    ]
    assert after.times_in("test") == before.times_in("test") == [6, 7]


def test_what_was_written_reads_back(tmp_path):
    divided = divided_facts(0)
    write_prepared(tmp_path, divided)
    graph = read_manifest(tmp_path / "graph", "graph")
    assert read_updates(tmp_path, graph) == ()
    assert (chain_id(()), sizes(graph, ())) == ("", SIZES[0])
    known = [[f"{kind} {number}" for number in range(size)] for kind, size in (("entity", 6), ("relation", 2))]
    bad = dict.fromkeys(QUARANTINE.names, pa.nulls(3, pa.large_string())) | {"reason": ["null", "null", "bad_time"]}
    bad |= {"file": ["a.parquet"] * 3, "row": [0, 1, 2]}
    written = write_update(
        tmp_path,
        graph=graph,
        checkpoint=CHECKPOINT,
        previous=None,
        vocabularies=(Vocabulary(known[0], "entity"), Vocabulary(known[1], "relation")),
        facts=np.array([[6, 0, 1, 9], [0, 1, 2, 3], [6, 0, 1, 9], [0, 0, 2, 9]]),
        entities=new_names("entity", 6, 7),
        quarantine=pa.table(bad),
        inputs={"facts/00000": "abc"},
        content={"scores": {"mrr": 0.5}},
        sources={"facts": {"found": ["new.parquet"]}},
    )
    (update,) = read_updates(tmp_path, graph, CHECKPOINT)
    assert update.path == written.path == tmp_path / "updates" / "000001"
    assert update.facts().tolist() == [[0, 1, 2, 3], [0, 0, 2, 9], [6, 0, 1, 9]]
    assert update.entities()["entity"].to_pylist() == ["entity 6"]
    assert len(update.relations()) == 0
    inputs = {"graph": graph.id, "checkpoint": CHECKPOINT.id, "previous": "", "facts/00000": "abc"}
    assert update.manifest.inputs == inputs
    assert update.manifest.sources == {"facts": {"found": ["new.parquet"]}}
    vocabulary = update.content.pop("vocabulary")
    assert vocabulary != graph.content["vocabulary"]
    assert update.content == {
        **{"number": 1, "num_facts": 3, "first_snapshot": 3, "last_snapshot": 9, "num_entities": 7},
        **{"num_relations": 2, "quarantined": {"null": 2, "bad_time": 1}, "scores": {"mrr": 0.5}},
    }
    assert sizes(graph, [update]) == (7, 2)
    files = {"facts.parquet": UPDATE_FACTS.names, "quarantine.parquet": QUARANTINE.names}
    for file, names in files.items():
        assert pa.parquet.read_schema(update.path / file).names == names
    assert not (update.path / "relations.parquet").exists()


def test_an_update_without_facts_says_no_snapshot(tmp_path):
    write_prepared(tmp_path, divided_facts(0))
    graph = read_manifest(tmp_path / "graph", "graph")
    known = (Vocabulary(["a"] * 6, "entity"), Vocabulary(["r"] * 2, "relation"))
    written = write_update(
        tmp_path, graph=graph, checkpoint=CHECKPOINT, previous=None, vocabularies=known, facts=np.zeros((0, 4))
    )
    assert not {"first_snapshot", "last_snapshot"} & written.content.keys()
    found, _ = TemporalGraph.load(tmp_path / "graph", updates=[written])
    assert (found.end, found.num_entities) == (END, 6)


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": np.array([[6, 0, 0, 9]])},
        {"facts": np.array([[0, 2, 0, 9]])},
        {"facts": np.array([[0, 0, 0, -1]])},
        {"entities": new_names("entity", 7, 8)},
    ],
    ids=["entity without a name", "relation without a name", "time before the first", "ids with a gap"],
)
def test_ids_that_do_not_go_on_are_not_written(tmp_path, changes):
    write_prepared(tmp_path, divided_facts(0))
    known = (Vocabulary(["a"] * 6, "entity"), Vocabulary(["r"] * 2, "relation"))
    given = {"previous": None, "vocabularies": known, "facts": np.zeros((0, 4)), **changes}
    graph = read_manifest(tmp_path / "graph", "graph")
    with pytest.raises(AssertionError):
        write_update(tmp_path, graph=graph, checkpoint=CHECKPOINT, **given)
    assert not (tmp_path / "updates").exists()


def test_what_has_followed_a_chain_is_found(chain):
    _, _, updates = chain
    assert [len(updates_after(updates, chain_id(updates[:number])) or ()) for number in range(4)] == [3, 2, 1, 0]
    assert updates_after(updates[:1], chain_id(updates)) is None


def test_a_missing_update_is_named(chain):
    run, graph, updates = chain
    shutil.rmtree(updates[1].path)
    with pytest.raises(ArtifactError, match=r"000002 is missing, and .*000003 is there.*gam-kg update RUN"):
        read_updates(run, graph)


def test_an_unfinished_update_is_refused(chain):
    run, graph, updates = chain
    (updates[2].path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"000003: no finished update artifact.*gam-kg update RUN"):
        read_updates(run, graph)


def test_an_update_that_does_not_follow_the_one_before_it_is_refused(chain):
    run, graph, updates = chain
    second, third, aside = updates[1].path, updates[2].path, run / "aside"
    second.rename(aside)
    third.rename(second)
    aside.rename(third)
    with pytest.raises(ArtifactError, match=r"000002 does not follow the .*000001 that is there; remove it and all"):
        read_updates(run, graph)


@pytest.mark.parametrize("file", ["facts.parquet", "entities.parquet", "relations.parquet", "manifest.json"])
def test_a_changed_file_is_refused(chain, file):
    run, graph, updates = chain
    content = bytearray((updates[2].path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (updates[2].path / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{file} (was changed|is damaged).*add their facts again: gam-kg update"):
        read_updates(run, graph)


def test_files_that_look_as_when_they_were_verified_are_not_read_again(chain, monkeypatch):
    run, graph, updates = chain
    read_updates(run, graph)
    read = []
    monkeypatch.setattr(
        stored_update, "open_artifact", lambda path, kind: read.append(path) or open_artifact(path, kind)
    )
    assert read_updates(run, graph) == updates
    assert read == []
    file = updates[1].path / "facts.parquet"
    file.write_bytes(file.read_bytes())
    assert read_updates(run, graph) == updates
    assert read == [updates[1].path]


def test_an_update_of_another_graph_or_checkpoint_is_refused(chain):
    run, graph, _ = chain
    other = Manifest("graph", "other", {}, {}, graph.content)
    with pytest.raises(ArtifactError, match=r"000001 belongs to another graph .*move .*updates away"):
        read_updates(run, other)
    with pytest.raises(ArtifactError, match="000001 belongs to another checkpoint"):
        read_updates(run, graph, Manifest("checkpoint", "other", {}, {}))


def test_files_that_are_no_updates_are_left_alone(chain):
    run, graph, updates = chain
    (run / "updates" / ".000004.staging-rubbish").mkdir()
    (run / "updates" / "notes.txt").write_text("mine")
    assert read_updates(run, graph) == updates


@pytest.fixture
def folded(chain, monkeypatch):
    """The same run, all of whose updates are folded too, as a new process sees it."""
    monkeypatch.setattr(folded_updates, "_EVERY", 1)
    fold_updates(chain[0], chain[2])
    monkeypatch.setattr(stored_update, "_SEEN", {})
    return chain


def described(updates):
    return [
        (one.path, one.manifest, one.facts().tolist(), one.entities().to_pylist(), one.relations().to_pylist())
        for one in updates
    ]


def test_folded_updates_are_the_same_and_only_the_last_is_read(folded, monkeypatch):
    run, graph, updates = folded
    read = []
    monkeypatch.setattr(
        stored_update, "open_artifact", lambda path, kind: read.append(path) or open_artifact(path, kind)
    )
    for update in updates[:-1]:
        for file in update.path.glob("*.parquet"):
            file.unlink()
    found = read_updates(run, graph, CHECKPOINT)
    assert read == [updates[-1].path]
    assert described(found) == described(updates)
    assert [one.names("entity").to_pylist() for one in found] == [one.names("entity").to_pylist() for one in updates]
    assert found[0].entities().schema.equals(updates[0].entities().schema)


def test_updates_that_follow_the_folded_ones_are_read(folded):
    run, graph, updates = folded
    shutil.rmtree(run / "updates" / "folded")
    fold_updates(run, updates[:1])
    assert len(read_folded(run)) == 1
    assert described(read_updates(run, graph)) == described(updates)


def test_updates_are_folded_where_many_are_not(chain, monkeypatch):
    run, _, updates = chain
    for every, number in ((4, 0), (3, 3), (1, 3)):
        monkeypatch.setattr(folded_updates, "_EVERY", every)
        fold_updates(run, updates)
        assert len(read_folded(run)) == number


@pytest.mark.parametrize("file", ["facts.parquet", "entities.parquet", "manifests.json", "manifest.json"])
def test_damaged_folded_updates_are_not_used_and_written_anew(folded, file, caplog):
    run, graph, updates = folded
    path = run / "updates" / "folded" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert described(read_updates(run, graph)) == described(updates)
    assert "updates are read one by one" in caplog.text
    assert "gam-kg update RUN writes it anew" in caplog.text
    fold_updates(run, updates)
    assert len(read_folded(run)) == 3


@pytest.mark.parametrize("after", ["facts.parquet", "entities.parquet", "relations.parquet"])
def test_folded_updates_that_are_replaced_while_they_are_read_are_not_used(folded, monkeypatch, caplog, after):
    """One file is of before, the next of after: no update is without its facts."""
    run, graph, updates = folded
    shutil.rmtree(run / "updates" / "folded")
    fold_updates(run, updates[:1])
    read_one = folded_updates.read_table

    def read_then_replace(path):
        found = read_one(path)
        if path.name == after:
            monkeypatch.undo()
            monkeypatch.setattr(folded_updates, "_EVERY", 1)
            fold_updates(run, updates)
        return found

    monkeypatch.setattr(stored_update, "_SEEN", {})
    monkeypatch.setattr(folded_updates, "read_table", read_then_replace)
    assert described(read_updates(run, graph)) == described(updates)
    assert "updates are read one by one" in caplog.text


def changed_manifests(folder, change):
    """Write `folded` anew, whole, with other manifests in it."""
    shutil.copytree(folder, folder.parent / "copy")
    manifests = json.loads((folder / "manifests.json").read_text())
    change(manifests)

    def write(new):
        for file in (folder.parent / "copy").glob("*s.parquet"):
            shutil.copy(file, new / file.name)
        (new / "manifests.json").write_text(json.dumps(manifests))
        return {}

    before = read_manifest(folder, "folded")
    write_artifact(folder, Manifest.of("folded", before.inputs, before.config), write)
    shutil.rmtree(folder.parent / "copy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found[1].update(news=1), "news"),
        (lambda found: found[1].pop("inputs"), "inputs"),
        (lambda found: found[1]["content"].pop("num_facts"), "num_facts"),
        (lambda found: found[1].update(content=None), "manifests.json cannot be read"),
        (lambda found: found[1].update(schema_version=SCHEMA_VERSION + 1), f"schema version {SCHEMA_VERSION + 1}"),
        (lambda found: found[2]["content"].update(num_facts=10**6), "facts, its updates have 1,0"),
        (lambda found: found.pop(), "facts, its updates have"),
    ],
)
def test_folded_updates_of_another_version_are_not_used(folded, caplog, change, message):
    run, graph, updates = folded
    changed_manifests(run / "updates" / "folded", change)
    assert described(read_updates(run, graph)) == described(updates)
    assert "updates are read one by one" in caplog.text
    assert message in caplog.text


def test_a_folder_of_which_a_file_goes_while_it_is_looked_at_is_read_otherwise(folded, monkeypatch, caplog):
    run, graph, updates = folded
    stat = Path.stat

    def gone(path, **more):
        if path.name == "facts.parquet" and path.parent.name == "folded":
            raise FileNotFoundError(2, "No such file", str(path))
        return stat(path, **more)

    monkeypatch.setattr(Path, "stat", gone)
    assert described(read_updates(run, graph)) == described(updates)
    assert "facts.parquet was removed while" in caplog.text


def test_folded_updates_of_which_the_last_has_gone_or_is_another_are_not_used(folded, caplog):
    run, graph, updates = folded
    aside = run / "aside"
    updates[2].path.rename(aside)
    assert described(read_updates(run, graph)) == described(updates[:2])
    add_update(run, updates[2].facts()[:1], SIZES[2], SIZES[3], CHECKPOINT)
    found = read_updates(run, graph)
    assert described(found[:2]) == described(updates[:2])
    assert found[2].facts().tolist() == updates[2].facts()[:1].tolist()
    assert not caplog.text


def test_a_missing_update_is_named_though_it_is_folded(folded):
    run, graph, updates = folded
    shutil.rmtree(updates[0].path)
    with pytest.raises(ArtifactError, match=r"000001 is missing, and .*000002 is there"):
        read_updates(run, graph)
