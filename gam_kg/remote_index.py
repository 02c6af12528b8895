"""What a run at a URI consists of: the index that is stored there, and the same of a working copy."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gam_kg.artifacts import MANIFEST, Files, describe
from gam_kg.errors import StorageError

TRAINING = "training"
"""Folder of a run whose folders are copied though they are no artifacts."""


@dataclass(frozen=True)
class Copy:
    """A folder of a run, at a URI.

    Attributes:
        place: Where it is below the URI.
        files: Its files.
    """

    place: str
    files: Files


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
                _require_inside(copy.place, *copy.files)
            _require_inside(*folders, *values["files"])
            return cls(folders, values["files"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(f"{name} is damaged ({error}); remove it and make the run anew") from None

    def text(self) -> bytes:
        """What `parse` reads."""
        return json.dumps(asdict(self), sort_keys=True).encode()


def look_at(run: Path, start: str = "") -> tuple[dict[str, Files], Files]:
    """The folders of a run that are copied as a whole, without unfinished or damaged ones, and all other files.

    Nothing hidden is among them, and no links.

    Args:
        run: The run.
        start: How the paths of the folders begin that are looked at; others, and other files, are not.
    """
    folders: dict[str, Files] = {}
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
            elif name.startswith(start) and (files := files_of(run, name)):
                folders[name] = files

    look(run)
    return folders, {} if start else describe(run, others)


def files_of(run: Path, name: str) -> Files | None:
    """The files of a folder that is copied as a whole; None where it is missing, unfinished or damaged."""
    folder = run / name
    if not _is_whole(folder, run):
        return None
    try:
        if not (folder / MANIFEST).is_file():
            inside = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
            return describe(folder, inside) or None
        files: Files = json.loads((folder / MANIFEST).read_bytes())["files"]
        as_written = all((folder / name).stat().st_size == file["bytes"] for name, file in files.items())
        return {**files, **describe(folder, [folder / MANIFEST])} if as_written else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_whole(folder: Path, run: Path) -> bool:
    """Whether a folder is copied as a whole: an artifact, or an interrupted training."""
    return (folder / MANIFEST).is_file() or (folder.parent == run / TRAINING and folder.is_dir())


def _require_inside(*names: str) -> None:
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"it names another place, {name}")
