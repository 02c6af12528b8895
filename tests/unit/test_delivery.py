"""Versions copied to a bucket, for readers of the bucket alone."""

import json
from pathlib import Path

import pytest

from gam_kg import delivery
from gam_kg.artifacts import MANIFEST, Manifest, open_artifact
from gam_kg.config import PublishConfig
from gam_kg.delivery import deliver
from gam_kg.errors import StorageError
from gam_kg.versions import publish

KEEP = PublishConfig(keep_versions=2, grace_minutes=0)


def new_version(folder, number):
    """Publish a version of predictions."""

    def write(staging):
        for name in ("a.parquet", "b.parquet"):
            (staging / name).write_text(f"{name} {number}")
        return {"after_snapshot": number, "base": None}

    return publish(folder, f"as_of={number}", Manifest.of("predictions", {}, {}), write, KEEP, at_end=True)


@pytest.fixture
def read(bucket, object_store, tmp_path):
    """What a reader finds by `latest`: the name of a version, all files verified; None without `latest`."""
    count = iter(range(1000))

    def found():
        names = object_store.names(bucket)
        if "out/predictions/latest" not in names:
            return None
        latest = object_store.read(bucket, "out/predictions/latest").decode()
        folder, prefix = tmp_path / f"read{next(count)}", f"out/predictions/{latest}/"
        folder.mkdir()
        for name in names:
            if name.startswith(prefix):
                (folder / name.removeprefix(prefix)).write_bytes(object_store.read(bucket, name))
        open_artifact(folder, "predictions")
        return latest

    return found


def test_a_reader_finds_a_whole_version_whenever_a_delivery_is_killed(tmp_path, bucket, read, monkeypatch):
    folder, to = tmp_path / "predictions", f"s3://{bucket}/out"
    new_version(folder, 1)
    assert deliver(folder, to, KEEP) == f"{to}/predictions/as_of=1"
    new_version(folder, 2)
    killed, seen = -1, []
    while killed is not None:
        killed += 1
        steps = iter(range(killed))

        def stepped(change, steps=steps):
            def changed(*arguments, **options):
                if next(steps, None) is None:
                    raise KeyboardInterrupt
                return change(*arguments, **options)

            return changed

        with monkeypatch.context() as patch:
            patch.setattr(delivery, "copy_files", stepped(delivery.copy_files))
            patch.setattr(delivery, "write_object", stepped(delivery.write_object))
            try:
                deliver(folder, to, KEEP)
                killed = None
            except KeyboardInterrupt:
                pass
        seen.append(read())
    assert set(seen) == {"as_of=1", "as_of=2"}
    assert seen == sorted(seen)
    assert len(seen) > 4


def test_versions_at_a_uri_stay_as_long_as_those_in_a_folder(tmp_path, bucket, object_store, read):
    folder, to = tmp_path / "predictions", f"s3://{bucket}/out"
    for number in (1, 2, 3):
        version = new_version(folder, number)
        deliver(folder, to, KEEP)
        assert read() == version.name
    kept = {Path(name).parent.name for name in object_store.names(bucket) if name.endswith(MANIFEST)}
    assert kept == {"as_of=2", "as_of=3"}
    assert not [name for name in object_store.names(bucket) if "as_of=1" in name]
    made = json.loads((version / MANIFEST).read_text())["id"]
    deliver(folder, to, KEEP)
    assert json.loads(object_store.read(bucket, f"out/predictions/as_of=3/{MANIFEST}"))["id"] == made
    with pytest.raises(StorageError, match="there is no bucket no-such-bucket"):
        deliver(folder, "s3://no-such-bucket/out", KEEP)
