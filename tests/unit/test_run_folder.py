"""A new graph and its checkpoint take the place of the old ones together, whenever the process is killed."""

from dataclasses import replace
from pathlib import Path

import pytest

from gam_kg.artifacts import Manifest, read_manifest, write_artifact
from gam_kg.errors import ArtifactError
from gam_kg.processes import Process
from gam_kg.run_folder import graph_to_train, place_to_write, remove_finished_training, settle, waiting


class Killed(BaseException):
    pass


def make(run, kind, name):
    """Write an artifact; the checkpoint is made from the graph that training reads."""
    graph = graph_to_train(run)
    inputs = {"facts": name} if kind == "graph" else {"graph": read_manifest(graph, "graph").id}

    def write(folder):
        (folder / "rows.txt").write_text(name)
        return {}

    write_artifact(place_to_write(run, kind), Manifest.of(kind, inputs, {}), write)


def stored(run):
    """What a reader finds: the names of graph and checkpoint, which belong together, or nothing."""
    try:
        graph, checkpoint = (read_manifest(run / kind, kind) for kind in ("graph", "checkpoint"))
    except ArtifactError:
        return None
    if checkpoint.inputs["graph"] != graph.id:
        return None
    return tuple((run / kind / "rows.txt").read_text() for kind in ("graph", "checkpoint"))


@pytest.fixture
def run(tmp_path):
    """A run with an old graph and checkpoint, beside which a new graph waits."""
    for kind in ("graph", "checkpoint"):
        make(tmp_path, kind, "old")
        settle(tmp_path)
    make(tmp_path, "graph", "new")
    settle(tmp_path)
    return tmp_path


def names(run):
    return sorted(path.name for path in run.iterdir())


def test_a_graph_waits_only_where_a_checkpoint_needs_the_old_one(tmp_path):
    for name in ("first", "second"):
        make(tmp_path, "graph", name)
        settle(tmp_path)
        assert names(tmp_path) == ["graph"]
    make(tmp_path, "checkpoint", "of the second")
    make(tmp_path, "graph", "third")
    settle(tmp_path)
    assert names(tmp_path) == ["checkpoint", "graph", "graph.next"]
    assert stored(tmp_path) == ("second", "of the second")


def test_training_reads_the_graph_that_waits_and_both_are_put_in_place(run):
    assert graph_to_train(run) == run / "graph.next"
    make(run, "checkpoint", "of the new")
    assert stored(run) == ("old", "old")
    settle(run)
    assert stored(run) == ("new", "of the new")
    assert names(run) == ["checkpoint", "graph"]


def test_a_graph_made_anew_that_is_the_same_does_not_wait(run):
    make(run, "graph", "old")
    settle(run)
    assert stored(run) == ("old", "old")
    assert names(run) == ["checkpoint", "graph"]


def test_what_waits_and_is_damaged_is_removed(run):
    make(run, "checkpoint", "of the new")
    (waiting(run, "graph") / "manifest.json").write_text("{")
    settle(run)
    assert stored(run) == ("old", "old")
    assert names(run) == ["checkpoint", "graph"]


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_reader_finds_the_old_or_the_new_pair_and_the_next_owner_ends_what_was_begun(run, monkeypatch, moment):
    make(run, "checkpoint", "of the new")
    renames, found = [], []

    def killing(rename):
        def moved(path, target):
            found.append(stored(run))
            renames.append(target)
            if len(renames) == moment:
                raise Killed
            return rename(path, target)

        return moved

    with monkeypatch.context() as patched:
        for name in ("rename", "replace"):
            patched.setattr(Path, name, killing(getattr(Path, name)))
        with pytest.raises(Killed):  # two folders are moved away and two put in place
            settle(run)
    found.append(stored(run))
    assert set(found) <= {("old", "old"), ("new", "of the new"), None}
    settle(run)
    assert stored(run) == ("new", "of the new")
    assert [name for name in names(run) if not name.startswith(".")] == ["checkpoint", "graph"]


def test_of_trainings_the_finished_one_is_removed(run):
    key = read_manifest(run / "checkpoint", "checkpoint").key
    for name in (key, "interrupted"):
        (run / "training" / name).mkdir(parents=True)
    remove_finished_training(run)
    assert names(run / "training") == ["interrupted"]
    (run / "training" / "interrupted").rmdir()
    remove_finished_training(run)
    assert "training" not in names(run)


def test_what_a_killed_process_left_is_put_back_or_removed(tmp_path):
    ended = replace(Process.current(), started=1).tag
    make(tmp_path, "graph", "first")
    for kind in ("checkpoint", "evaluation"):
        (tmp_path / f".{kind}.old-{ended}.0123abcd").mkdir()
    for name in (f".report.staging-{ended}.0123abcd", f".graph.staging-{Process.current().tag}.0123abcd"):
        (tmp_path / name).mkdir()
    (tmp_path / "embeddings" / f".as_of=1.staging-{ended}.0123abcd").mkdir(parents=True)
    settle(tmp_path)
    found = sorted(path.name.partition(".staging")[0] for path in tmp_path.iterdir())
    assert found == [".graph", "checkpoint", "embeddings", "evaluation", "graph"]
    assert not list((tmp_path / "embeddings").iterdir())
