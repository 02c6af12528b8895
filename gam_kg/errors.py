"""Errors that are for the user: each message says what was found, what is allowed and what to do.

The command line prints these without a traceback and exits with a non-zero status. Anything else that escapes
is a defect of gam-kg and is printed with its traceback.
"""

from typing import ClassVar


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


class OutputError(GamKGError):
    """A file or folder cannot be written: no space, no permission, or something else is in its place."""


class RunInUseError(GamKGError):
    """Another process is writing into the run's folder."""


class ConnectionLostError(GamKGError):
    """The connection to a job was lost; the job itself may go on."""

    status: ClassVar[int] = 4
