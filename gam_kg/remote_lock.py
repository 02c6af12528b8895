"""The lock of a run at a URI: an object that names its owner, and whose time of change is the owner's sign of life.

Object stores have, through Arrow, no way to create an object only where there is none. Of two processes that begin in
the same moment the one that wrote last owns the run, which both find out a moment later; and an owner looks again just
before it changes what the run consists of.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from pyarrow.fs import FileSystem, FileType

from gam_kg.errors import RunInUseError, StorageError
from gam_kg.run_lock import LOCK, Found, Holder, new_lock, require_ended
from gam_kg.storage import reaching, write_object

RENEW_SECONDS = 30.0
SETTLE_SECONDS = 1.0
"""How long after writing its lock a process looks whose it is."""

logger = logging.getLogger("gam_kg")


@contextmanager
def remote_lock(
    filesystem: FileSystem, folder: str, uri: str, verb: str, *, take_over: bool = False
) -> Generator[Callable[[], None]]:
    """Own the run at a URI while the block runs.

    Args:
        filesystem: Of the URI.
        folder: The run's place in it.
        uri: For messages.
        verb: What is being done, for messages.
        take_over: Replace a lock of another machine whose process gives no sign of life.

    Yields:
        A function that raises a RunInUseError if the lock has been lost.

    Raises:
        RunInUseError: Another process owns the run, or may.
        StorageError: The storage cannot be used.
    """
    path, contents, ended = f"{folder}/{LOCK}", new_lock(verb), threading.Event()

    def require_own() -> None:
        found = _read(filesystem, path, uri)
        if found is None or found.contents != contents:
            by = f"{Holder.of(found.contents)} has taken it over" if found else "its lock is gone"
            raise RunInUseError(
                f"{uri}: this process has lost the run: {by}. What it has made stays on this machine; start the "
                "command again when nothing else writes there"
            )

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            with suppress(StorageError):  # the next renewal may succeed
                try:
                    require_own()
                except RunInUseError as error:
                    logger.error("%s", error)
                    return
                write_object(filesystem, path, contents, uri)

    if (found := _read(filesystem, path, uri)) is not None:
        require_ended(found, uri, lambda: _now(filesystem, path, uri), take_over=take_over)
        logger.warning("%s: replaced the stale lock of %s which has ended", uri, Holder.of(found.contents))
    write_object(filesystem, path, contents, uri)
    time.sleep(SETTLE_SECONDS)
    require_own()
    thread = threading.Thread(target=renew, name="lock of a run at a URI", daemon=True)
    thread.start()
    try:
        yield require_own
    finally:
        ended.set()
        thread.join()
        with suppress(RunInUseError, StorageError, FileNotFoundError):
            require_own()
            with reaching(uri):
                filesystem.delete_file(path)


def _read(filesystem: FileSystem, path: str, uri: str) -> Found | None:
    with reaching(uri):
        info = filesystem.get_file_info(path)
        if info.type == FileType.NotFound:
            return None
        try:
            with filesystem.open_input_file(path) as file:
                return Found(file.read(), (info.mtime_ns or 0) / 1e9)
        except FileNotFoundError:  # released in this moment
            return None


def _now(filesystem: FileSystem, path: str, uri: str) -> float:
    """The time by the storage's clock."""
    beside = f"{path}.now"
    write_object(filesystem, beside, b"", uri)
    found = _read(filesystem, beside, uri)
    return found.changed if found else time.time()
