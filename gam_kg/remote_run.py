"""A run at a URI and its working copy on this machine: one is made equal to the other, folder by folder.

What the run consists of is in `run.json`, which is written last: what that does not name is not there yet. A new graph
or checkpoint gets a place of another name than the old one, as `graph@4f0c...`, so that a process which is killed
leaves the old run or the new one. Versions, as `embeddings/as_of=...`, are always at their own places, manifest last;
one that is made anew is absent while it is copied.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow.fs
from pyarrow.fs import FileSelector, FileType, LocalFileSystem

from gam_kg.artifacts import MANIFEST, Files, changed_files, describe
from gam_kg.errors import StorageError
from gam_kg.output import remove, replacing
from gam_kg.remote_index import Copy, Folder, Index, folder_of, look_at
from gam_kg.storage import local_folder, make_parent, open_uri, reaching, require_bucket, write_object

INDEX = "run.json"
SEEN = f".{INDEX}"
"""In the working copy: the index as it was when both were last made equal."""

_TRIES = 3
_THREADS = 8

logger = logging.getLogger("gam_kg")


class RemoteRun:
    """A run at a URI. Whoever calls its methods owns the lock of the working copy.

    Args:
        uri: Where the run is.

    Attributes:
        run: The working copy.
        filesystem, root: What the URI stands for.
        require_own: Raises a RunInUseError where this process has lost the lock of the run at the URI.

    Raises:
        StorageError: The URI cannot be used.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self.run = uri, local_folder(uri, "run_dir")
        try:
            with reaching(uri):
                self.filesystem, self.root = open_uri(uri)
        except (ValueError, ImportError) as error:
            raise StorageError(f"{uri}: {error}") from None
        self.require_own: Callable[[], None] = lambda: None
        self._index, self._pushing = Index(), threading.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was at the URI when it was last looked at."""
        return self._index == Index()

    def fetch(self, only: Collection[str] = ()) -> None:
        """Fetch what is missing in the working copy, and what has changed at the URI since both were equal.

        What was made here and is not copied yet stays, unless the same has changed at the URI.

        Args:
            only: Names of the folders that are needed, as "graph"; none for all.

        Raises:
            StorageError: The storage cannot be used, or files have been damaged there.
        """
        missing = None
        for _ in range(_TRIES):
            self._index = self._read_index()
            try:
                self._fetch(only)
                return
            except FileNotFoundError as error:  # replaced meanwhile, as the next index says
                missing = error
        raise StorageError(f"{self.uri}: files that {INDEX} names are not there ({missing}); make the run anew")

    def is_fetched(self, only: Collection[str] = ()) -> bool:
        """Whether the working copy has the folders that the run at the URI has now."""
        folders = self._read_index().folders
        needed = {path: copy for path, copy in folders.items() if _is_needed(path, only)}
        return all(_has(folder_of(self.run, path), copy) for path, copy in needed.items())

    def push(self, start: str = "") -> None:
        """Copy to the URI what is new, and remove there what is gone. The run there changes in one moment.

        Everything must have been fetched before.

        Args:
            start: How the paths of the folders begin that are copied; "" for all, and the other files.

        Raises:
            RunInUseError: The lock of the run at the URI is lost.
            StorageError: The storage cannot be used.
        """
        with self._pushing:
            old, (here, files) = self._index, look_at(self.run, start)
            files = old.files if start else files
            same = {path for path, copy in old.folders.items() if _has(here.get(path), copy, times=True)}
            new = {path: found for path, found in here.items() if path not in same}
            gone = {path for path in old.folders if path.startswith(start) and not (self.run / path).exists()}
            if not new and not gone and files == old.files:
                return
            self.require_own()
            self._withdraw([path for path, found in new.items() if _is_version(path) and self._moves(path, found)])
            copied = {path: Copy(**vars(found), place=self._place(path, found)) for path, found in new.items()}
            for path, copy in copied.items():
                self._upload(path, copy)
            changed = [name for name, file in files.items() if old.files.get(name) != file]
            self._copy_all([(str(self.run / name), self._at(name)) for name in changed], up=True)
            kept = {path: copy for path, copy in self._index.folders.items() if path not in gone}
            self._write_index(Index({**kept, **copied}, files))
            self._tidy({*new, *gone}, [name for name in old.files if name not in files])

    def _fetch(self, only: Collection[str]) -> None:
        index, seen = self._index, self._seen()
        for path, copy in index.folders.items():
            here, before = folder_of(self.run, path), seen.folders.get(path)
            if not _is_needed(path, only) or _has(here, copy, times=True):
                continue
            if _has(here, copy):
                if before is None or before.times != copy.times:
                    copy.restore_times(self.run / path)
                continue
            if here is not None and before is not None and before.files == copy.files:
                logger.info("%s is newer than at %s, which gets it next", self.run / path, self.uri)
                continue
            logger.info("fetching %s from %s", path, self.uri)
            with replacing(self.run / path) as staging:
                self._download(copy, staging)
        for path in seen.folders.keys() - index.folders.keys():
            if _has(folder_of(self.run, path), seen.folders[path]):  # removed at the URI
                remove(self.run / path)
        for name, file in index.files.items():
            here = describe(self.run, [self.run / name])[name] if (self.run / name).is_file() else None
            if here != file and (here is None or seen.files.get(name) != file):
                with replacing(self.run / name) as staging:
                    self._copy(self._at(name), str(staging), up=False)
        known = {path: copy for path, copy in index.folders.items() if _is_needed(path, only) or path in seen.folders}
        passed = {path: seen.folders[path] for path in known if not _is_needed(path, only)}
        self._remember(Index({**known, **passed}, index.files))

    def _download(self, copy: Copy, staging: Path) -> None:
        for folder in {staging, *((staging / name).parent for name in copy.files)}:
            folder.mkdir(parents=True, exist_ok=True)
        self._copy_all([(self._at(copy.place, name), str(staging / name)) for name in copy.files], up=False)
        if damaged := changed_files(staging, copy.files):
            raise StorageError(
                f"{self.uri}: {copy.place}/{damaged[0]} is not what was written there; remove {INDEX} there and make "
                "the run anew"
            )
        copy.restore_times(staging)

    def _moves(self, path: str, folder: Folder) -> bool:
        """Whether a new folder cannot be where the old one is, since more than the manifest differs."""
        old = self._index.folders.get(path)
        return old is not None and _data(old.files) != _data(folder.files)

    def _place(self, path: str, folder: Folder) -> str:
        if self._moves(path, folder):
            return f"{path}@{hashlib.sha256(json.dumps(folder.files, sort_keys=True).encode()).hexdigest()[:16]}"
        return self._index.folders[path].place if path in self._index.folders else path

    def _upload(self, path: str, copy: Copy) -> None:
        """Copy a folder, its manifest last."""
        old, data = self._index.folders.get(path), _data(copy.files)
        if old is None or old.place != copy.place:
            with reaching(self.uri), suppress(FileNotFoundError):  # what a process that was killed has left
                self.filesystem.delete_dir(self._at(copy.place))
            self._copy_all([(str(self.run / path / name), self._at(copy.place, name)) for name in data], up=True)
        if MANIFEST in copy.files and (old is None or old.files != copy.files):
            self._copy(str(self.run / path / MANIFEST), self._at(copy.place, MANIFEST), up=True)

    def _withdraw(self, versions: list[str]) -> None:
        """Take versions that are made anew out of the run, before others are written in their places."""
        taken = {path: self._index.folders[path] for path in versions if path in self._index.folders}
        if taken:
            left = {path: copy for path, copy in self._index.folders.items() if path not in taken}
            self._write_index(Index(left, self._index.files))
        for copy in taken.values():
            with reaching(self.uri), suppress(FileNotFoundError):
                self.filesystem.delete_file(self._at(copy.place, MANIFEST))

    def _tidy(self, paths: Collection[str], files: Collection[str]) -> None:
        """Remove these files, and folders that stand for `paths` but are not what the run consists of now."""
        used = {self._at(copy.place) for copy in self._index.folders.values()}
        for path in paths:
            parent, _, name = self._at(path).rpartition("/")
            with reaching(self.uri):
                for found in self.filesystem.get_file_info(FileSelector(parent, allow_not_found=True)):
                    is_folder = found.type == FileType.Directory and found.base_name.partition("@")[0] == name
                    if is_folder and found.path not in used:
                        self.filesystem.delete_dir(found.path)
        for name in files:
            with reaching(self.uri), suppress(FileNotFoundError):
                self.filesystem.delete_file(self._at(name))

    def _copy_all(self, pairs: Collection[tuple[str, str]], *, up: bool) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda pair: self._copy(*pair, up=up), pairs))

    def _copy(self, source: str, destination: str, *, up: bool) -> None:
        here, there = LocalFileSystem(), self.filesystem
        with reaching(self.uri):
            if up:
                make_parent(there, destination)
            pyarrow.fs.copy_files(
                source,
                destination,
                source_filesystem=here if up else there,
                destination_filesystem=there if up else here,
                use_threads=False,
            )

    def _read_index(self) -> Index:
        path = self._at(INDEX)
        try:
            with reaching(self.uri), self.filesystem.open_input_file(path) as file:
                return Index.parse(file.read(), f"{self.uri}/{INDEX}")
        except FileNotFoundError:
            require_bucket(self.filesystem, path, self.uri)
            return Index()

    def _write_index(self, index: Index) -> None:
        self.require_own()
        write_object(self.filesystem, self._at(INDEX), index.text(), self.uri)
        self._index = index
        self._remember(index)

    def _seen(self) -> Index:
        path = self.run / SEEN
        return Index.parse(path.read_bytes(), path) if path.exists() else Index()

    def _remember(self, index: Index) -> None:
        with replacing(self.run / SEEN) as staging:
            staging.write_bytes(index.text())

    def _at(self, *names: str) -> str:
        return "/".join([self.root, *names])


def _is_needed(path: str, only: Collection[str]) -> bool:
    return not only or path.partition("/")[0] in only


def _has(here: Folder | None, copy: Copy, *, times: bool = False) -> bool:
    """Whether a folder here is as its copy."""
    return here is not None and here.files == copy.files and (not times or here.times == copy.times)


def _is_version(path: str) -> bool:
    return "=" in path.rpartition("/")[2]


def _data(files: Files) -> Files:
    return {name: file for name, file in files.items() if name != MANIFEST}
