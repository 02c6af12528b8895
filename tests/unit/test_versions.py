"""Versions are whole or absent, never change, and stay as long as somebody may read them."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gam_kg.artifacts import Manifest, read_manifest
from gam_kg.config import PublishConfig
from gam_kg.errors import ArtifactError
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.processes import Process
from gam_kg.versions import (
    latest,
    open_version,
    point_latest,
    publish,
    recover_versions,
    retain,
    revisions,
    version_name,
    versions,
)

ALL = PublishConfig(keep_versions=None)
ROWS = 300


class Killed(BaseException):
    pass


def put(folder, moment, number=0, *, at_end=True, keep=ALL, checkpoint="first"):
    """Publish a version whose rows, of both files, all have a number."""

    def write(staging):
        for name in ("entities", "relations"):
            pq.write_table(pa.table({"number": [number] * ROWS}), staging / f"{name}.parquet")
        return {"after_snapshot": moment}

    manifest = Manifest.of("embeddings", {"graph": "one", "checkpoint": checkpoint}, {})
    return publish(folder, version_name(str(moment)), manifest, write, keep, at_end=at_end)


def number_in(version):
    tables = [pq.read_table(version / f"{name}.parquet") for name in ("entities", "relations")]
    (number,) = {number for table in tables for number in table["number"].to_pylist()}
    return number


def names(folder):
    return sorted(path.name for path in versions(folder))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "embeddings"


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (TimeAxis("timestamp", "day", 0), "as_of=1970-01-02"),
        (TimeAxis("timestamp", "hour", 0), "as_of=1970-01-01T01"),
        (TimeAxis("timestamp", "month", 0), "as_of=1970-02"),
        (TimeAxis("integer", 5, -10), "as_of=-5"),
    ],
)
def test_versions_are_named_after_their_moment(axis, expected):
    assert version_name(axis.label(1)) == expected


def test_without_a_version_readers_are_told_what_to_do(folder):
    with pytest.raises(ArtifactError, match=r"no version yet.*gam-kg embed CONFIG"):
        latest(folder)
    assert versions(folder) == []
    put(folder, 1)
    for text in ("../graph", "as_of=2", ""):
        (folder / "latest").write_text(text)
        with pytest.raises(ArtifactError, match=r"latest names '.*', which is no version there; run gam-kg embed"):
            latest(folder)


def test_latest_names_the_newest_moment_of_the_current_model(folder):
    assert latest(put(folder, 5).parent) == folder / "as_of=5"
    put(folder, 3, at_end=False)
    assert latest(folder).name == "as_of=5", "a past moment is beside it"
    put(folder, 6, at_end=False)
    assert latest(folder).name == "as_of=6"
    put(folder, 4, at_end=False, checkpoint="second")
    assert latest(folder).name == "as_of=4", "those before it are of another model"
    put(folder, 2, checkpoint="second")
    assert latest(folder).name == "as_of=2", "there are no facts after it any more"


def test_latest_is_pointed_where_a_killed_process_did_not(folder):
    put(folder, 1)
    version = put(folder, 2)
    (folder / "latest").write_text("as_of=1")
    point_latest(version, at_end=True)
    assert latest(folder) == version


def test_a_moment_that_is_made_again_leaves_the_version_before_it_as_it_is(folder):
    first, second = put(folder, 1, 10), put(folder, 1, 20)
    assert (second.name, latest(folder)) == ("as_of=1.revision-2", second)
    assert [number_in(path) for path in (first, second)] == [10, 20]
    assert revisions(folder, "as_of=1") == [second, first]
    retain(folder, ALL, time.time() + 3600)
    assert names(folder) == ["as_of=1.revision-2"]
    assert put(folder, 1, 30).name == "as_of=1.revision-3"


def test_versions_stay_by_number_and_latest_in_any_case(folder):
    keep = PublishConfig(keep_versions=2)
    put(folder, 9)
    for moment in (1, 2, 3):
        put(folder, moment, at_end=False, keep=keep)
    assert names(folder) == ["as_of=1", "as_of=2", "as_of=3", "as_of=9"], "readers have time"
    retain(folder, keep, time.time() + 9 * 60)
    assert len(names(folder)) == 4
    retain(folder, keep, time.time() + 11 * 60)
    assert names(folder) == ["as_of=2", "as_of=3", "as_of=9"]
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_versions_stay_by_days_and_latest_in_any_case(folder):
    keep = PublishConfig(keep_versions=None, keep_days=1)
    for moment in (1, 2):
        put(folder, moment, keep=keep)
    tomorrow = time.time() + 25 * 3600
    retain(folder, keep, tomorrow)
    retain(folder, ALL, tomorrow + 3600)
    retain(folder, keep, tomorrow + 7200)
    assert len(names(folder)) == 2, "it was to stay meanwhile, so that readers have time again"
    retain(folder, keep, tomorrow + 10_800)
    assert names(folder) == ["as_of=2"]


def test_a_version_that_a_reader_has_open_stays(folder):
    keep, later = PublishConfig(keep_versions=1), time.time() + 3600
    put(folder, 1, 10)
    with open_version(folder) as version, open_version(folder, "as_of=1"):
        put(folder, 2, keep=keep)
        retain(folder, keep, later)
        assert number_in(version) == 10
    retain(folder, keep, later)
    assert names(folder) == ["as_of=2"]
    with (
        pytest.raises(ArtifactError, match="no version 'as_of=1'; there are: as_of=2"),
        open_version(folder, "as_of=1"),
    ):
        pass
    with pytest.raises(FileNotFoundError, match="of the reader"), open_version(folder):
        raise FileNotFoundError("of the reader")


def test_what_cannot_be_written_leaves_nothing(folder):
    def fail(staging):
        (staging / "entities.parquet").write_text("half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        publish(folder, "as_of=1", Manifest.of("embeddings", {}, {}), fail, ALL, at_end=True)
    assert not folder.exists()
    put(folder, 1)
    with pytest.raises(ValueError, match="no more"):
        publish(folder, "as_of=1", Manifest.of("embeddings", {}, {}), fail, ALL, at_end=True)
    assert sorted(path.name for path in folder.iterdir()) == ["as_of=1", "latest"]


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_reader_finds_whole_versions_whenever_the_writer_is_killed(folder, monkeypatch, moment):
    keep = PublishConfig(keep_versions=1, grace_minutes=0)
    put(folder, 1, 1, keep=keep)
    put(folder, 2, 2, keep=keep)
    renames = []

    def killing(rename):
        def moved(path, target):
            renames.append(target)
            if len(renames) == moment:
                raise Killed
            return rename(path, target)

        return moved

    with monkeypatch.context() as patched:
        for name in ("rename", "replace"):
            patched.setattr(Path, name, killing(getattr(Path, name)))
        with pytest.raises(Killed):  # the manifest, the version, latest, and the version that goes
            put(folder, 3, 3, keep=keep)
    assert number_in(latest(folder)) == (3 if moment > 3 else 2)
    for version in versions(folder):
        assert number_in(version) == read_manifest(version, "embeddings").content["after_snapshot"]


def test_what_a_killed_process_left_is_removed(folder):
    put(folder, 1)
    ended = replace(Process.current(), started=1).tag
    for name in ("as_of=1", "as_of=0", "latest"):
        (folder / f".{name}.staging-{ended}.0123abcd").mkdir()
    recover_versions(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["as_of=1", "latest"]


def test_an_artifact_from_before_there_were_versions_goes(folder):
    folder.mkdir()
    for name in ("manifest.json", "entities.parquet"):
        (folder / name).write_text("old")
    put(folder, 1)
    assert sorted(path.name for path in folder.iterdir()) == ["as_of=1", "latest"]


# Reads the latest version until a file says stop. What took longer than the grace between the name and the files is not
# counted: no version is promised to stay that long.
READER = """
import sys, time
from pathlib import Path
import duckdb

