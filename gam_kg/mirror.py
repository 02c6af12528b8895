"""Commands on a run at a URI: they work on its working copy, fetched before and copied back after each stage."""

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from gam_kg.errors import GamKGError, RunInUseError, StorageError
from gam_kg.remote_index import TRAINING
from gam_kg.remote_lock import remote_lock
from gam_kg.remote_run import RemoteRun
from gam_kg.run_lock import run_lock
from gam_kg.storage import is_remote, local_folder

_WAIT_SECONDS = 600.0

logger = logging.getLogger("gam_kg")

_owned: dict[Path, RemoteRun] = {}


@contextmanager
def mirrored(run_dir: str | None, verb: str, *, take_over: bool = False) -> Generator[None]:
    """Own the run at a URI while the block works on its working copy, whose lock the caller owns.

    What the copy lacks is fetched before, and what is new in it is copied back afterwards. Entered again, only the
    latter. For a run on this machine nothing is done.

    Args:
        run_dir: Of the configuration.
        verb: What is being done, for messages.
        take_over: Work on a run whose owner, on another machine, gives no sign of life.

    Raises:
        RunInUseError: Another process owns the run.
        StorageError: The storage cannot be used.
    """
    if run_dir is None or not is_remote(run_dir):
        yield
    elif (remote := _owned.get(local_folder(run_dir, "run_dir"))) is not None:
        with _pushed(remote):
            yield
    else:
        remote = RemoteRun(run_dir)
        with remote_lock(remote.filesystem, remote.root, run_dir, verb, take_over=take_over) as remote.require_own:
            remote.fetch()
            _owned[remote.run] = remote
            try:
                with _pushed(remote):
                    yield
            finally:
                del _owned[remote.run]


@contextmanager
def _pushed(remote: RemoteRun) -> Generator[None]:
    try:
        yield
    except Exception:
        try:  # what was finished before
            remote.push()
        except GamKGError as error:
            logger.warning("warning: %s", error)
        raise
    try:
        remote.push()
    except StorageError as error:
        raise StorageError(f"{error}. What was made is in {remote.run}; the next command copies it") from None


def push_training(run: Path) -> None:
    """Copy the last training checkpoint, if this is the working copy of a run at a URI that this process owns."""
    if (remote := _owned.get(run)) is not None:
        try:
            remote.push(f"{TRAINING}/")
        except (GamKGError, FileNotFoundError) as error:  # the next one may be copied
            logger.warning("warning: the training checkpoint was not copied: %s", error)


def readable_run(place: str, key: str, *only: str) -> Path:
    """The folder of a run to read: of a run at a URI its working copy, with the folders that are needed.

    Args:
        place: Folder or URI of the run.
        key: The argument that gives it, for messages.
        only: Names of these folders, as "graph"; none for all.

    Raises:
        ConfigError: It is no path.
        RunInUseError: A process of this machine has been changing the working copy for minutes.
        StorageError: The storage cannot be used.
    """
    run = local_folder(place, key)
    if not is_remote(place):
        return run
    remote, end = RemoteRun(place), time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            with run_lock(run, "fetch"):
                remote.fetch(only)
            if remote.is_empty:
                raise StorageError(f"{key}={place}: there is no run; give the run_dir that one was made with")
            return run
        except RunInUseError:  # by a command that works on the run, or that fetches as this one does
            if remote.is_fetched(only):
                return run
            if time.monotonic() > end:
                raise
            time.sleep(1)
