"""Artifacts: a folder of files that is either whole, with a `manifest.json`, or absent.

`write_artifact` writes the files into a temporary folder, the manifest last, and renames the folder. The manifest has
the size and the digest of every file. A reader opens the manifest first and refuses a folder that has none, is of
another kind or schema version, was made from other inputs, or has other files than were written.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from gam_kg.errors import ArtifactError
from gam_kg.output import flush_all, replacing
from gam_kg.schemas import SCHEMA_VERSION

MANIFEST = "manifest.json"
LOGS = ("metrics.jsonl",)
"""Files that tell how long something took: verified as all others are, but no part of what an artifact is."""

BESIDE = ("over_time.parquet",)
"""Files in the folder of an artifact that are no part of it, as they grow after it was written."""

_VERBS = {
    "graph": "prepare",
    "checkpoint": "train",
    "training": "train",
    "evaluation": "evaluate",
    "state": "evaluate",
    "embeddings": "embed",
    "predictions": "predict",
    "synthetic": "generate",
    "update": "update",
    "index": "index",
    "export": "export",
}
_ARGUMENTS = {"synthetic": "OUT", "update": "RUN", "index": "RUN", "export": "RUN FORMAT OUT"}
_READ = (".parquet", ".safetensors")  # found by their endings, so that one too many would be read
_MOST_JSON_BYTES = 2**28
_MANY_BYTES = 2**24

Content = dict[str, Any]
Result = TypeVar("Result")
Files = dict[str, dict[str, Any]]
"""Path in a folder → `bytes` and `sha256` of the file."""


@dataclass(frozen=True)
class Manifest:
    """The description of an artifact.

    Attributes:
        kind: "graph", "checkpoint", "embeddings", ...
        key: Hash of the inputs and the settings; equal keys mean equal contents.
        inputs: Name → id of each artifact (or hash of each file) that it was made from.
        config: The settings that it was made with.
        content: Counts and facts about the contents, by kind.
        files: Size and digest of each file but the manifest.
        sources: Configuration key → where the input files were and what they looked like, see `gam_kg.workflow.inputs`.
        schema_version: Version of the layout of artifacts.
        versions: Package → the version that wrote it.
    """

    kind: str
    key: str
    inputs: dict[str, str]
    config: dict[str, Any]
    content: Content = field(default_factory=dict)
    files: Files = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, inputs: dict[str, str], config: dict[str, Any]) -> "Manifest":
        """The manifest, still without content, of what is to be made from these inputs with these settings."""
        values = {"kind": kind, "inputs": inputs, "config": config, "schema_version": SCHEMA_VERSION}
        return cls(kind, _digest(values), inputs, config)

    @cached_property
    def id(self) -> str:
        """Hash of everything except `sources`, `versions` and `LOGS`: what other artifacts refer to."""
        files = {name: file for name, file in self.files.items() if name not in LOGS}
        described = {name: value for name, value in vars(self).items() if name not in ("sources", "versions")}
        return _digest(described | {"files": files})


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


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Flush the files of an artifact to disk and write the manifest, the last of them.

    Returns:
        The manifest with the files.
    """
    manifest = replace(manifest, files=describe(folder, [path for path in _files(folder) if path.name != MANIFEST]))
    flush_all(folder)
    save_manifest(folder, replace(manifest, versions=_versions()))
    return manifest


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest as it is."""
    values = {**vars(manifest), "id": manifest.id, "beside_id": _beside_id(manifest)}
    with replacing(folder / MANIFEST) as staging:
        staging.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def open_artifact(path: Path, kind: str, *, part: str = "", share: tuple[int, int] = (0, 1)) -> Manifest:
    """Open an artifact whose files are those that were written, each to the last bit.

    Args:
        path: Its folder.
        kind: Its kind.
        part: How the names of the files that will be read begin; the others are not looked at.
        share: (rank, world size) where each rank looks at some of the files, and together they look at all.

    Raises:
        ArtifactError: See `read_manifest`; or a file is missing, was added, or is not what was written.
    """
    manifest = read_manifest(path, kind)
    names = [name for name in manifest.files if name.startswith(part)]
    for name in changed_files(path, {name: manifest.files[name] for name in names[share[0] :: share[1]]}):
        raise ArtifactError(f"{path / name} was changed or damaged after it was written; {redo(kind)}")
    for file in _files(path):
        name = file.relative_to(path).as_posix()
        if file.suffix in _READ and name not in manifest.files and name not in BESIDE:
            raise ArtifactError(f"{file} is no file of this {kind} artifact; remove it, or {redo(kind)}")
    return manifest


def describe(folder: Path, paths: Sequence[Path]) -> Files:
    """Size and digest of files in a folder, by their paths in it."""
    names = [path.relative_to(folder).as_posix() for path in paths]
    return dict(zip(names, _of_each(_described, paths), strict=True))


def changed_files(folder: Path, files: Files) -> list[str]:
    """Those of the files that are missing or not as they were described."""
    places = {folder / name: name for name in files}
    same = _of_each(lambda path: _is_as_described(path, files[places[path]]), list(places))
    return [name for name, is_same in zip(files, same, strict=True) if not is_same]


def read_json(path: Path, kind: str) -> Any:
    """The values of a JSON file of an artifact of a kind.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    try:
        return _load_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); {redo(kind)}") from None


