"""Versions of embeddings and predictions: a folder for each moment, and `latest`, a small file that names one of them.

A version is whole or absent, and never changes: what is made again for the same moment is a revision beside it. Files
that a reader finds through `latest` therefore belong together. A version that is to go is first marked, and stays for
`publish.grace_minutes` for those who have just read its name; then it is renamed to a hidden name and removed. Files
that are open outlive that, and a version in `open_version` is not removed.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gam_kg.artifacts import MANIFEST, Content, Manifest, command, read_manifest, write_artifact
from gam_kg.config import PublishConfig
from gam_kg.errors import ArtifactError
from gam_kg.output import discard, recover, remove, replacing
from gam_kg.parquet import read_table
from gam_kg.text import quoted

VERSIONED = ("embeddings", "predictions")
"""The kinds of artifacts that have versions."""

LATEST = "latest"
REVISION = ".revision-"
"""Between the name of a moment and the number of a version that was made for it after the first."""

_NAME = re.compile(r"as_of=[^/.]+(?:\.revision-([0-9]+))?")
_DUE = ".due"
_DAY = 86_400


def version_name(label: str) -> str:
    """The folder of the version after the facts of a snapshot, from the label of the snapshot.

    The hour of "2014-12-31T10:00" is without its minutes, since file systems and object stores differ about colons.
    """
    return f"as_of={label.removesuffix(':00')}"


def versions(folder: Path) -> list[Path]:
    """The versions in a folder, the last written first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and (path / MANIFEST).exists()]
    return sorted(found, key=lambda path: ((path / MANIFEST).stat().st_mtime_ns, path.name), reverse=True)


def revisions(folder: Path, name: str) -> list[Path]:
    """The versions of one moment, the newest revision first."""
    found = [path for path in versions(folder) if _moment(path) == name]
    return sorted(found, key=_revision, reverse=True)


def latest(folder: Path) -> Path:
    """The version that `latest` names.

    Raises:
        ArtifactError: There is none, or `latest` is damaged.
    """
    try:
        name = (folder / LATEST).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{folder}: no version yet (no {LATEST}); make one: {command(folder.name)}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / LATEST} cannot be read ({error}); remove it and run {_again(folder)}") from None
    if not _NAME.fullmatch(name) or not (folder / name / MANIFEST).exists():
        raise ArtifactError(f"{folder / LATEST} names {quoted(name)}, which is no version there; run {_again(folder)}")
    return folder / name


def artifact_folder(run: Path, kind: str) -> Path:
    """Where the artifact of a kind is in a run folder: of one that has versions, the latest."""
    if kind not in VERSIONED:
        return run / kind
    try:
        return latest(run / kind)
    except ArtifactError:
        return run / kind


def publish(
    folder: Path,
    name: str,
    manifest: Manifest,
    write: Callable[[Path], Content],
    keep: PublishConfig,
    *,
    at_end: bool,
) -> Path:
    """Write a version, point `latest` at it where it is the newest, and remove versions that need not stay.

    Args:
        folder: Where the versions are, named after their kind.
        name: See `version_name`.
        manifest: See `Manifest.of`.
        write: Writes the files into the empty folder that it receives, and returns the content; its `after_snapshot` is
            the snapshot of the version.
        keep: Which versions stay.
        at_end: Whether the version is after the last fact there is.

    Returns:
        The folder of the version.

    Raises:
        OutputError: It cannot be written.
    """
    if (folder / MANIFEST).exists():  # from before there were versions
        remove(folder)
    number = 1 + max(map(_revision, revisions(folder, name)), default=0)
    version = folder / (name if number == 1 else f"{name}{REVISION}{number}")
    try:
        write_artifact(version, manifest, write)
    finally:
        with suppress(OSError):  # where nothing was made, there are no versions either
            folder.rmdir()
    point_latest(version, at_end=at_end)
    retain(folder, keep)
    return version


def point_latest(version: Path, *, at_end: bool) -> None:
    """Let `latest` name a version, unless it names one of the same model that is after later facts.

    Args:
        version: The folder.
        at_end: See `publish`; then it is the newest in any case.
    """
    folder, own = version.parent, read_manifest(version, version.parent.name)
    try:
        named = latest(folder)
        other = read_manifest(named, folder.name)
        same = all(own.inputs.get(kind) == other.inputs.get(kind) for kind in ("graph", "checkpoint"))
        stays = same and not at_end and other.content["after_snapshot"] > own.content["after_snapshot"]
    except ArtifactError:
        named, stays = None, False
    if not stays and named != version:
        with replacing(folder / LATEST) as staging:
            staging.write_text(version.name, encoding="utf-8")