folder, grace, rows = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
found, query = [], "SELECT count(*), min(number), max(number) FROM read_parquet(?)"
while not (folder / "stop").exists():
    start = time.monotonic()
    (name,) = duckdb.execute("SELECT content FROM read_text(?)", [str(folder / "latest")]).fetchone()
    read = []
    try:
        for kind in ("entities", "relations"):
            time.sleep(0.15)  # versions are published meanwhile
            read.append(duckdb.execute(query, [str(folder / name / f"{kind}*.parquet")]).fetchone())
    except duckdb.Error:
        if time.monotonic() - start < grace:
            raise
        continue
    (count, low, high), other = read
    assert (count, low, high) == other and count == rows and low == high, (name, read)
    found.append(low)
    if len(found) == 1:
        (folder / "reading").touch()
assert found == sorted(found), found
print(len(set(found)))
"""


def test_a_reader_in_a_loop_finds_every_version_whole_while_fifty_are_published(folder):
    grace = 2.0
    keep = PublishConfig(keep_versions=3, grace_minutes=grace / 60)
    put(folder, 0, keep=keep)
    command = [sys.executable, "-c", READER, str(folder), str(grace), str(ROWS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        while not (folder / "reading").exists() and reader.poll() is None:
            time.sleep(0.01)
        for number in range(1, 51):
            put(folder, number // 2, number, keep=keep)  # every other one is made again for the same moment
            time.sleep(0.1)
        (folder / "stop").touch()
        seen, _ = reader.communicate(timeout=60)
    assert reader.returncode == 0
    assert int(seen) > 5
    assert len(names(folder)) < 51, "some have gone while the reader read"
    retain(folder, keep, time.time() + grace + 1)
    assert names(folder) == ["as_of=23.revision-2", "as_of=24.revision-2", "as_of=25"]
    assert number_in(latest(folder)) == 50
