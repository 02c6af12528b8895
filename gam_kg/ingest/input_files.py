"""The files at a place (a path, glob or URI): each is read, or left out with a reason; none is passed over."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs
from pyarrow.fs import FileInfo, FileSystem, FileType, LocalFileSystem

from gam_kg.errors import DataError
from gam_kg.storage import is_remote, meaning, open_uri, require_bucket
from gam_kg.text import is_uri, user_path

THREADS = 8

_PARQUET = (".parquet", ".pq", ".parq")
_TEXT = tuple(f".{table}{packed}" for table in ("csv", "tsv", "txt") for packed in ("", ".gz", ".bz2"))
_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".crdownload", ".inprogress", ".bak", ".swp", "~")
_OTHER_FORMATS = {
    b"PARE": "encrypted Parquet",
    b"ORC": "ORC",
    b"Obj\x01": "Avro",
    b"ARROW1": "Arrow IPC",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
# The folders of these tables have files of rows that were deleted or replaced.
_TABLE_LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
_ICEBERG_LOG = ".metadata.json"
_NULL = "__HIVE_DEFAULT_PARTITION__"
_WILDCARDS = "*?["


@dataclass(frozen=True)
class FoundFile:
    """An input file.

    Attributes:
        path: For the filesystem.
        name: For messages and the quarantine: as the user would write it.
        format: "parquet", or "text" for CSV and TSV.
        folders: Key → value of the folders `key=value` between the place and the file; None for null.
        version: Size and time of the last change, by which a change while it is read is noticed.
    """

    path: str
    name: str
    format: Literal["parquet", "text"]
    folders: dict[str, str | None]
    version: tuple[int, int | None]


@dataclass(frozen=True)
class Listed:
    """A file before it is opened.

    Attributes:
        path: For the filesystem.
        name: For messages.
        parts: The folders below the place, and the file's name; none if the place is the file.
        pattern: What `parts` match.
    """

    path: str
    name: str
    parts: tuple[str, ...]
    pattern: tuple[str, ...] = ()

    @property
    def hidden(self) -> bool:
        return _is_hidden(self.parts) and not _is_hidden(self.pattern)

    def reason(self, *, local: bool = True) -> str | None:
        """Why it is left out whatever its content is, if it is; `local`: whether it is on this machine.

        Raises:
            DataError: It is a link that leads nowhere.
        """
        if self.hidden:
            return "hidden"
        if local and not os.path.exists(self.path):
            raise DataError(f"{self.name} is a link that leads nowhere; mend or remove it")
        if local and not os.path.isfile(self.path):
            return "not a regular file"
        return "temporary" if self.parts and self.name.lower().endswith(_TEMPORARY) else None


def find_files(
    place: str, key: str, *, text_tables: bool = False
) -> tuple[FileSystem, tuple[FoundFile, ...], dict[str, list[str]]]:
    """Find the files at a place, and look at the first and last bytes of each.

    Args:
        place: A file, a folder, a glob (folders that match are searched) or a URI of one of these. Links are followed.
        key: The configuration key that names it, for messages.
        text_tables: Whether files that end as CSV and TSV do are read too.

    Returns:
        (what the files are read from, the files by name, reason → names of the files left out).

    Raises:
        ConfigError: There is no such home folder as `~` names.
        DataError: There is nothing to read, something cannot be read, or it is a table with a log of its own.
    """
    try:
        if is_uri(place):
            filesystem, listed = _list_uri(place)
        else:
            filesystem, listed = LocalFileSystem(), list_local(str(user_path(place, key)))
        listed.sort(key=lambda one: one.name)
        _refuse_tables(listed)
        with ThreadPoolExecutor(THREADS) as pool:
            looked = list(pool.map(lambda one: _look(filesystem, one, text_tables), listed))
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = meaning(error) if is_remote(place) else f"cannot be read ({error})"
        raise DataError(f"{key}={place}: {reason}") from None
    files, left_out = _without_repeats(filesystem, [found for found in looked if isinstance(found, FoundFile)])
    for one, reason in zip(listed, looked, strict=True):
        if isinstance(reason, str):
            left_out.setdefault(reason, []).append(one.name)
    if not files:
        others = f"; left out there: {describe_left_out(left_out)}" if left_out else ""
        kind = "Parquet, CSV or TSV" if text_tables else "Parquet"
        hint = "" if text_tables else "; CSV, TSV and folders of text files become Parquet with `gam-kg import`"
        raise DataError(
            f"{key}={place}: no {kind} file there{others}. Give a {kind} file, a folder with such files, a glob or a "
            f"URI{hint}"
        )
    return filesystem, tuple(files), left_out


def describe_left_out(left_out: dict[str, list[str]]) -> str:
    """The files left out in words: how many for each reason, with an example."""
    return ", ".join(f"{len(names)} {reason} ({names[0]})" for reason, names in sorted(left_out.items()))


def list_local(place: str, scheme: str = "") -> list[Listed]:
    """The files at a path or glob on this machine, in no order; `scheme` is put before their names.

    Raises:
        OSError: A folder cannot be read.
    """
    if os.path.isfile(place):
        return [Listed(os.path.abspath(place), scheme + place, ())]
    if os.path.isdir(place):
        base, matches = place, [place]
    else:
        base, matches = _fixed(place), glob.glob(place, recursive=True, include_hidden=True)
    pattern = Path(place.removeprefix(base)).parts
    # Tasks read in other working directories than the user's.
    return [
        Listed(os.path.abspath(path), scheme + path, Path(os.path.relpath(path, base)).parts, pattern)
        for path in dict.fromkeys(path for match in matches for path in _below(match, ()))
    ]


def _below(path: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """The files at and below a path; `above` identifies the folders around it, so that links in a circle end."""
    if not os.path.isdir(path):
        yield path
        return
    identity = _identity(path)
    if identity not in above:
        for name in os.listdir(path):
            yield from _below(os.path.join(path, name), (*above, identity))


def _list_uri(uri: str) -> tuple[FileSystem, list[Listed]]:
    place, mark, options = uri.partition("?")
    scheme = place.partition(":")[0] + "://"
    filesystem, path = open_uri(uri)
    rest = ""
    if filesystem.get_file_info(path).type == FileType.NotFound and any(char in place for char in _WILDCARDS):
        # Only the part before the first wildcard is a path; the files below it are matched against the rest.
        base = _fixed(place)
        rest = place.removeprefix(base)
        filesystem, path = open_uri(base + mark + options)
    if isinstance(filesystem, LocalFileSystem):
        return filesystem, list_local(os.path.join(path, unquote(rest)) if rest else path, scheme)
    if filesystem.get_file_info(path).type == FileType.File:
        return filesystem, [Listed(path, scheme + path, ())]
    pattern = PurePosixPath(rest).parts
    selector = pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True)
    files = [file.path for file in filesystem.get_file_info(selector) if file.type != FileType.Directory]
    if not files:
        require_bucket(filesystem, path, uri)
    inner = {file: PurePosixPath(file.removeprefix(path).lstrip("/")).parts for file in files}
    return filesystem, [
        Listed(file, scheme + file, parts, pattern) for file, parts in inner.items() if _matches(parts, pattern)
    ]


def _fixed(pattern: str) -> str:
    """The folder in which a pattern begins: what is before the first name with a wildcard."""
    first = min((pattern.find(char) for char in _WILDCARDS if char in pattern), default=len(pattern))
    return pattern[: pattern.rfind("/", 0, first) + 1]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a file, or a folder that it is in, matches a glob."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _refuse_tables(listed: Iterable[Listed]) -> None:
    for one in listed:
        logs = [table for folder, table in _TABLE_LOGS.items() if folder in one.parts[:-1]]
        if one.parts[-2:-1] == ("metadata",) and one.name.endswith(_ICEBERG_LOG):
            logs = ["Iceberg"]
        if logs:
            raise DataError(
                f"{one.name} is of a {logs[0]} table, whose folder has files of deleted and replaced rows too; write "
                "its rows to a Parquet file and give that"
            )


def _look(filesystem: FileSystem, one: Listed, text_tables: bool) -> FoundFile | str:
    """The file as it is read, or the reason why it is left out."""
    local = isinstance(filesystem, LocalFileSystem)
    reason = one.reason(local=local)
    may_look = local and os.path.isfile(one.path) and os.access(one.path, os.R_OK)
    if reason is not None and not (one.hidden and may_look):
        return reason
    info = filesystem.get_file_info(one.path)
    with filesystem.open_input_file(one.path) as file:
        size = file.size()
        start = file.read(8)
        file.seek(max(size - 4, 0))
        is_parquet = start[:4] == b"PAR1" or file.read(4) == b"PAR1"
    name, is_place = one.name.lower(), not one.parts
    if one.hidden:
        return "hidden Parquet" if is_parquet else "hidden"
    if not (is_parquet or is_place or name.endswith(_PARQUET) or (text_tables and name.endswith(_TEXT))):
        known = (found for magic, found in _OTHER_FORMATS.items() if start.startswith(magic))
        return "empty" if not size else next(known, "text table" if name.endswith(_TEXT) else "of another format")
    is_text = text_tables and not is_parquet and (name.endswith(_TEXT) or (is_place and not name.endswith(_PARQUET)))
    return FoundFile(one.path, one.name, "text" if is_text else "parquet", _folders(one), version_of(info))


def version_of(info: FileInfo) -> tuple[int, int | None]:
    """`FoundFile.version` of a file."""
    return info.size, info.mtime_ns


def _folders(one: Listed) -> dict[str, str | None]:
    folders: dict[str, str | None] = {}
    for part in one.parts[:-1]:
        key, equals, value = part.partition("=")
        if not equals or not key:
            continue
        if unquote(key) in folders:
            raise DataError(f"{one.name}: two of its folders are named {unquote(key)}=...; rename one of them")
        folders[unquote(key)] = None if value == _NULL else unquote(value)
    return folders


def _without_repeats(filesystem: FileSystem, files: list[FoundFile]) -> tuple[list[FoundFile], dict[str, list[str]]]:
    """The files without those that a link leads to a second time, which are left out."""
    if not isinstance(filesystem, LocalFileSystem):
        return files, {}
    first: dict[object, FoundFile] = {}
    for file in files:
        first.setdefault((_identity(file.path), tuple(file.folders.items())), file)
    read = [*first.values()]
    repeated = sorted({file.name for file in files} - {file.name for file in read})
    return read, {"read already under another name": repeated} if repeated else {}


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(("_", ".")) for part in parts)


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
