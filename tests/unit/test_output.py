"""Disks that are full, read-only or have something else in the place: said so, and what was there stays."""

import errno
import os
import subprocess

import numpy as np
import pyarrow as pa
import pytest
import torch
from graphs import graph_of, random_facts, tiny_config, write_graph
from runs import train_run

from gam_kg.artifacts import Manifest, open_artifact, write_artifact
from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import DataError, OutputError, writing
from gam_kg.graph.partition import Partition
from gam_kg.output import replacing
from gam_kg.parquet import write_table
from gam_kg.training.checkpoint import save_rows
from gam_kg.training.run import LocalCheckpoints

MANIFEST = Manifest.of("graph", {}, {})
NUMBERS = 1_600_000


@pytest.fixture
def small_disk(tmp_path):
    """A disk of four MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def small(folder):
    (folder / "rows.txt").write_text("whole")
    return {}


def bytes_(folder):
    (folder / "rows.bin").write_bytes(bytes(8 * NUMBERS))
    return {}


def parquet(folder):
    write_table(pa.table({"number": np.random.default_rng(0).random(NUMBERS)}), folder / "rows.parquet")
    return {}


def safetensors(folder):
    save_rows({"number": torch.zeros(NUMBERS, dtype=torch.float64)}, folder, "rows", Partition(NUMBERS))
    return {}


@pytest.mark.parametrize("write", [bytes_, parquet, safetensors])
def test_a_full_disk_is_said_to_be_full_and_what_was_there_stays(small_disk, write):
    path = small_disk / "run" / "graph"
    before = write_artifact(path, MANIFEST, small)
    with pytest.raises(OutputError, match=r"No space left on device; free space.*run_dir"):
        write_artifact(path, Manifest.of("graph", {"facts": "new"}, {}), write)
    assert open_artifact(path, "graph").id == before.id
    assert [one.name for one in path.parent.iterdir()] == ["graph"]


def test_a_training_whose_disk_gets_full_leaves_its_last_checkpoint(small_disk):
    checkpoints = LocalCheckpoints(small_disk / "training", Communicator())
    checkpoints.save(small, {})
    with pytest.raises(OutputError, match="No space left"), writing(small_disk):
        checkpoints.save(bytes_, {})
    assert (checkpoints.path / "rows.txt").read_text() == "whole"
    checkpoints.save(small, {})


def test_a_disk_that_is_full_at_any_byte_never_leaves_half_an_artifact(small_disk):
    folder = small_disk.parent / "run"
    write_graph(folder / "graph", graph_of(random_facts(1, 150), buckets=3), buckets=3)
    outcomes = []
    for free in (0, 4, 16, 80, 400, 1000, 3000):  # KiB
        filler = small_disk / "filler"
        filler.write_bytes(b"")
        room = os.statvfs(small_disk)
        filler.write_bytes(bytes(room.f_bavail * room.f_frsize - 1024 * free))
        run = small_disk / f"run-{free}"
        try:
            run.mkdir()
            (run / "graph").symlink_to(folder / "graph")
            train_run(run, tiny_config(epochs=1))
        except OutputError as error:
            outcomes.append(str(error))
            assert not (run / "checkpoint").exists()
        else:
            outcomes.append("whole")
            open_artifact(run / "checkpoint", "checkpoint")
        subprocess.run(["rm", "-rf", run, filler], check=True)
    assert {"No space left" in outcome for outcome in outcomes if outcome != "whole"} == {True}
    assert outcomes[-1] == "whole", "the last one has room for all"


def test_a_read_only_disk_is_said_to_be_so(small_disk):
    path = small_disk / "graph"
    before = write_artifact(path, MANIFEST, small)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match=r"cannot write .*graph.*Read-only file system.*run_dir"):
        write_artifact(path, MANIFEST, small)
    assert open_artifact(path, "graph").id == before.id


@pytest.mark.parametrize("above", [0, 1, 3])
def test_a_file_where_a_folder_goes_is_named(tmp_path, above):
    (tmp_path / "file").write_text("mine")
    path = tmp_path.joinpath("file", *["more"] * above, "graph")
    with pytest.raises(OutputError, match=rf"cannot write {tmp_path}/file.*move that away"):
        write_artifact(path, MANIFEST, small)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_in_the_place_of_an_artifact_is_replaced_only_by_a_whole_one(tmp_path):
    (tmp_path / "graph").write_text("mine")
    with pytest.raises(KeyError):
        write_artifact(tmp_path / "graph", MANIFEST, lambda _: {}["nothing"])
    assert (tmp_path / "graph").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_errors_of_the_place_are_the_users(tmp_path, number):
    for named in (tmp_path / "graph", tmp_path / ".graph.staging-x" / "rows.txt", tmp_path / "graph" / "x", tmp_path):
        with pytest.raises(OutputError, match="cannot write") as found, writing(tmp_path / "graph"):
            raise OSError(number, os.strerror(number), str(named))
        assert os.strerror(number) in str(found.value)


def test_errors_of_other_places_are_not_taken_for_those_of_writing(tmp_path):
    for error in (
        FileNotFoundError(2, "No such file", "/data/facts.parquet"),
        PermissionError(13, "Permission denied", "/data/facts.parquet"),
        PermissionError(13, "Permission denied", str(tmp_path / "facts.csv")),
        PermissionError(13, "Permission denied", str(tmp_path / "graph2" / "facts.csv")),
        PermissionError(13, "Failed to open local file '/data/facts.parquet'"),
        ConnectionResetError("peer"),
        TimeoutError("late"),
    ):
        with pytest.raises(type(error)), writing(tmp_path / "graph"):
            raise error
    with pytest.raises(DataError), replacing(tmp_path / "facts.parquet"):
        raise DataError("its own error stays")
