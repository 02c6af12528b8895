"""What is read of a run is of what was loaded: updates may be added to it, and nothing of it be replaced."""

import shutil

import pytest
from graphs import tiny_config
from runs import train_run
from updates import SIZES, add_update, divided_facts, write_prepared

from gam_kg.artifacts import read_manifest
from gam_kg.errors import ArtifactError
from gam_kg.inference.one_version import one_version
from gam_kg.inference.trained_run import TrainedRun


def test_updates_may_be_added_but_none_of_what_was_loaded_be_replaced(tmp_path):
    divided = divided_facts(0)
    write_prepared(tmp_path, divided)
    train_run(tmp_path, tiny_config({"dim": 4}, epochs=1))
    checkpoint = read_manifest(tmp_path / "checkpoint", "checkpoint")
    add_update(tmp_path, divided.added[0], *SIZES[:2], checkpoint)
    run = TrainedRun.load(tmp_path)
    with one_version(run):
        add_update(tmp_path, divided.added[1], *SIZES[1:3], checkpoint)
    with one_version(run):
        pass
    shutil.rmtree(tmp_path / "updates")
    add_update(tmp_path, divided.added[0][1:], *SIZES[:2], checkpoint)
    with pytest.raises(ArtifactError, match="updates/000001 was replaced after the run was loaded"), one_version(run):
        pass
    with pytest.raises(ArtifactError, match="updates/000001 was replaced"), one_version(run):
        raise IndexError("a row of one is none of the other")
    shutil.rmtree(tmp_path / "updates")
    with pytest.raises(ArtifactError, match="no finished update"), one_version(run):
        pass
