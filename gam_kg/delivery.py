"""Copies of published versions in another folder, or at a URI, for those who read them there."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copytree, ignore_patterns
from tempfile import TemporaryDirectory

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from gam_kg.artifacts import MANIFEST, Content, Manifest, read_manifest, write_artifact
from gam_kg.config import PublishConfig
from gam_kg.errors import ArtifactError, ConfigError, StorageError
from gam_kg.parquet import read_table, write_table
from gam_kg.storage import is_remote, local_folder, open_uri, reaching, require_bucket, write_object
from gam_kg.versions import (
    LATEST,
    REVISION,
    base_of,
    latest,
    point_latest,
    publish,
    read_embeddings,
    retain,
    versions,
)


def deliver(folder: Path, to: str, keep: PublishConfig) -> str:
    """Copy the latest version in a folder; one that has only changed rows is copied with all rows.

    A version is there as a whole or not at all, and `latest` names it once it is: in a folder by a rename, at a URI
    since its manifest is written last. No file of another version there is changed.

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
    with TemporaryDirectory() as temporary:
        version = _whole(latest(folder), Path(temporary))
        if not is_remote(to):
            return str(_copy_here(version, local_folder(to, "--to") / folder.name, keep))
        return _copy_there(version, folder.name, to, keep)


def require_place(to: str) -> None:
    """Refuse a place for `deliver` that cannot be one.

    Raises:
        ConfigError: It is empty, or no path.
        StorageError: The storage cannot be used, or there is no such bucket.
    """
    if not to:
        raise ConfigError("--to is empty; give a folder or a URI")
    if not is_remote(to):
        local_folder(to, "--to")
        return
    _open(to)


def _open(to: str) -> tuple[FileSystem, str]:
    try:
        with reaching(to):
            filesystem, root = open_uri(to)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{to}: {error}") from None
    require_bucket(filesystem, root, to)
    return filesystem, root


def _whole(version: Path, temporary: Path) -> Path:
    """The version, or the same with all rows in a temporary folder, where it has only those that changed."""
    if version.parent.name != "embeddings" or base_of(version) is None:
        return version
    made, full = read_manifest(version, "embeddings"), temporary / "embeddings" / version.name

    def write(folder: Path) -> Content:
        for name, table in (
            ("entities", read_embeddings(version.parent, version.name)),
            ("relations", read_table(version / "relations.parquet")),
        ):
            about = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"gam_kg.base"}
            write_table(table.replace_schema_metadata(about), folder / f"{name}.parquet")
        return {name: value for name, value in made.content.items() if name != "base"}

    write_artifact(full, Manifest.of("embeddings", made.inputs, made.config), write)
    return full


def _copy_here(version: Path, place: Path, keep: PublishConfig) -> Path:
    made = read_manifest(version, place.name)
    for copy in versions(place):
        with suppress(ArtifactError):
            if read_manifest(copy, place.name).id == made.id:
                point_latest(copy, at_end=True)
                retain(place, keep)
                return copy

    def write(staging: Path) -> Content:
        copytree(version, staging, ignore=ignore_patterns(MANIFEST, ".*"), dirs_exist_ok=True)
        return made.content

    return publish(place, version.name.partition(REVISION)[0], made, write, keep, at_end=True)


def _copy_there(version: Path, kind: str, to: str, keep: PublishConfig) -> str:
    filesystem, root = _open(to)
    place, made = f"{root}/{kind}", read_manifest(version, kind)
    with reaching(to):
        there = _manifests(filesystem, place)
        name = next((one for one, manifest in there.items() if manifest["id"] == made.id), None)
        if name is None:
            moment = version.name.partition(REVISION)[0]
            names = (moment, *(f"{moment}{REVISION}{number}" for number in range(2, len(there) + 3)))
            name = next(one for one in names if one not in there)
            with suppress(FileNotFoundError):  # what a process that was killed has left
                filesystem.delete_dir(f"{place}/{name}")
            for file in [*made.files, MANIFEST]:
                copy_files(
                    str(version / file),
                    f"{place}/{name}/{file}",
                    source_filesystem=LocalFileSystem(),
                    destination_filesystem=filesystem,
                )
        write_object(filesystem, f"{place}/{LATEST}", name.encode(), to)
        _retain_there(filesystem, place, name, keep)
    return f"{to.rstrip('/')}/{kind}/{name}"


def _manifests(filesystem: FileSystem, place: str) -> dict[str, Content]:
    """The manifests of the versions at a place, by their names."""
    found = {}
    for info in filesystem.get_file_info(FileSelector(place, allow_not_found=True)):
        with suppress(FileNotFoundError, NotADirectoryError):
            if info.type == FileType.Directory:
                with filesystem.open_input_file(f"{info.path}/{MANIFEST}") as file:
                    found[info.base_name] = json.loads(file.read())
    return found


def _retain_there(filesystem: FileSystem, place: str, named: str, keep: PublishConfig) -> None:
    """Remove the versions that need not stay, manifest first, and that nobody can have just read the name of."""
    written = {}
    for name in _manifests(filesystem, place):
        written[name] = filesystem.get_file_info(f"{place}/{name}/{MANIFEST}").mtime
    now, newer = datetime.now(UTC), datetime.now(UTC)
    for number, name in enumerate(sorted(written, key=lambda name: (written[name], name), reverse=True)):
        is_old = keep.keep_days is not None and now - written[name] > timedelta(days=keep.keep_days)
        is_many = keep.keep_versions is not None and number >= keep.keep_versions
        # Until the next one was written, `latest` named it.
        if name != named and (is_old or is_many) and now - newer >= timedelta(minutes=keep.grace_minutes):
            filesystem.delete_file(f"{place}/{name}/{MANIFEST}")
            filesystem.delete_dir(f"{place}/{name}")
        newer = written[name]