def read_manifest(path: Path, kind: str) -> Manifest:
    """The manifest of an artifact, whose files are not looked at.

    Raises:
        ArtifactError: There is no finished artifact of this kind and schema version at `path`.
    """
    file = path / MANIFEST
    try:
        values = _load_json(file)
        recorded, found = [values.pop(name, None) for name in ("id", "beside_id")], values.get("schema_version")
        if found != SCHEMA_VERSION:
            raise ArtifactError(f"{path}: schema version {found}, this gam-kg reads {SCHEMA_VERSION}; {redo(kind)}")
        manifest = Manifest(**values)
        same = [manifest.id, _beside_id(manifest)] == recorded and _is_well_formed(manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{path}: no finished {kind} artifact (no {MANIFEST}); make it: {command(kind)}") from None
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{file} is damaged ({error}); {redo(kind)}") from None
    if not same:
        raise ArtifactError(f"{file} was changed after it was written; {redo(kind)}")
    if manifest.kind != kind:
        raise ArtifactError(f"{path}: found a {manifest.kind} artifact, expected {kind}; {redo(kind)}")
    return manifest


def redo(kind: str) -> str:
    """What to do about a damaged artifact of a kind."""
    if kind == "update":
        return f"remove it and all updates after it, and add their facts again: {command(kind)}"
    if kind == "folded":
        return f"{command('update')} writes it anew"
    return f"redo it: {command(kind)} --force"


def require_same(name: str, found: str, expected: str, path: Path) -> None:
    """Refuse an artifact made from another `name` than the one in use.

    Raises:
        ArtifactError: The two ids differ.
    """
    if found != expected:
        raise ArtifactError(
            f"{path} was made from another {name} ({found}, here {expected}); make it anew: {command(path.name)}"
        )


def command(kind: str) -> str:
    """The command that makes an artifact of a kind."""
    return f"gam-kg {_VERBS.get(kind, kind)} {_ARGUMENTS.get(kind, 'CONFIG')}"


def _load_json(path: Path) -> Any:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_JSON_BYTES:
        raise ValueError("it is no file of a JSON file's size")
    return json.loads(path.read_text(encoding="utf-8"))


def _of_each(function: Callable[[Path], Result], paths: Sequence[Path]) -> list[Result]:
    """What a function that reads a whole file returns of each, in threads where it reads for longer than they start."""
    sizes = (path.stat().st_size for path in paths if path.is_file())
    if sum(sizes) < _MANY_BYTES:
        return [function(path) for path in paths]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(function, paths))


def _files(folder: Path) -> list[Path]:
    """The files of an artifact, sorted; hidden ones, as shared storage and file managers make them, are left out."""
    found = [Path(inner, name) for inner, _, names in os.walk(folder) for name in names if not name.startswith(".")]
    return sorted(found)


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _is_as_described(path: Path, described: dict[str, Any]) -> bool:
    try:
        found = path.stat()  # first, since reading what is no file, as a pipe, may never end
        same_size = stat.S_ISREG(found.st_mode) and found.st_size == described["bytes"]
        return same_size and _sha256(path) == described["sha256"]
    except (OSError, ValueError, TypeError, KeyError):  # the description may be damaged too
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_well_formed(manifest: Manifest) -> bool:
    texts, tables = (manifest.kind, manifest.key), (manifest.inputs, manifest.config, manifest.content, manifest.files)
    files = [isinstance(file, dict) and {"bytes", "sha256"} <= file.keys() for file in manifest.files.values()]
    return all(isinstance(one, str) for one in texts) and all(isinstance(one, dict) for one in tables) and all(files)


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _beside_id(manifest: Manifest) -> str:
    return _digest({"sources": manifest.sources, "versions": manifest.versions})


def _versions() -> dict[str, str]:
    found = {}
    for package in ("gam-kg", "torch", "torch-geometric", "pyarrow", "pandas", "ray"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found
