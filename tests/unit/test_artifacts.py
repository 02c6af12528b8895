import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from gam_kg.artifacts import (
    MANIFEST,
    Manifest,
    open_artifact,
    read_manifest,
    require_same,
    write_artifact,
)
from gam_kg.errors import ArtifactError
from gam_kg.output import put_in_place, recover, replacing
from gam_kg.processes import Process
from gam_kg.schemas import SCHEMA_VERSION

CONTENT = {"num_facts": 10}
FIRST = Manifest("graph", "key-1", {"facts": "abc"}, {"buckets": 2}, CONTENT)
SECOND = replace(FIRST, key="key-2")
ENDED = replace(Process.current(), pid=2**22 + 1).tag  # above the largest process id of Linux


def write(path, manifest, text="whole", name="rows.txt"):
    def write_files(folder):
        (folder / name).write_text(text)
        return CONTENT

    return write_artifact(path, manifest, write_files)


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_reads_back(tmp_path):
    path = tmp_path / "run" / "graph"
    written = write(path, replace(FIRST, content={}))
    assert replace(written, files={}) == FIRST
    assert list(written.files) == ["rows.txt"]
    found = open_artifact(path, "graph")
    assert replace(found, versions={}) == written
    assert found.id == written.id != FIRST.id
    assert found.versions["torch"] != "none"
    assert files_of(path) == [MANIFEST, "rows.txt"]
    assert files_of(path.parent) == ["graph"]


def test_a_new_artifact_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "graph"
    write(path, FIRST, name="old.txt")
    write(path, SECOND, "new")
    assert read_manifest(path, "graph").key == "key-2"
    assert files_of(path) == [MANIFEST, "rows.txt"]
    assert files_of(tmp_path) == ["graph"]


def test_the_old_artifact_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "graph"
    write(path, FIRST)

    def write_files(folder):
        assert files_of(folder) == []
        (folder / "rows.txt").write_text("new")
        assert (path / "rows.txt").read_text() == "whole"
        assert read_manifest(path, "graph").key == "key-1"
        return CONTENT

    write_artifact(path, SECOND, write_files)
    assert read_manifest(path, "graph").key == "key-2"


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_artifact_whole(tmp_path, stop):
    path = tmp_path / "graph"
    write(path, FIRST)

    def write_half(folder):
        (folder / "rows.txt").write_text("half")
        raise stop

    with pytest.raises(stop):
        write_artifact(path, SECOND, write_half)
    assert read_manifest(path, "graph").key == "key-1"
    assert (path / "rows.txt").read_text() == "whole"
    assert files_of(tmp_path) == ["graph"]


def test_content_that_cannot_be_written_replaces_nothing(tmp_path):
    path = tmp_path / "graph"
    write(path, FIRST)
    with pytest.raises(TypeError):
        write_artifact(path, SECOND, lambda _: {"num_facts": {1: {2}, "a": 3}})
    assert read_manifest(path, "graph").key == "key-1"
    assert files_of(tmp_path) == ["graph"]


def test_a_first_artifact_that_fails_leaves_nothing_to_read(tmp_path):
    path = tmp_path / "graph"

    def fail(folder):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_artifact(path, FIRST, fail)
    assert not path.exists()
    with pytest.raises(ArtifactError, match="no finished graph artifact"):
        read_manifest(path, "graph")


def test_files_of_an_earlier_crash_do_not_get_in(tmp_path):
    for tag in (ENDED, replace(Process.current(), started=1).tag):
        left = tmp_path / f".graph.staging-{tag}.0a1b2c3d"
        left.mkdir()
        (left / "rubbish.txt").touch()
    write(tmp_path / "graph", SECOND)
    assert files_of(tmp_path / "graph") == [MANIFEST, "rows.txt"]
    assert files_of(tmp_path) == ["graph"]


def test_what_a_killed_writer_had_moved_away_is_put_back(tmp_path):
    path = tmp_path / "graph"
    write(path, FIRST)
    path.rename(tmp_path / f".graph.old-{ENDED}.0a1b2c3d")
    recover(path)
    assert read_manifest(path, "graph").key == "key-1"
    assert files_of(tmp_path) == ["graph"]


def test_of_two_that_were_moved_away_none_is_chosen(tmp_path):
    for number in "12":
        (tmp_path / f".graph.old-{ENDED}.{number * 8}").mkdir()
    recover(tmp_path / "graph")
    assert len(files_of(tmp_path)) == 2
    assert not (tmp_path / "graph").exists()


def parent():
    """A process of this machine that is not this one and has not ended."""
    stat = Path(f"/proc/{os.getppid()}/stat").read_text()
    return replace(Process.current(), pid=os.getppid(), started=int(stat.rpartition(")")[2].split()[19]))


