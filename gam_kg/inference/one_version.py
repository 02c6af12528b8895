"""Refusal of what was read of a run that another process has replaced meanwhile."""

from collections.abc import Generator
from contextlib import contextmanager

from gam_kg.artifacts import read_manifest
from gam_kg.errors import ArtifactError
from gam_kg.inference.trained_run import TrainedRun


@contextmanager
def one_version(run: TrainedRun) -> Generator[None]:
    """What the block reads of a run is of the graph, the checkpoint and the updates that were loaded.

    Updates that were added after that do not matter: the run answers for its own.

    Raises:
        ArtifactError: One of them was replaced; also where the block fails, as what it read may be of both.
    """
    try:
        yield
    finally:
        loaded = [(run.path / made.kind, made) for made in (run.graph_manifest, run.checkpoint_manifest)]
        loaded += [(update.path, update.manifest) for update in run.updates[-1:]]  # its id depends on those before it
        for path, made in loaded:
            if read_manifest(path, made.kind).id != made.id:
                raise ArtifactError(
                    f"{path} was replaced after the run was loaded; load the run again, or give the command again"
                )
