"""Errors that are for the user: each message says what was found, what is allowed and what to do.

The command line prints these without a traceback and exits with a non-zero status. Anything else that escapes
is a defect of gam-kg and is printed with its traceback.
"""

import errno
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE),
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE),
}
_IN_PLACE = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


class GamKGError(Exception):
    """Base of every error a user can cause and mend.

    Attributes:
        status: Exit status of a command that ends with it.
    """

    status: ClassVar[int] = 1


class ConfigError(GamKGError):
    """A configuration key or value is unknown, missing or out of range."""


class DataError(GamKGError):
    """The input facts, queries or vocabulary files cannot be used as they are."""


class ArtifactError(GamKGError):
    """An artifact is missing, unfinished, or does not belong with the others."""


class EvaluationError(GamKGError):
    """Scores cannot be ranked, for instance because they are NaN."""


class MemoryPlanError(GamKGError):
    """Training as configured would need more memory than there is."""


class OutOfMemoryError(GamKGError):
    """Memory of a GPU or of the machine ran out."""


class OutputError(GamKGError):
    """A file or folder cannot be written: no space, no permission, or something else is in its place."""


class StorageError(GamKGError):
    """Storage that a URI names is not there, does not answer or refuses the credentials."""


class RunInUseError(GamKGError):
    """Another process is writing into the run's folder."""


class WorkerLostError(GamKGError):
    """Processes were lost again and again while they did the same piece of work."""


class ConnectionLostError(GamKGError):
    """The connection to a job was lost; the job itself may go on."""

    status: ClassVar[int] = 4


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Report that a file or folder cannot be written, while the block writes it or a file beside it named by it.

    Raises:
        OutputError: No space, no permission, a read-only disk, or something else is in its place.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {*_NO_SPACE, errno.EROFS} or _concerns(error, path):
            raise OutputError(_cannot_write(error, path)) from error
        raise


@contextmanager
def exit_status(say: Callable[[str], None]) -> Generator[None]:
    """End the process without a traceback where the block ends with an error of the user or of the machine.

    Args:
        say: Shows what is wrong.

    Raises:
        SystemExit: With the status that `gam-kg --help` says.
    """
    try:
        yield
    except GamKGError as error:
        say(str(error))
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)
    except MemoryError as error:
        say(f"the memory of this machine ran out{f' ({error})' if str(error) else ''}")
        sys.exit(1)
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        say(f"{error.filename or 'the output'}: {error.strerror or error}")
        sys.exit(1)


def _concerns(error: OSError, path: Path) -> bool:
    """Whether the error is about the path, what is in it, a folder above it, or a file beside it named by it."""
    beside = path.with_name(f".{path.name}.")
    if not isinstance(error.filename, str):  # Arrow names files in its messages only
        return any(str(one) in str(error) for one in (path, beside))
    named, path, beside = (one.absolute() for one in (Path(error.filename), path, beside))
    return named in (path, *path.parents) or str(named).startswith((f"{path}/", f"{path}.", str(beside)))


def _cannot_write(error: OSError, path: Path) -> str:
    named = error.filename if isinstance(error.filename, str) else path
    if error.errno in _NO_SPACE:
        advice = "free space, or choose a place on another disk (run_dir for a run)"
    elif error.errno in _IN_PLACE:
        advice = (
            "something else is in its place or above it: move that away, or choose another place (run_dir for a run)"
        )
    else:
        advice = "choose a place that can be written (run_dir for a run)"
    return f"cannot write {named}: {error.strerror or error}; {advice}"
