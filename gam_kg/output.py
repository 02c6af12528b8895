"""Files and folders that appear whole or not at all, also after a crash or on storage that several machines share.

They are written beside their place under a name that says which process writes, flushed to disk, and renamed.
"""

import errno
import glob
import os
import shutil
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from gam_kg.errors import writing
from gam_kg.processes import Process
from gam_kg.run_lock import require_lock


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Replace a file or a folder by a whole one, or not at all.

    Yields:
        A path beside it, where nothing is. What the block makes there takes the place of `path` when the block ends
        without an error, and is removed otherwise.

    Raises:
        OutputError: There is no space, or the place cannot be written.
        RunInUseError: The place is in a run folder whose lock this process has lost.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        staging = _beside(path, "staging")
        try:
            yield staging
            put_in_place(staging, path)
        finally:
            remove(staging)


def put_in_place(staging: Path, path: Path) -> None:
    """Flush a finished file or folder to disk and rename it to `path`, in place of what is there."""
    flush_all(staging)
    require_lock(path)
    old = _beside(path, "old")
    if staging.is_dir() and (path.exists() or path.is_symlink()):  # a folder cannot be renamed over another
        path.rename(old)
    try:
        staging.replace(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    flush(path.parent)
    remove(old)


def recover(path: Path) -> None:
    """Put back or remove what processes of this machine that have ended have left beside `path`.

    What may be another machine's, or is nobody's, stays.
    """
    old = _leftovers(path, "old")
    if not path.exists() and list(old.values()) == [True]:
        old.popitem()[0].rename(path)
    removable = {**_leftovers(path, "staging"), **(old if path.exists() else {})}
    for leftover, has_ended in removable.items():
        if has_ended:
            remove(leftover)


def remove(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove a folder that nobody then sees half removed.

    Raises:
        RunInUseError: It is in a run folder whose lock this process has lost.
    """
    require_lock(folder)
    staging = _beside(folder, "staging")
    folder.rename(staging)
    remove(staging)


def flush_all(path: Path) -> None:
    """Flush a file to disk, or a folder with all in it."""
    if path.is_file():
        flush(path)
        return
    inside = list(os.walk(path))
    with ThreadPoolExecutor() as threads:
        list(threads.map(flush, [Path(folder, name) for folder, _, files in inside for name in files]))
        list(threads.map(flush, [Path(folder) for folder, *_ in inside]))


def flush(path: Path) -> None:
    """Flush one file, or the names in one folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some shared storage flushes no folders
            raise
    finally:
        os.close(descriptor)


def _leftovers(path: Path, kind: str) -> dict[Path, bool]:
    """What writers of `path` have left beside it, and whether they have certainly ended."""
    found = {}
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{kind}-*"):
        process = Process.of_tag(leftover.name.rpartition(f".{kind}-")[2].rpartition(".")[0])
        if process is not None:
            found[leftover] = process.has_ended() is True
    return found


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}-{Process.current().tag}.{uuid4().hex[:8]}")
