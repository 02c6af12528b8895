import json
from dataclasses import replace

import pytest

from gam_kg.artifacts import MANIFEST, Manifest, read_manifest, require_same, stage_key, write_manifest, writing
from gam_kg.errors import ArtifactError
from gam_kg.schemas import SCHEMA_VERSION

FIRST = Manifest("graph", "key-1", {"facts": "abc"}, {"buckets": 2}, {"num_facts": 10})
SECOND = replace(FIRST, key="key-2")


def write(path, manifest, text="whole"):
    with writing(path) as folder:
        (folder / "rows.txt").write_text(text)
        write_manifest(folder, manifest)


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_reads_back(tmp_path):
    path = tmp_path / "run" / "graph"
    write(path, FIRST)
    found = read_manifest(path, "graph")
    assert replace(found, versions={}) == FIRST
    assert found.id == FIRST.id
    assert found.versions["torch"] != "none"
    assert files_of(path) == [MANIFEST, "rows.txt"]
    assert files_of(path.parent) == ["graph"]


def test_a_new_artifact_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "graph"
    with writing(path) as folder:
        (folder / "old.txt").touch()
        write_manifest(folder, FIRST)
    write(path, SECOND, "new")
    assert read_manifest(path, "graph").key == "key-2"
    assert files_of(path) == [MANIFEST, "rows.txt"]
    assert files_of(tmp_path) == ["graph"]


def test_the_old_artifact_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "graph"
    write(path, FIRST)
    with writing(path) as folder:
        (folder / "rows.txt").write_text("new")
        write_manifest(folder, SECOND)
        assert (path / "rows.txt").read_text() == "whole"
        assert read_manifest(path, "graph").key == "key-1"
    assert read_manifest(path, "graph").key == "key-2"


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("with_manifest", [False, True])
def test_an_exception_leaves_the_old_artifact_whole(tmp_path, stop, with_manifest):
    path = tmp_path / "graph"
    write(path, FIRST)
    with pytest.raises(stop), writing(path) as folder:  # noqa: PT012
        (folder / "rows.txt").write_text("half")
        if with_manifest:
            write_manifest(folder, SECOND)
        raise stop
    assert read_manifest(path, "graph").key == "key-1"
    assert (path / "rows.txt").read_text() == "whole"
    assert files_of(tmp_path) == ["graph"]


def test_a_block_that_ends_without_a_manifest_replaces_nothing(tmp_path):
    path = tmp_path / "graph"
    write(path, FIRST)
    with pytest.raises(ArtifactError, match="without a manifest"), writing(path) as folder:
        (folder / "rows.txt").write_text("half")
    assert (path / "rows.txt").read_text() == "whole"
    assert files_of(tmp_path) == ["graph"]


def test_a_first_artifact_that_fails_leaves_nothing_to_read(tmp_path):
    path = tmp_path / "graph"
    with pytest.raises(RuntimeError), writing(path) as folder:  # noqa: PT012
        write_manifest(folder, FIRST)
        raise RuntimeError
    assert not path.exists()
    with pytest.raises(ArtifactError, match="no finished graph artifact"):
        read_manifest(path, "graph")


def test_files_of_an_earlier_crash_do_not_get_in(tmp_path):
    path = tmp_path / "graph"
    with writing(path) as folder:
        left = folder
        write_manifest(folder, FIRST)
    left.mkdir()
    (left / "rubbish.txt").touch()
    with writing(path) as folder:
        assert files_of(folder) == []
        write_manifest(folder, SECOND)
    assert files_of(path) == [MANIFEST]


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    (tmp_path / "rows.txt").touch()
    with pytest.raises(ArtifactError, match=MANIFEST):
        read_manifest(tmp_path, "graph")


def test_an_artifact_of_another_kind_is_refused(tmp_path):
    write(tmp_path / "graph", FIRST)
    with pytest.raises(ArtifactError, match="holds a graph artifact, expected checkpoint"):
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
    key = stage_key("train", {"graph": "a", "more": "b"}, {"x": 1})
    assert key == stage_key("train", {"more": "b", "graph": "a"}, {"x": 1})
    others = [
        stage_key("embed", {"graph": "a", "more": "b"}, {"x": 1}),
        stage_key("train", {"graph": "b", "more": "b"}, {"x": 1}),
        stage_key("train", {"graph": "a", "more": "b"}, {"x": 2}),
    ]
    assert len({key, *others}) == 4


def test_artifacts_that_do_not_belong_together_are_refused(tmp_path):
    require_same("graph", "a", "a", tmp_path)
    with pytest.raises(ArtifactError, match=r"another graph \(a, here b\)"):
        require_same("graph", "a", "b", tmp_path)
