"""The lock of a run folder: one process at a time writes into it, also where several machines share the folder.

The lock is a file in the folder that names its process. While the process runs, a thread renews the file's time of
change, its sign of life. A process of this machine is looked up; of another machine's only the sign of life is known.
"""

import getpass
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from gam_kg.errors import RunInUseError, writing
from gam_kg.processes import Process
from gam_kg.text import printable

LOCK = ".lock"
RENEW_SECONDS = 5.0
STALE_SECONDS = 120.0
_MOST_BYTES = 10_000

logger = logging.getLogger("gam_kg")


@contextmanager
def run_lock(folder: Path, verb: str, *, take_over: bool = False) -> Generator[None]:
    """Own a run folder while the block runs. A process may enter it again, in any thread.

    A lock whose process is certain to have ended is replaced, with a line in the log.

    Args:
        folder: The run folder, which is made if it is missing.
        verb: What is being done, for messages.
        take_over: Replace a lock of another machine whose process gives no sign of life.

    Raises:
        RunInUseError: Another process owns the folder, or may.
        OutputError: The folder cannot be written.
    """
    with writing(folder / LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        with _guard:
            lock = _owned.get(folder)
            if lock is None:
                lock = _owned[folder] = _Lock(folder / LOCK, new_lock(verb))
                try:
                    _take(lock.path, lock.contents, take_over=take_over)
                    _remove_leftovers(lock.path)
                except BaseException:
                    del _owned[folder]
                    raise
                lock.renewing.start()
            lock.entries += 1
    try:
        yield
    finally:
        with _guard:
            lock.entries -= 1
            if not lock.entries and lock.process == Process.current():  # not in a forked child
                del _owned[folder]
                lock.release()


def require_lock(path: Path) -> None:
    """Refuse to put something in place in a run folder whose lock this process has had and lost.

    Raises:
        RunInUseError: The lock is another process's now, or gone.
    """
    folder = path.parent.resolve()
    for lock in [lock for owned, lock in list(_owned.items()) if owned == folder or owned in folder.parents]:
        found = _read(lock.path)
        if found is None or found.contents != lock.contents:
            by = f"{Holder.of(found.contents)} has taken it over" if found else "its lock file is gone"
            raise RunInUseError(
                f"{lock.path.parent}: this process has lost the run: {by}. {path.name} was not put in place; start the "
                "command again when nothing else writes there"
            )


@dataclass
class _Lock:
    """A lock that this process owns."""

    path: Path
    contents: bytes
    entries: int = 0
    process: Process = field(default_factory=Process.current)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.renewing = threading.Thread(target=self._renew, name="run lock", daemon=True)

    def release(self) -> None:
        self.ended.set()
        with suppress(OSError):
            if (found := _read(self.path)) and found.contents == self.contents:
                self.path.unlink()

    def _renew(self) -> None:
        while not self.ended.wait(RENEW_SECONDS):
            with suppress(OSError):  # the next renewal may succeed
                found = _read(self.path)
                if found is None or found.contents != self.contents:
                    logger.error("%s: this process has lost the run's lock", self.path.parent)
                    return
                os.utime(self.path)  # the storage's time, not this machine's


_owned: dict[Path, _Lock] = {}
_guard = threading.RLock()


@dataclass(frozen=True)
class Found:
    """A lock file as it is read.

    Attributes:
        contents: Its bytes.
        changed: When it was last changed, in seconds of the storage's clock.
    """

    contents: bytes
    changed: float


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names, and what it does."""

    process: Process
    user: str
    verb: str
    since: str

    @classmethod
    def of(cls, contents: bytes) -> "Holder":
        """The holder; of an unknown machine if the file is damaged."""
        try:
            values: dict[str, Any] = json.loads(contents)
            process = Process(**{name: values.pop(name) for name in ("host", "machine", "pid", "started")})
            texts = [values[name] for name in ("user", "verb", "since")]
            if not all(isinstance(one, str) for one in (*texts, process.host, process.machine)):
                raise TypeError
            return cls(Process.of_tag(process.tag) or _NOBODY, *texts)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls(_NOBODY, "an unknown user", "(its lock file is damaged)", "an unknown time")

    def __str__(self) -> str:
        where = f"process {self.process.pid} of {self.user} on {self.process.host}"
        return printable(f"gam-kg {self.verb}, {where}, since {self.since},").replace("\n", "\\n")


_NOBODY = Process("an unknown machine", "unknown", 0, 0)


def new_lock(verb: str) -> bytes:
    """Contents of a lock of this process, which no other lock equals."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"user {os.getuid()}"
    since = datetime.now(UTC).isoformat(timespec="seconds")
    values = {**asdict(Process.current()), "user": user, "verb": verb, "since": since, "token": uuid4().hex}
    return json.dumps(values).encode()


def _take(path: Path, contents: bytes, *, take_over: bool) -> None:
    """Create a lock file, or replace one whose process has ended.

    Of several processes that replace the same file one does: the one with the lock of its replacement, which is taken
    the same way, since a process may end at any point of this.
    """
    while not _create(path, contents):
        found = _read(path)
        if found is None:  # released in this moment
            continue
        require_ended(found, path.parent, lambda: _now(path), take_over=take_over)
        claim = path.with_name(f"{path.name}.{hashlib.sha256(found.contents).hexdigest()[:16]}")
        _take(claim, contents, take_over=take_over)
        try:
            now = _read(path)
            if now is not None and now.contents == found.contents:
                with _written(path, contents) as written:
                    written.replace(path)
                logger.warning("%s: replaced the stale lock of %s which has ended", path, Holder.of(found.contents))
                return
        finally:
            claim.unlink(missing_ok=True)


def require_ended(found: Found, folder: object, now: Callable[[], float], *, take_over: bool) -> None:
    """Refuse a run folder of which a lock is found, unless the owner has ended, or may be taken to have.

    Args:
        found: The lock.
        folder: The run folder, for messages.
        now: The time by the storage's clock.
        take_over: Whether an owner on another machine that gives no sign of life counts as ended.

    Raises:
        RunInUseError: The owner is at work, or may be.
    """
    holder = Holder.of(found.contents)
    ended = holder.process.has_ended()
    if ended:
        return
    silent = now() - found.changed if ended is None else None
    if silent is not None and silent > STALE_SECONDS:
        if take_over:
            return
        raise RunInUseError(
            f"{folder}: its lock is stale: {holder} has given no sign of life for {silent / 60:.0f} minutes. Make sure "
            "that it has ended, then give the same command with --take-over; or set run_dir to another folder"
        )
    raise RunInUseError(
        f"{folder} is in use: {holder} is writing there. Wait until it has ended, end it, or set run_dir to another "
        "folder"
    )


def _now(path: Path) -> float:
    with _written(path, b"") as written:
        return written.stat().st_mtime


def _create(path: Path, contents: bytes) -> bool:
    """Create a file with these contents at once; False if there is one."""
    with _written(path, contents) as written:
        try:
            os.link(written, path)
        except FileExistsError:
            return False
        except OSError:  # storage without hard links
            try:
                with path.open("xb") as file:
                    file.write(contents)
            except FileExistsError:
                return False
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove what processes have left beside a lock of this process that ended while they took one.

    The lock of a replacement serves only while the lock that it replaces is there, and that one is not any more.
    """
    for leftover in path.parent.glob(f"{LOCK}.*"):
        process = Process.of_tag(leftover.name.rpartition(".new-")[2].rpartition(".")[0])
        if process is None and (found := _read(leftover)) is not None:
            process = Holder.of(found.contents).process
        if process is not None and process.has_ended():
            leftover.unlink(missing_ok=True)


@contextmanager
def _written(path: Path, contents: bytes) -> Generator[Path]:
    """A file beside a path with these contents, while the block runs."""
    written = path.with_name(f"{path.name}.new-{Process.current().tag}.{uuid4().hex[:8]}")
    try:
        written.write_bytes(contents)
        yield written
    finally:
        written.unlink(missing_ok=True)


def _read(path: Path) -> Found | None:
    try:
        # Opened, shared storage shows its latest state. Nobody may ever write into what is a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return Found(file.read(_MOST_BYTES), os.fstat(file.fileno()).st_mtime)
    except FileNotFoundError:
        return Found(b"", path.lstat().st_mtime) if path.is_symlink() else None
    except IsADirectoryError:
        return Found(b"", path.stat().st_mtime)
