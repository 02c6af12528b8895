"""What a run at a URI consists of: the index that is stored there, and the same of a working copy."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gam_kg.artifacts import MANIFEST, Files, describe
from gam_kg.errors import StorageError

TRAINING = "training"
"""Folder of a run whose folders are copied though they are no artifacts."""


@dataclass(frozen=True)
class Folder:
    """A folder of a run.

    Attributes:
        files: Its files, hidden ones left out.
        times: When its manifest was written, and each mark, a hidden file without content: name → nanoseconds.
    """

    files: Files
    times: dict[str, int]

    def restore_times(self, path: Path) -> None:
        """Give the manifest and the marks in a folder the times that they have here; other marks are removed."""
        for name in _times(path).keys() - self.times.keys():
            (path / name).unlink()
        for name, time in self.times.items():
            (path / name).touch()
            os.utime(path / name, ns=(time, time))


@dataclass(frozen=True)
class Copy(Folder):
    """A folder of a run at a URI.

    Attributes:
        place: Where it is below the URI.
    """

    place: str


@dataclass(frozen=True)
class Index:
    """What a run at a URI consists of.

    Attributes:
        folders: Folders of the run that are copied as a whole, by their paths in it.
        files: All other files.
    """

    folders: dict[str, Copy] = field(default_factory=dict)
    files: Files = field(default_factory=dict)

    @classmethod
    def parse(cls, text: bytes, name: object) -> "Index":
        """The index of a JSON text; `name` is for messages.

        Raises:
            StorageError: It is damaged.
        """
        try:
            values = json.loads(text)
            folders = {path: Copy(**copy) for path, copy in values["folders"].items()}
            for copy in folders.values():
                _require_inside(copy.place, *copy.files, *copy.times)
            _require_inside(*folders, *values["files"])
            return cls(folders, values["files"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(f"{name} is damaged ({error}); remove it and make the run anew") from None

    def text(self) -> bytes:
        """What `parse` reads."""
        return json.dumps(asdict(self), sort_keys=True).encode()


def look_at(run: Path, start: str = "") -> tuple[dict[str, Folder], Files]:
    """The folders of a run that are copied as a whole, without unfinished or damaged ones, and all other files.

    Nothing hidden is among them, and no links.

    Args:
        run: The run.
        start: How the paths of the folders begin that are looked at; others, and other files, are not.
    """
    folders: dict[str, Folder] = {}
    others: list[Path] = []

    def look(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            name = path.relative_to(run).as_posix()
            if path.name.startswith(".") or path.is_symlink():
                continue
            if path.is_file():
                others.append(path)
            elif not _is_whole(path, run):
                look(path)
            elif name.startswith(start) and (found := folder_of(run, name)):
                folders[name] = found

    look(run)
    return folders, {} if start else describe(run, others)


def folder_of(run: Path, name: str) -> Folder | None:
    """A folder of a run that is copied as a whole; None where it is missing, unfinished or damaged."""
    folder = run / name
    if not _is_whole(folder, run):
        return None
    try:
        if not (folder / MANIFEST).is_file():
            inside = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
            return Folder(describe(folder, inside), {}) if inside else None
        files: Files = json.loads((folder / MANIFEST).read_bytes())["files"]
        as_written = all((folder / name).stat().st_size == file["bytes"] for name, file in files.items())
        found = Folder({**files, **describe(folder, [folder / MANIFEST])}, _times(folder))
        return found if as_written else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _times(folder: Path) -> dict[str, int]:
    marks = [path for path in folder.glob(".*") if path.is_file() and not path.stat().st_size]
    return {path.name: path.stat().st_mtime_ns for path in (*folder.glob(MANIFEST), *marks)}


def _is_whole(folder: Path, run: Path) -> bool:
    """Whether a folder is copied as a whole: an artifact, or an interrupted training."""
    return (folder / MANIFEST).is_file() or (folder.parent == run / TRAINING and folder.is_dir())


def _require_inside(*names: str) -> None:
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"it names another place, {name}")
