"""Copies of published versions in another folder, or at a URI, for those who read them there."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copytree, ignore_patterns

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from gam_kg.artifacts import MANIFEST, Content, read_manifest
from gam_kg.config import PublishConfig
from gam_kg.storage import is_remote, local_folder, open_uri, reaching, require_bucket, write_object
from gam_kg.versions import LATEST, base_of, latest, point_latest, publish, retain


def deliver(folder: Path, to: str, keep: PublishConfig) -> str:
    """Copy the latest version in a folder, and the one that it has the changed rows of, if there is one.

    A version is there as a whole or not at all, and `latest` names it once it is: in a folder by a rename, at a URI
    since its manifest is written last.

    Args:
        folder: `RUN/embeddings` or `RUN/predictions`.
        to: Folder or URI; the copy is `TO/embeddings/as_of=...` or `TO/predictions/as_of=...`.
        keep: Which versions stay there.

    Returns:
        Where the version is.

    Raises:
        ArtifactError: There is no version, or it is damaged.
        StorageError: The storage cannot be used.
        OutputError: The folder cannot be written.
    """
    version = latest(folder)
    base = base_of(version) if folder.name == "embeddings" else None
    copied = [*([folder / base] if base else []), version]
    if not is_remote(to):
        place = local_folder(to, "--to") / folder.name
        for one in copied:
            _copy_here(one, place, keep)
        return str(place / version.name)
    with reaching(to):
        filesystem, root = open_uri(to)
    require_bucket(filesystem, root, to)
    place = f"{root}/{folder.name}"
    with reaching(to):
        for one in copied:
            _copy_there(one, filesystem, f"{place}/{one.name}")
        write_object(filesystem, f"{place}/{LATEST}", version.name.encode(), to)
        _retain_there(filesystem, place, {one.name for one in copied}, keep)
    return f"{to.rstrip('/')}/{folder.name}/{version.name}"


def _copy_here(version: Path, place: Path, keep: PublishConfig) -> None:
    made, copy = read_manifest(version, place.name), place / version.name
    if (copy / MANIFEST).exists() and read_manifest(copy, place.name).id == made.id:
        point_latest(copy, at_end=True)
        retain(place, keep)
        return

    def write(staging: Path) -> Content:
        copytree(version, staging, ignore=ignore_patterns(MANIFEST, ".*"), dirs_exist_ok=True)
        return made.content

    publish(place, version.name, made, write, keep, at_end=True)


def _copy_there(version: Path, filesystem: FileSystem, place: str) -> None:
    made, manifest = read_manifest(version, version.parent.name), f"{place}/{MANIFEST}"
    if filesystem.get_file_info(manifest).type == FileType.File:
        if _read(filesystem, manifest)["id"] == made.id:
            return
        filesystem.delete_file(manifest)
    for name in [*made.files, MANIFEST]:
        copy_files(
            str(version / name),
            f"{place}/{name}",
            source_filesystem=LocalFileSystem(),
            destination_filesystem=filesystem,
        )


def _retain_there(filesystem: FileSystem, place: str, stay: set[str], keep: PublishConfig) -> None:
    """Remove the versions that need not stay, and that nobody can have just read the name of, manifest first."""
    found = {}
    for info in filesystem.get_file_info(FileSelector(place)):
        written = filesystem.get_file_info(f"{info.path}/{MANIFEST}").mtime
        if info.type == FileType.Directory and written is not None:
            found[info.base_name] = written
    now = datetime.now(UTC)
    newest = sorted(found, key=lambda name: (found[name], name), reverse=True)[: keep.keep_versions]
    stay = stay | {_read(filesystem, f"{place}/{name}/{MANIFEST}")["content"].get("base") for name in newest}
    for name, written in found.items():
        is_old = keep.keep_days is not None and now - written > timedelta(days=keep.keep_days)
        in_use = name in stay or now - written < timedelta(minutes=keep.grace_minutes)
        if not in_use and (is_old or name not in newest):
            filesystem.delete_file(f"{place}/{name}/{MANIFEST}")
            filesystem.delete_dir(f"{place}/{name}")


def _read(filesystem: FileSystem, manifest: str) -> Content:
    with filesystem.open_input_file(manifest) as file:
        return json.loads(file.read())
