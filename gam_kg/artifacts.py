"""Artifacts: a folder of files that is either whole, with a `manifest.json`, or absent.

`write_artifact` writes the files into a temporary folder, the manifest last, and renames the folder. A reader opens the
manifest first and refuses a folder that has none, is of another kind or schema version, or was made from other inputs.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gam_kg.errors import ArtifactError
from gam_kg.schemas import SCHEMA_VERSION

MANIFEST = "manifest.json"
_REDO = "redo the stage with --force"

Content = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """The description of an artifact.

    Attributes:
        kind: "graph", "checkpoint", "embeddings", ...
        key: Hash of the inputs and the settings; equal keys mean equal contents.
        inputs: Name → id of each artifact (or hash of each file) that it was made from.
        config: The settings that it was made with.
        content: Counts and facts about the contents, by kind.
    """

    kind: str
    key: str
    inputs: dict[str, str]
    config: dict[str, Any]
    content: Content = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, inputs: dict[str, str], config: dict[str, Any]) -> "Manifest":
        """The manifest, still without content, of what is to be made from these inputs with these settings."""
        values = {"kind": kind, "inputs": inputs, "config": config, "schema_version": SCHEMA_VERSION}
        return cls(kind, _digest(values), inputs, config)

    @property
    def id(self) -> str:
        """Hash of everything except the package versions: what other artifacts refer to."""
        return _digest({name: value for name, value in vars(self).items() if name != "versions"})


def write_artifact(path: Path, manifest: Manifest, write: Callable[[Path], Content]) -> Manifest:
    """Write an artifact, which replaces the one in the folder `path` when it is whole.

    Args:
        path: The artifact's folder.
        manifest: See `Manifest.of`.
        write: Writes the files into the empty folder that it receives, and returns the content.

    Returns:
        The manifest with the content.
    """
    with replacing(path) as staging:
        staging.mkdir()
        return write_manifest(staging, replace(manifest, content=write(staging)))


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Replace a file or a folder by a whole one, or not at all.

    Yields:
        A path beside it, where nothing is. What the block makes there takes the place of `path` when the block ends
        without an error, and is removed otherwise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    staging = path.with_name(f".{path.name}.staging-{os.getpid()}")
    _remove(staging)
    try:
        yield staging
        put_in_place(staging, path)
    finally:
        _remove(staging)


def put_in_place(staging: Path, path: Path) -> None:
    """Rename a finished file or folder to `path`, in place of what is there."""
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    if staging.is_dir() and path.exists():  # a folder cannot be renamed over another
        path.rename(old)
    staging.replace(path)
    _remove(old)


def recover(path: Path) -> None:
    """Put back or remove what writers that were killed have left beside `path`."""
    for kind in ("old", "staging"):
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.{kind}-*"):
            if _is_running(int(leftover.name.rpartition("-")[2])):
                continue
            if kind == "old" and not path.exists():
                leftover.rename(path)
            else:
                _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest, the last file of an artifact."""
    values = {**vars(manifest), "versions": _versions(), "id": manifest.id}
    with replacing(folder / MANIFEST) as staging, staging.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    return manifest


def read_manifest(path: Path, kind: str) -> Manifest:
    """Open an artifact.

    Raises:
        ArtifactError: There is no finished artifact of this kind and schema version at `path`.
    """
    try:
        values = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        recorded, found = values.pop("id", None), values.get("schema_version")
        if found != SCHEMA_VERSION:
            raise ArtifactError(f"{path}: schema version {found}, this gam-kg reads {SCHEMA_VERSION}; {_REDO}")
        manifest = Manifest(**values)
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: no finished {kind} artifact (no {MANIFEST}); run the stage that makes it"
        ) from None
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{path / MANIFEST} is damaged ({error}); {_REDO}") from None
    if manifest.kind != kind:
        raise ArtifactError(f"{path}: found a {manifest.kind} artifact, expected {kind}")
    if manifest.id != recorded:
        raise ArtifactError(f"{path / MANIFEST} was changed after it was written; {_REDO}")
    return manifest


def require_same(name: str, found: str, expected: str, path: Path) -> None:
    """Refuse an artifact made from another `name` than the one in use.

    Raises:
        ArtifactError: The two ids differ.
    """
    if found != expected:
        raise ArtifactError(f"{path} was made from another {name} ({found}, here {expected}); redo its stage")


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    found = {}
    for package in ("gam-kg", "torch", "torch-geometric", "pyarrow", "pandas", "ray"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found
