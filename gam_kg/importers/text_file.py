"""Text files as users have them: packed or not, in any encoding, with or without BOM, any line ends, blank lines."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO, TypeVar, cast

import pyarrow as pa

from gam_kg.errors import ConfigError, DataError

WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")
MAX_LINE = 1 << 24  # characters; bounds the memory that a file without line ends takes

# What a file begins with, whatever its name.
_UNPACK: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda path: pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"),
}
_NO_TEXT = {
    b"PAR1": "it is a Parquet file, which needs no import; name it in the configuration as data.facts",
    b"PK\x03\x04": "it is a zip archive or a workbook; unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "it is a workbook; save the sheet as CSV",
}
# UTF-32 is before UTF-16, whose mark its own begins with.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UNDECODED = "\udcff"

codecs.register_error("gam_kg.undecoded", lambda error: (_UNDECODED, cast(UnicodeDecodeError, error).end))

Row = TypeVar("Row")
Opening = tuple[str | None, str]  # encoding and key, which `open_text` takes


@contextmanager
def open_text(path: Path, encoding: str | None, key: str) -> Generator[TextIO]:
    """Open a text file, unpacking gzip, bzip2, xz and zstd; line ends stay as they are.

    Args:
        path: The file.
        encoding: Its encoding; None: what its byte order mark says, and UTF-8 where there is none.
        key: The setting that gives the encoding, for messages.

    Raises:
        ConfigError: There is no such encoding.
        DataError: The file cannot be read, is no text or not in its encoding; also while the file is in use.
    """
    try:
        found = _encoding(path, encoding, key)
        try:
            with _open(path, found) as file:
                yield file
        except UnicodeError:
            with _open(path, found, errors="gam_kg.undecoded") as file:
                line = next((number for number, text in enumerate(file, start=1) if _UNDECODED in text), 1)
            raise DataError(
                f"{path}, line {line}: not {found.removesuffix('-sig').upper()} text; name the encoding of the file, "
                f"for instance {key}=cp1252, or save the file as UTF-8"
            ) from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def text_lines(path: Path, file: TextIO) -> Iterator[str]:
    """Lines of an open file with their ends.

    Raises:
        DataError: A line is longer than `MAX_LINE` characters.
    """
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise DataError(f"{path}, line {number}: more than {MAX_LINE:,} characters without an end of the line")
        yield line


def numbered_lines(path: Path, opening: Opening) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their number from 1; without a first line that has only a count.

    Raises:
        DataError: As `open_text` and `text_lines`.
    """
    first = True
    with open_text(path, *opening) as file:
        for number, line in enumerate(text_lines(path, file), start=1):
            text = line.rstrip()
            if not text:
                continue
            if not (first and WHOLE_NUMBER.fullmatch(text.strip())):
                yield number, text
            first = False


def parse_lines(path: Path, parse: Callable[[str], Row], opening: Opening) -> Iterator[Row]:
    """What `parse` makes of each of the `numbered_lines`.

    Raises:
        DataError: As `numbered_lines`; or as `parse`, with the file and line in front.
    """
    for number, text in numbered_lines(path, opening):
        try:
            yield parse(text)
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None


def _encoding(path: Path, encoding: str | None, key: str) -> str:
    """The encoding given, or found at the beginning of the file.

    Raises:
        ConfigError: There is no such encoding.
        DataError: The file is no text, or its byte order mark is of another encoding than the one given.
    """
    with _unpacked(path) as file:
        head = file.read(1024)
    if (reason := _starting(head, _NO_TEXT)) is not None:
        raise DataError(f"cannot read {path}: {reason}")
    marked = _starting(head, _MARKS)
    if encoding is None:
        if marked is None and b"\0" in head:
            raise DataError(
                f"cannot read {path}: it has zero bytes, as only UTF-16 has; if it is that, {key}=utf-16-le"
            )
        return marked or "utf-8"
    try:
        name = codecs.lookup(encoding).name
        "".encode(encoding)
    except LookupError:
        raise ConfigError(f"{key}={encoding}: there is no such encoding; for instance cp1252, latin-1, utf-8") from None
    if marked is not None and name[:5] != marked[:5]:
        mark = marked.removesuffix("-sig").upper()
        raise DataError(f"{path} begins with the mark of {mark}, but {key}={encoding}; remove the setting")
    return marked or encoding


def _starting(head: bytes, beginnings: dict[bytes, Any]) -> Any:
    return next((value for beginning, value in beginnings.items() if head.startswith(beginning)), None)


def _unpacked(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        opener = _starting(file.read(8), _UNPACK)
    return path.open("rb") if opener is None else opener(path)


def _open(path: Path, encoding: str, errors: str = "strict") -> TextIO:
    return io.TextIOWrapper(_unpacked(path), encoding=encoding, errors=errors, newline="")
