"""Text files as people hand them over: plain or gzipped, with or without BOM, any line ends, blank lines."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from gam_kg.errors import DataError

INTEGER = re.compile(r"[+-]?[0-9]+")


def open_text(path: Path) -> TextIO:
    """Open a UTF-8 file, unpacking it if its name ends with .gz; line ends are left as they are."""
    if _is_gzip(path):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that hold something, with their number from 1; without a first line that holds only a count.

    Raises:
        DataError: The file cannot be read or is not UTF-8.
    """
    first = True
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                text = line.rstrip()
                if not text:
                    continue
                if not (first and INTEGER.fullmatch(text.strip())):
                    yield number, text
                first = False
    except UnicodeDecodeError:
        raise DataError(not_utf8(path)) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def not_utf8(path: Path) -> str:
    """The message for a file that is not UTF-8, with its first bad line."""
    with _open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f"{path}, line {number}: not UTF-8 text; save the file as UTF-8"
    return f"{path}: not UTF-8 text; save the file as UTF-8"


def _open_bytes(path: Path) -> BinaryIO | gzip.GzipFile:
    if _is_gzip(path):
        return gzip.open(path, "rb")
    return path.open("rb")


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"
