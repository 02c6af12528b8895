"""Text that comes from data or from a user: made fit to be shown, and read as a path."""

import re
from pathlib import Path

from gam_kg.errors import ConfigError

NO_URI = "a URI is not allowed here; give a path on this machine or on storage that is mounted on it"

# Control characters, those that change the direction of writing or begin a line, and surrogates, except line ends.
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one letter is a drive


def printable(text: str) -> str:
    """The text with control characters written as escapes, so that a name cannot steer a terminal; line ends stay."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_uri(path: str) -> bool:
    """Whether a path names a place by its scheme, as s3://bucket/folder and file:///folder do."""
    return _SCHEME.match(path) is not None


def user_path(path: str, key: str) -> Path:
    """A path on this machine as a user writes it, with ~ expanded; it may be relative.

    Args:
        path: The path.
        key: The configuration key or flag that gives it, for messages.

    Raises:
        ConfigError: It is a URI or no path, or ~ names no known home.
    """
    if not path.strip() or "\0" in path:
        raise ConfigError(f"{key}={quoted(path)}: expected a path")
    if is_uri(path):
        raise ConfigError(f"{key}={path}: {NO_URI}")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{key}={path}: there is no such home folder; write the path out") from None


def error_line(error: BaseException, index: int = 0) -> str:
    """One line of what an error says, without a full stop; its class where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[index].rstrip(". ")


def quoted(value: object, length: int = 100) -> str:
    """A value as Python writes it, for messages: cut where it is long, and without control characters."""
    text = repr(value[: length + 1] if isinstance(value, str) else value)
    return printable(text if len(text) <= length else f"{text[:length]}…")