@pytest.mark.parametrize(
    "process",
    [
        Process.current(),
        parent(),
        replace(Process.current(), host="elsewhere", pid=2**22 + 1),
        replace(Process.current(), machine="0123456789ab", pid=2**22 + 1),
        replace(Process.current(), machine="unknown", pid=2**22 + 1),
    ],
    ids=["this process", "parent", "another host", "another container", "unknown machine"],
)
@pytest.mark.parametrize("kind", ["staging", "old"])
def test_the_files_of_a_writer_that_may_be_at_work_are_left_alone(tmp_path, process, kind):
    other = tmp_path / f".graph.{kind}-{process.tag}.0a1b2c3d"
    other.mkdir()
    recover(tmp_path / "graph")
    assert files_of(tmp_path) == [other.name]
    write(tmp_path / "graph", FIRST)
    assert files_of(tmp_path) == [other.name, "graph"]


@pytest.mark.parametrize(
    "name", ["staging-foo", "old-abc", "old-12345", "staging-", "old-a.b.c.d", "staging-1.2.3.4.5"]
)
def test_foreign_names_are_no_leftovers(tmp_path, name):
    foreign = tmp_path / f".graph.{name}"
    foreign.mkdir()
    recover(tmp_path / "graph")
    write(tmp_path / "graph", FIRST)
    assert files_of(tmp_path) == [foreign.name, "graph"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "more" / "facts[1].parquet"
    with replacing(path) as staging:
        staging.write_text("first")
        assert not path.exists()
    (path.parent / f".{path.name}.staging-{ENDED}.0a1b2c3d").write_text("of a killed writer")
    with pytest.raises(RuntimeError), replacing(path) as staging:  # noqa: PT012
        staging.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first"
    with replacing(path) as staging:
        staging.write_text("second")
    assert path.read_text() == "second"
    assert files_of(path.parent) == [path.name]


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    write(tmp_path / "elsewhere", FIRST)
    (tmp_path / "graph").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "graph", SECOND)
    assert read_manifest(tmp_path / "elsewhere", "graph").key == "key-1"
    assert read_manifest(tmp_path / "graph", "graph").key == "key-2"
    assert files_of(tmp_path) == ["elsewhere", "graph"]


def test_an_error_between_the_two_renames_loses_nothing(tmp_path):
    path = tmp_path / "graph"
    write(path, FIRST)
    staging = tmp_path / "staging"
    staging.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(staging), "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            put_in_place(staging, path)
    recover(path)
    assert read_manifest(path, "graph").key == "key-1"


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    (tmp_path / "rows.txt").touch()
    with pytest.raises(ArtifactError, match=MANIFEST):
        read_manifest(tmp_path, "graph")


def test_an_artifact_of_another_kind_is_refused(tmp_path):
    write(tmp_path / "graph", FIRST)
    with pytest.raises(ArtifactError, match="found a graph artifact, expected checkpoint"):
        read_manifest(tmp_path / "graph", "checkpoint")


def test_another_schema_version_is_refused(tmp_path):
    write(tmp_path / "graph", replace(FIRST, schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(ArtifactError, match=f"schema version {SCHEMA_VERSION + 1}"):
        read_manifest(tmp_path / "graph", "graph")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", "other"),
        ("inputs", {"facts": "abd"}),
        ("config", {"buckets": 3}),
        ("content", {"num_facts": 11}),
        ("id", "0" * 16),
    ],
)
def test_a_manifest_changed_by_hand_is_refused(tmp_path, name, value):
    write(tmp_path / "graph", FIRST)
    manifest = tmp_path / "graph" / MANIFEST
    values = json.loads(manifest.read_text())
    assert values[name] != value
    manifest.write_text(json.dumps({**values, name: value}))
    with pytest.raises(ArtifactError, match="changed after it was written"):
        read_manifest(tmp_path / "graph", "graph")


@pytest.mark.parametrize("keep", [0, 1, 20])
def test_a_manifest_cut_off_is_refused(tmp_path, keep):
    write(tmp_path / "graph", FIRST)
    manifest = tmp_path / "graph" / MANIFEST
    manifest.write_text(manifest.read_text()[:keep])
    with pytest.raises(ArtifactError, match="damaged"):
        read_manifest(tmp_path / "graph", "graph")


def test_ids_depend_on_all_but_the_versions_of_packages():
    assert replace(FIRST, versions={"torch": "9"}).id == FIRST.id
    changes = {"kind": "x", "key": "x", "inputs": {}, "config": {}, "content": {}, "schema_version": 99}
    ids = {replace(FIRST, **{name: value}).id for name, value in changes.items()}
    assert len(ids | {FIRST.id}) == len(changes) + 1


def test_keys_depend_on_kind_inputs_and_config():
    key = Manifest.of("train", {"graph": "a", "more": "b"}, {"x": 1}).key
    assert key == Manifest.of("train", {"more": "b", "graph": "a"}, {"x": 1}).key
    others = [
        Manifest.of("embed", {"graph": "a", "more": "b"}, {"x": 1}).key,
        Manifest.of("train", {"graph": "b", "more": "b"}, {"x": 1}).key,
        Manifest.of("train", {"graph": "a", "more": "b"}, {"x": 2}).key,
    ]
    assert len({key, *others}) == 4


def test_artifacts_that_do_not_belong_together_are_refused(tmp_path):
    require_same("graph", "a", "a", tmp_path)
    with pytest.raises(ArtifactError, match=r"another graph \(a, here b\)"):
        require_same("graph", "a", "b", tmp_path)
