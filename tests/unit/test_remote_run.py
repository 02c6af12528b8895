"""A run at a URI and its working copies on several machines, as folders for the cache."""

import json
import os
import shutil
import time
from contextlib import nullcontext

import pytest

from gam_kg import mirror, remote_lock, remote_run
from gam_kg.artifacts import MANIFEST, Manifest, open_artifact, read_manifest, write_artifact
from gam_kg.errors import RunInUseError, StorageError
from gam_kg.mirror import mirrored, push_training, readable_run
from gam_kg.output import remove
from gam_kg.remote_run import INDEX, RemoteRun
from gam_kg.run_lock import run_lock

KINDS = {"graph": "graph", "checkpoint": "checkpoint", "embeddings/as_of=1": "embeddings"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(remote_lock, "SETTLE_SECONDS", 0)


@pytest.fixture
def on_machine(bucket, monkeypatch, tmp_path):
    """Makes this process the one of a machine; returns the run as that has it."""

    def on(name):
        monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path / name))
        return RemoteRun(f"s3://{bucket}/runs/x")

    return on


def artifact(path, kind, text):
    def write(folder):
        (folder / "part").mkdir()
        for name in ("a.parquet", "part/b.parquet"):
            (folder / name).write_text(f"{text} {name}")
        return {"text": text}

    write_artifact(path, Manifest.of(kind, {}, {"text": text}), write)