def retain(folder: Path, keep: PublishConfig, now: float | None = None) -> None:
    """Mark versions that need not stay, and remove those marked `keep.grace_minutes` ago.

    The version that `latest` names stays, as do those that a reader has open in `open_version`.

    Args:
        folder: Where the versions are.
        keep: Which versions stay: the last that were written, without those that have a newer revision.
        now: Seconds since 1970; None: the time of the clock.
    """
    now, named, found = time.time() if now is None else now, latest(folder), versions(folder)
    newest = {_moment(path): path for path in sorted(found, key=_revision)}
    in_order = [path for path in found if newest[_moment(path)] == path]
    stay, bases = {named, *in_order[: keep.keep_versions]}, set()
    for version in found if folder.name == "embeddings" else ():
        with suppress(ArtifactError):  # damaged
            bases.add(folder / (base_of(version) or ""))
    for version in found:
        days = (now - (version / MANIFEST).stat().st_mtime) / _DAY
        is_old = keep.keep_days is not None and days > keep.keep_days and version != named
        mark = version / _DUE
        if version in bases or (version in stay and not is_old):
            mark.unlink(missing_ok=True)
        elif not mark.exists():
            mark.touch()
            os.utime(mark, (now, now))
        elif now - mark.stat().st_mtime >= keep.grace_minutes * 60:
            _discard_unread(version)


@contextmanager
def open_version(folder: Path, name: str | None = None) -> Generator[Path]:
    """A version that stays until the block ends, whatever is published meanwhile.

    Args:
        folder: Where the versions are, as `RUN/embeddings`.
        name: Name of the version; None: the one that `latest` names.

    Yields:
        Its folder.

    Raises:
        ArtifactError: There is no such version.
    """
    version = latest(folder) if name is None else folder / name
    with ExitStack() as stack:
        with suppress(FileNotFoundError, NotADirectoryError):
            stack.enter_context(_locked(version, fcntl.LOCK_SH))
        if not version.is_dir():  # perhaps it has gone while this waited for the lock
            there = ", ".join(sorted(path.name for path in versions(folder))) or "none"
            raise ArtifactError(f"{folder}: no version {quoted(version.name)}; there are: {there}")
        yield version


def base_of(version: Path) -> str | None:
    """The version of the embeddings that a version has the changed rows of; None of a full one.

    Raises:
        ArtifactError: It cannot be read.
    """
    try:
        base = (pq.read_schema(version / "relations.parquet").metadata or {}).get(b"gam_kg.base")
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(
            f"{version / 'relations.parquet'} cannot be read ({error}); {_again(version.parent)}"
        ) from None
    return base.decode() if base else None


def read_embeddings(folder: Path, name: str | None = None) -> pa.Table:
    """The embeddings of all entities of a version, by id; where it has the changed rows of another, with its others.

    Args:
        folder: `RUN/embeddings`.
        name: See `open_version`.

    Raises:
        ArtifactError: There is no such version, or it is damaged.
    """
    with ExitStack() as stack:
        version = stack.enter_context(open_version(folder, name))
        table = _entities(version)
        if base := base_of(version):
            before = _entities(stack.enter_context(open_version(folder, base)))
            unchanged = pc.invert(pc.is_in(before["entity_id"], value_set=table["entity_id"]))
            table = pa.concat_tables([before.filter(unchanged).replace_schema_metadata(table.schema.metadata), table])
    return table.sort_by("entity_id")


def recover_versions(folder: Path) -> None:
    """Remove what processes that have ended have left of versions, or other artifacts, that they wrote or removed."""
    hidden = {path.name[1:].rpartition(".staging-")[0] for path in folder.glob(".*.staging-*")}
    for name in hidden:
        recover(folder / name)


def _discard_unread(version: Path) -> None:
    """Remove a version, unless a reader has it open."""
    with suppress(BlockingIOError), _locked(version, fcntl.LOCK_EX | fcntl.LOCK_NB):
        discard(version)


@contextmanager
def _locked(folder: Path, how: int) -> Generator[None]:
    """Lock a folder while the block runs, where its storage can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            raise
        except OSError:  # shared storage that locks no folders
            pass
        yield
    finally:
        os.close(descriptor)


def _entities(version: Path) -> pa.Table:
    return pa.concat_tables([read_table(path) for path in sorted(version.glob("entities*.parquet"))])


def _moment(version: Path) -> str:
    return version.name.partition(REVISION)[0]


def _revision(version: Path) -> int:
    return int(version.name.partition(REVISION)[2] or 1)


def _again(folder: Path) -> str:
    return f"{command(folder.name)} --force"
