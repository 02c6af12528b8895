"""An update of a run as it is stored, and what this process has verified of its files."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import Content, Manifest, open_artifact
from gam_kg.errors import ArtifactError
from gam_kg.parquet import read_table
from gam_kg.schemas import ENTITIES, RELATIONS, UPDATE_FACTS

UPDATES = "updates"
"""The folder of a run that has its updates."""

FACTS = "facts.parquet"
VOCABULARIES = {"entity": ("entities.parquet", ENTITIES), "relation": ("relations.parquet", RELATIONS)}

Found = TypeVar("Found")

_SEEN: dict[Path, tuple[list[tuple[str, int, int, int, int]], Any]] = {}
"""By folder: what its files looked like when this process verified them, and what was read."""


@dataclass(frozen=True)
class Update:
    """An update of a run.

    Attributes:
        path: Its folder.
        manifest: Its manifest. The content has `number`, `num_facts`, `first_snapshot` and `last_snapshot` of the facts
            where there are some, `num_entities`, `num_relations` and `vocabulary` after it, and `quarantined`.
    """

    path: Path
    manifest: Manifest

    @property
    def content(self) -> Content:
        """The content of the manifest."""
        return self.manifest.content

    def facts(self) -> np.ndarray:
        """Rows (subject, relation, object, snapshot) that neither graph nor earlier updates have, int64 (num_facts, 4).

        Raises:
            ArtifactError: The file is missing or damaged; so do the other readers.
        """
        return self._facts

    def entities(self) -> pa.Table:
        """The new entities, ENTITIES."""
        return self._new["entity"]

    def relations(self) -> pa.Table:
        """The new relations, RELATIONS."""
        return self._new["relation"]

    def names(self, kind: str) -> pa.ChunkedArray:
        """Names of the new entities (kind "entity") or relations ("relation"), in the order of their ids."""
        return self._new[kind][kind]

    def with_read(self, facts: np.ndarray, new: dict[str, pa.Table]) -> "Update":
        """Give this update what its files have, so that they are not read; returns it.

        Args:
            facts: See `facts`.
            new: New entities and relations by kind, "entity" and "relation".
        """
        vars(self).update(_facts=facts, _new=new)
        return self

    @cached_property
    def _facts(self) -> np.ndarray:
        return fact_rows(read_table(self.path / FACTS))

    @cached_property
    def _new(self) -> dict[str, pa.Table]:
        files = self.manifest.files
        return {
            kind: read_table(self.path / file) if file in files else schema.empty_table()
            for kind, (file, schema) in VOCABULARIES.items()
        }


def fact_rows(table: pa.Table) -> np.ndarray:
    """Rows (subject, relation, object, snapshot) of UPDATE_FACTS, int64 (num_facts, 4)."""
    return np.stack([table[name].to_numpy() for name in ("subject_id", "relation_id", "object_id", "snapshot")], 1)


def fact_table(rows: np.ndarray) -> pa.Table:
    """UPDATE_FACTS of rows (subject, relation, object, snapshot), int64 (num_facts, 4)."""
    return pa.table(list(rows[:, [3, 0, 1, 2]].T), schema=UPDATE_FACTS)


def verified(path: Path) -> Update:
    """The update in a folder, whose files are what was written.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    return unless_seen(path, lambda: Update(path, open_artifact(path, "update")))


def unless_seen(folder: Path, read: Callable[[], Found]) -> Found:
    """What a function that verifies the files of a folder returns.

    It is called only where they look otherwise than when this process called it last.

    Raises:
        ArtifactError: A file was removed meanwhile.
    """
    try:
        seen = [(file.name, file.stat()) for file in sorted(folder.glob("*"))]
    except FileNotFoundError as error:
        raise ArtifactError(f"{error.filename} was removed while {folder} was read; try again") from None
    looks = [(name, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for name, one in seen]
    known = _SEEN.get(folder)
    if known is None or known[0] != looks:
        known = _SEEN[folder] = looks, read()
    return known[1]
