"""Artifacts: a folder of files that is either whole, with a `manifest.json`, or absent.

A writer stages into a temporary sibling folder, writes the manifest last and renames. A reader opens the manifest
first and refuses a folder that has none, is of another kind or schema version, or was made from other inputs.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gam_kg.errors import ArtifactError
from gam_kg.schemas import SCHEMA_VERSION

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself.

    Attributes:
        kind: "graph", "checkpoint", "embeddings", ...
        key: Hash of the inputs and the configuration part that made it; equal keys mean equal contents.
        inputs: Name → id of each artifact (or hash of each file) it was made from.
        config: The resolved configuration part that made it.
        content: Counts and facts about the contents, by kind.
    """

    kind: str
    key: str
    inputs: dict[str, str]
    config: dict[str, Any]
    content: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Hash of everything but the package versions: what other artifacts refer to."""
        values = {name: value for name, value in vars(self).items() if name != "versions"}
        return _digest(values)


def stage_key(kind: str, inputs: dict[str, str], config: dict[str, Any]) -> str:
    """The key that an artifact made from these inputs and this configuration carries."""
    return _digest({"kind": kind, "inputs": inputs, "config": config, "schema_version": SCHEMA_VERSION})


@contextmanager
def writing(path: Path) -> Generator[Path]:
    """Stage an artifact: yields an empty folder that replaces `path` when the block ends with a manifest in it.

    Raises:
        ArtifactError: The block ended without `write_manifest`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clean_up(path)
    staging = path.with_name(f".{path.name}.staging-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        if not (staging / MANIFEST).exists():
            raise ArtifactError(f"{path}: the stage ended without a manifest; nothing was replaced")
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        if path.exists():
            path.rename(old)
        staging.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _clean_up(path: Path) -> None:
    """Put back or remove what writers that were killed have left beside an artifact."""
    for kind in ("old", "staging"):
        for leftover in path.parent.glob(f".{path.name}.{kind}-*"):
            if _is_running(int(leftover.name.rpartition("-")[2])):
                continue
            if kind == "old" and not path.exists():
                leftover.rename(path)
            else:
                shutil.rmtree(leftover, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest, atomically and last."""
    values = {**vars(manifest), "versions": _versions(), "id": manifest.id}
    temporary = folder / f".{MANIFEST}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / MANIFEST)
    return manifest


def read_manifest(path: Path, kind: str) -> Manifest:
    """Open an artifact.

    Raises:
        ArtifactError: There is no finished artifact of this kind and schema version at `path`.
    """
    try:
        values = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: no finished {kind} artifact here (no {MANIFEST}); run the stage that makes it"
        ) from None
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path / MANIFEST} is damaged ({error}); redo the stage with --force") from None
    recorded = values.pop("id", None)
    if values.get("schema_version") != SCHEMA_VERSION:
        found = values.get("schema_version")
        raise ArtifactError(
            f"{path}: schema version {found}, this gam-kg reads {SCHEMA_VERSION}; redo the stage with --force"
        )
    try:
        manifest = Manifest(**values)
    except TypeError as error:
        raise ArtifactError(f"{path / MANIFEST} is damaged ({error}); redo the stage with --force") from None
    if manifest.kind != kind:
        raise ArtifactError(f"{path}: holds a {manifest.kind} artifact, expected {kind}")
    if manifest.id != recorded:
        raise ArtifactError(f"{path / MANIFEST} was changed after it was written; redo the stage with --force")
    return manifest


def require_same(name: str, found: str, expected: str, path: Path) -> None:
    """Refuse an artifact made from another `name` than the one at hand.

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