def make(run, text):
    """Artifacts, versions and other files that all belong together."""
    for path, kind in KINDS.items():
        artifact(run / path, kind, text)
    for name in ("config.yaml", "embeddings/latest", "log/training.jsonl"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(f"{name} {text}")


def texts(run):
    """What each artifact of a run has been made as, all files verified."""
    return {path: open_artifact(run / path, kind).content["text"] for path, kind in KINDS.items()}


def contents(run):
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_run_arrives_as_it_was_made(on_machine, bucket, object_store):
    here = on_machine("here")
    make(here.run, "old")
    (here.run / ".hidden").touch()
    (here.run / "link").symlink_to(here.run / "graph")
    here.fetch()
    here.push()
    names = set(contents(here.run))
    assert object_store.names(bucket) == {f"runs/x/{name}" for name in (*names, INDEX)}
    there = on_machine("there")
    there.fetch()
    assert there.run != here.run
    assert contents(there.run) == contents(here.run)
    before = object_store.read(bucket, f"runs/x/{INDEX}")
    here.push()
    there.push()
    assert object_store.read(bucket, f"runs/x/{INDEX}") == before


def kill_at(monkeypatch, step):
    """The process ends at the step-th change at the URI."""
    done = 0

    def count(change):
        def changed(*arguments, **options):
            nonlocal done
            done += 1
            if done > step:
                raise KeyboardInterrupt
            return change(*arguments, **options)

        return changed

    monkeypatch.setattr(remote_run, "_THREADS", 1)
    monkeypatch.setattr(RemoteRun, "_copy", count(RemoteRun._copy))
    monkeypatch.setattr(remote_run, "write_object", count(remote_run.write_object))


@pytest.mark.parametrize("with_version", [False, True])
def test_a_kill_at_any_moment_leaves_the_old_run_or_the_new_one(
    on_machine, bucket, object_store, monkeypatch, tmp_path, with_version
):
    here = on_machine("here")
    make(here.run, "old")
    here.push()
    make(here.run, "new")
    if not with_version:  # then only what has a place of another name than the old one is new
        artifact(here.run / "embeddings/as_of=1", "embeddings", "old")
    new, outcomes, killed, step = texts(here.run), set(), True, -1
    while killed:
        step += 1
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            try:
                here.push()
                killed = False
            except KeyboardInterrupt:
                pass
        there = on_machine(f"there{step}")
        there.fetch()
        found = {path: read_manifest(there.run / path, kind).content["text"]
                 for path, kind in KINDS.items() if (there.run / path).exists()}  # fmt: skip
        for path in found:
            open_artifact(there.run / path, KINDS[path])
        outcomes.add(tuple(found.values()))
        # A reader of the version alone sees all of one, or no manifest.
        folder = tmp_path / f"alone{step}"
        prefix = "runs/x/embeddings/as_of=1/"
        for name in object_store.names(bucket):
            if name.startswith(prefix):
                file = folder / name.removeprefix(prefix)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(object_store.read(bucket, name))
        if (folder / MANIFEST).exists():
            open_artifact(folder, "embeddings")
        here = on_machine("here")
        here.fetch()
        assert texts(here.run) == new  # what was made is never replaced by what is older
    assert step > 8
    old = ("old", "old", "old")
    expected = {old, ("old", "old"), ("new", "new", "new")} if with_version else {old, ("new", "new", "old")}
    assert outcomes == expected
    # Nothing is left of the old run, nor of what the killed pushes had copied.
    places = {copy["place"] for copy in json.loads(object_store.read(bucket, f"runs/x/{INDEX}"))["folders"].values()}
    assert len(places) == 3
    folders = {
        name.removeprefix("runs/x/").rpartition("/")[0].removesuffix("/part") for name in object_store.names(bucket)
    }
    assert folders == {*places, "", "embeddings", "log"}


def test_of_what_changed_on_two_machines_the_run_at_the_uri_has_precedence(on_machine):
    here = on_machine("here")
    make(here.run, "old")
    here.push()
    there = on_machine("there")
    there.fetch()
    make(there.run, "there")
    remove(there.run / "embeddings/as_of=1")
    (there.run / "log/training.jsonl").unlink()
    there.push()
    artifact(here.run / "graph", "graph", "here")
    artifact(here.run / "evaluation", "evaluation", "here")
    here.fetch()
    assert read_manifest(here.run / "graph", "graph").content["text"] == "there"
    assert not (here.run / "embeddings/as_of=1").exists()
    assert open_artifact(here.run / "evaluation", "evaluation").content["text"] == "here"  # not copied yet
    here.push()
    there.fetch()
    assert open_artifact(there.run / "evaluation", "evaluation").content["text"] == "here"


def test_only_what_is_needed_is_fetched(on_machine, bucket):
    here = on_machine("here")
    make(here.run, "old")
    here.push()
    there = on_machine("there")
    there.fetch(["graph"])
    assert {path.name for path in there.run.iterdir() if path.is_dir()} == {"graph", "embeddings", "log"}
    assert [path.name for path in (there.run / "embeddings").iterdir()] == ["latest"]
    assert there.is_fetched(["graph"])
    assert not there.is_fetched()
    make(on_machine("here").run, "new")
    here.push()
    assert not there.is_fetched(["graph"])
    on_machine("there")
    run = readable_run(f"s3://{bucket}/runs/x", "RUN", "graph", "checkpoint")
    assert run == there.run
    assert open_artifact(run / "graph", "graph").content["text"] == "new"
    assert open_artifact(run / "checkpoint", "checkpoint").content["text"] == "new"


def test_a_copy_of_which_files_are_lost_is_fetched_again(on_machine):
    here = on_machine("here")
    make(here.run, "old")
    here.push()
    shutil.rmtree(here.run / "graph")
    (here.run / "checkpoint" / "a.parquet").unlink()
    here.fetch()
    assert set(texts(here.run).values()) == {"old"}


def test_a_manifest_that_names_new_sources_is_copied_alone(on_machine, bucket, object_store, monkeypatch):
    here = on_machine("here")
    make(here.run, "old")
    here.push()
    written = here.run / "graph" / MANIFEST
    written.write_text(written.read_text() + "\n")
    copied = []
    copy = RemoteRun._copy
    monkeypatch.setattr(RemoteRun, "_copy", lambda self, *pair, up: (copied.append(pair[1]), copy(self, *pair, up=up)))
    here.push()
    assert copied == [f"{bucket}/runs/x/graph/{MANIFEST}"]
    assert object_store.read(bucket, f"runs/x/graph/{MANIFEST}") == written.read_bytes()


def test_when_versions_were_written_and_marked_travels_with_them(on_machine, monkeypatch):
    """By these times it is decided which versions stay."""
    here, name = on_machine("here"), "embeddings/as_of=1"
    make(here.run, "old")

    def mark(second):
        for file in (here.run / name / MANIFEST, here.run / name / ".due"):
            file.touch()
            os.utime(file, (second, second))

    def times(run):
        return {path.name: path.stat().st_mtime for path in (run / name).iterdir() if path.name in (MANIFEST, ".due")}

    copied = []
    copy = RemoteRun._copy
    monkeypatch.setattr(RemoteRun, "_copy", lambda self, *pair, up: (copied.append(up), copy(self, *pair, up=up)))
    here.push()
    there = on_machine("there")
    there.fetch()
    assert list(times(there.run)) == [MANIFEST]
    copied.clear()
    mark(1_000_000)
    here.push()
    there.fetch()
    assert not copied
    assert times(there.run) == {MANIFEST: 1_000_000, ".due": 1_000_000}
    (here.run / name / ".due").unlink()
    here.push()
    there.fetch()
    assert times(there.run) == {MANIFEST: 1_000_000}


def test_a_reader_goes_on_with_the_new_run_where_the_old_one_is_removed_meanwhile(on_machine, monkeypatch):
    here = on_machine("here")
    make(here.run, "old")
    here.push()
    there = on_machine("there")
    first = there._read_index()
    make(here.run, "new")
    here.push()
    read, indexes = RemoteRun._read_index, [first]
    monkeypatch.setattr(RemoteRun, "_read_index", lambda self: indexes.pop() if indexes else read(self))
    there.fetch()
    assert set(texts(there.run).values()) == {"new"}


def test_a_run_whose_files_were_removed_or_changed_by_others_is_refused(on_machine, bucket, object_store):
    here = on_machine("here")
    make(here.run, "old")
    here.push()
    object_store.write(bucket, "runs/x/graph/a.parquet", b"other")
    with pytest.raises(StorageError, match=r"graph/a\.parquet is not what was written there"):
        on_machine("there").fetch()
    object_store.remove(bucket, "runs/x/graph/a.parquet")
    with pytest.raises(StorageError, match=r"files that run\.json names are not there"):
        on_machine("there").fetch()
    for text in (b"", b"[]", b'{"folders": {"../graph": {"place": "graph", "files": {}}}, "files": {}}'):
        object_store.write(bucket, f"runs/x/{INDEX}", text)
        with pytest.raises(StorageError, match=r"run\.json is damaged"):
            on_machine("there").fetch()


def test_a_run_that_is_not_there_cannot_be_read(bucket):
    with pytest.raises(StorageError, match=r"RUN=s3://.*/runs/none: there is no run; give the run_dir"):
        readable_run(f"s3://{bucket}/runs/none", "RUN", "graph")


def test_one_process_at_a_time_owns_a_run(on_machine, bucket, object_store, monkeypatch):
    here, lock = on_machine("here"), "runs/x/.lock"
    with mirrored(here.uri, "train"):
        other = remote_lock.remote_lock(here.filesystem, here.root, here.uri, "embed")
        with pytest.raises(RunInUseError, match=rf"{here.uri} is in use: gam-kg train, process"), other:
            pass
        assert lock in object_store.names(bucket)
    assert lock not in object_store.names(bucket)
    # Of a process on another machine only its sign of life is known.
    other = json.loads(remote_lock.new_lock("train")) | {"host": "other"}
    object_store.write(bucket, lock, json.dumps(other).encode())
    with pytest.raises(RunInUseError, match="is in use"), mirrored(here.uri, "embed", take_over=True):
        pass
    monkeypatch.setattr("gam_kg.run_lock.STALE_SECONDS", -5)
    with pytest.raises(RunInUseError, match=r"its lock is stale.*--take-over"), mirrored(here.uri, "embed"):
        pass
    with mirrored(here.uri, "embed", take_over=True):
        assert json.loads(object_store.read(bucket, lock))["verb"] == "embed"
    assert lock not in object_store.names(bucket)


def test_of_two_that_begin_in_one_moment_the_last_to_write_owns_the_run(on_machine, bucket, object_store, monkeypatch):
    here, lock = on_machine("here"), "runs/x/.lock"
    other = remote_lock.new_lock("embed")
    monkeypatch.setattr(remote_lock.time, "sleep", lambda _: object_store.write(bucket, lock, other))
    with pytest.raises(RunInUseError, match="has lost the run: gam-kg embed"), mirrored(here.uri, "train"):
        pass
    assert object_store.read(bucket, lock) == other


def test_an_owner_gives_signs_of_life(on_machine, bucket, monkeypatch):
    here = on_machine("here")
    monkeypatch.setattr(remote_lock, "RENEW_SECONDS", 0.1)
    with mirrored(here.uri, "train"):
        info, end = here.filesystem.get_file_info(f"{here.root}/.lock"), time.monotonic() + 60
        while here.filesystem.get_file_info(info.path).mtime_ns == info.mtime_ns:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_who_has_lost_the_run_changes_nothing_there(on_machine, bucket, object_store):
    here = on_machine("here")
    make(here.run, "old")
    lost = pytest.raises(RunInUseError, match=r"has lost the run: gam-kg embed, .* has taken it over")
    with lost, mirrored(here.uri, "train"):
        object_store.write(bucket, "runs/x/.lock", remote_lock.new_lock("embed"))
    assert object_store.names(bucket) == {"runs/x/.lock"}
    object_store.remove(bucket, "runs/x/.lock")
    with mirrored(here.uri, "train"):
        pass
    assert f"runs/x/{INDEX}" in object_store.names(bucket)


def test_each_stage_is_copied_when_it_ends_and_also_what_a_failure_leaves(on_machine):
    here, there = on_machine("here"), None
    with mirrored(here.uri, "run"):
        with mirrored(here.uri, "prepare"):
            artifact(here.run / "graph", "graph", "new")
        there = on_machine("there")
        there.fetch()
        assert open_artifact(there.run / "graph", "graph")
        on_machine("here")
    failure = pytest.raises(ValueError, match="failed")
    with failure, mirrored(here.uri, "run"):
        (here.run / "quarantine.parquet").write_text("rows")
        raise ValueError("failed")
    there.fetch()
    assert (there.run / "quarantine.parquet").read_text() == "rows"


def test_what_cannot_be_copied_stays_and_is_copied_by_the_next_command(on_machine, object_store, monkeypatch):
    here = on_machine("here")
    failure = pytest.raises(StorageError, match=r"What was made is in .*; the next command copies it")
    with object_store.refusing(), monkeypatch.context() as patch:
        patch.setattr(mirror, "remote_lock", lambda *_, **__: nullcontext(lambda: None))
        patch.setattr(RemoteRun, "fetch", lambda _: None)
        with failure, mirrored(here.uri, "prepare"):
            artifact(here.run / "graph", "graph", "new")
    with mirrored(here.uri, "train"):
        pass
    there = on_machine("there")
    there.fetch()
    assert open_artifact(there.run / "graph", "graph")


def test_an_interrupted_training_is_copied_as_a_whole(on_machine, bucket, object_store):
    here = on_machine("here")
    training = here.run / "training" / "key"
    with mirrored(here.uri, "train"):
        for step in ("1", "2"):
            shutil.rmtree(training, ignore_errors=True)
            for name in ("state.json", f"checkpoint_{step}/weights"):
                (training / name).parent.mkdir(parents=True, exist_ok=True)
                (training / name).write_text(step)
            push_training(here.run)
            there = on_machine(f"there{step}")
            there.fetch()
            assert contents(there.run) == contents(here.run)
            on_machine("here")
        shutil.rmtree(here.run / "training")
        artifact(here.run / "checkpoint", "checkpoint", "new")
    assert not [name for name in object_store.names(bucket) if "training" in name]
    push_training(here.run)  # of a run that this process does not own: nothing


def test_readers_use_the_copy_that_a_command_works_on(on_machine, bucket, monkeypatch):
    here = on_machine("here")
    make(here.run, "old")
    here.push()

    def in_use(*_):
        raise RunInUseError("by another process")

    monkeypatch.setattr(mirror, "run_lock", in_use)
    assert readable_run(here.uri, "RUN", "graph") == here.run
    remove(here.run / "graph")
    monkeypatch.setattr(mirror, "_WAIT_SECONDS", 0)
    with pytest.raises(RunInUseError, match="by another process"):
        readable_run(here.uri, "RUN", "graph")
    monkeypatch.setattr(mirror, "run_lock", run_lock)
    assert open_artifact(readable_run(here.uri, "RUN", "graph") / "graph", "graph")
