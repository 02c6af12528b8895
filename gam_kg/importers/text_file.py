"""Text files as users have them: plain or gzipped, with or without BOM, any line ends, blank lines."""

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar, cast

from gam_kg.errors import DataError

INTEGER = re.compile(r"[+-]?[0-9]+")

_UNDECODED_BYTE = re.compile("[\udc80-\udcff]")

Row = TypeVar("Row")


@contextmanager
def open_text(path: Path) -> Generator[TextIO]:
    """Open a UTF-8 file, unpacking it if its name ends with .gz; line ends stay as they are.

    Raises:
        DataError: The file cannot be read or is not UTF-8; also while the file is in use.
    """
    try:
        with _open(path) as file:
            yield file
    except UnicodeDecodeError:
        with _open(path, errors="surrogateescape") as file:
            line = next(number for number, text in enumerate(file, start=1) if _UNDECODED_BYTE.search(text))
        raise DataError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their number from 1; without a first line that has only a count.

    Raises:
        DataError: As `open_text`.
    """
    first = True
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.rstrip()
            if not text:
                continue
            if not (first and INTEGER.fullmatch(text.strip())):
                yield number, text
            first = False


def parse_lines(path: Path, parse: Callable[[str], Row]) -> Iterator[Row]:
    """What `parse` makes of each of the `numbered_lines`.

    Raises:
        DataError: As `open_text`; or as `parse`, with the file and line in front.
    """
    for number, text in numbered_lines(path):
        try:
            yield parse(text)
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None


def _open(path: Path, errors: str = "strict") -> TextIO:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return cast(TextIO, opener(path, "rt", encoding="utf-8-sig", errors=errors, newline=""))
