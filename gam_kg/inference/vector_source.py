"""The vectors of a version of the embeddings, read a batch of rows at a time, for an index and for other systems."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from gam_kg.artifacts import Manifest, command, open_artifact, read_manifest, require_same
from gam_kg.errors import ArtifactError, ConfigError
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.parquet import open_file
from gam_kg.versions import base_of, latest, open_version, revisions, version_name, versions

Kind = Literal["entity", "relation"]
Column = Literal["search_vector", "embedding"]

_BATCH = 65_536


def find_version(run: Path, at: str | int | None = None) -> str:
    """Name of the version of the embeddings after the facts of a timestamp; of revisions, the newest.

    Args:
        run: The run's folder.
        at: The timestamp; None: the version that `latest` names.

    Raises:
        ArtifactError: There is no such version.
        ConfigError: `at` is no timestamp of the graph.
    """
    folder = run / "embeddings"
    if at is None:
        return latest(folder).name
    axis = TimeAxis(**read_manifest(run / "graph", "graph").content["time"])
    name = version_name(axis.label(axis.snapshot_at(at, 0)))
    if not (found := revisions(folder, name)):
        there = ", ".join(sorted(path.name for path in versions(folder))) or "none"
        raise ArtifactError(f"{folder}: no version {name}; there are: {there}; make it: gam-kg embed CONFIG --at {at}")
    return found[0].name


@dataclass(frozen=True)
class VectorSource:
    """A column of vectors of one version, and who they are of.

    Attributes:
        version: Folder of the version.
        manifest: Its manifest.
        kind: Whose vectors.
        column: Which vectors.
        files: The files that have them: those of the version, then those of the one that it has the changed rows of.
        base: Manifest of the latter.
    """

    version: Path
    manifest: Manifest
    kind: Kind
    column: Column
    files: tuple[Path, ...]
    base: Manifest | None = None

    @classmethod
    @contextmanager
    def open(
        cls,
        run: Path,
        name: str,
        kind: Kind = "entity",
        column: Column = "search_vector",
        *,
        verified: bool = False,
    ) -> Generator["VectorSource"]:
        """Open a version, which then stays until the block ends.

        Args:
            run: The run's folder.
            name: The version; see `find_version`.
            kind: Whose vectors.
            column: Which vectors; relations have only `embedding`.
            verified: Whether the caller has verified the files before; else this does.

        Raises:
            ArtifactError: There is no such version, it is damaged, or it is of another graph or checkpoint than the
                run's.
            ConfigError: There is no such column.
        """
        if kind == "relation" and column != "embedding":
            raise ConfigError(f"relations have no {column}; use embedding")
        plural = {"entity": "entities", "relation": "relations"}[kind]
        with ExitStack() as stack:
            version = stack.enter_context(open_version(run / "embeddings", name))
            manifest = _opened(version, plural, verified)
            for made_from in ("graph", "checkpoint"):
                if (run / made_from).exists():
                    own = read_manifest(run / made_from, made_from).id
                    require_same(made_from, manifest.inputs[made_from], own, version.parent)
            files, base = sorted(version.glob(f"{plural}*.parquet")), None
            if kind == "entity" and (base_name := base_of(version)):
                below = stack.enter_context(open_version(run / "embeddings", base_name))
                base = _opened(below, plural, verified)
                files += sorted(below.glob(f"{plural}*.parquet"))
            yield cls(version, manifest, kind, column, tuple(files), base)

    @property
    def inputs(self) -> dict[str, str]:
        """What an artifact that is made from the vectors records of them."""
        return {"embeddings": self.manifest.id} | ({"base": self.base.id} if self.base else {})

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.manifest.content["dim"]

    @property
    def num_rows(self) -> int:
        """How many vectors there are; a relation has two."""
        content = self.manifest.content
        return content["num_entities"] if self.kind == "entity" else 2 * content["num_relations"]

    @property
    def about(self) -> dict[str, str]:
        """What the metadata of the file say of the vectors: `gam_kg.as_of`, `.model`, `.dim`, `.metric`, ..."""
        found = {key.decode(): value.decode() for key, value in (pq.read_schema(self.files[0]).metadata or {}).items()}
        of_column = f"gam_kg.{self.column}."
        general = {key: found[key] for key in ("gam_kg.as_of", "gam_kg.model", "gam_kg.dim") if key in found}
        return general | {
            f"gam_kg.{key.removeprefix(of_column)}": value for key, value in found.items() if key.startswith(of_column)
        }

    def batches(self, *, vectors: bool = True) -> Iterator[pa.Table]:
        """All rows, each once, some at a time, in no order.

        The columns are `id`, `name` (text), `last_seen` of entities or `inverse` of relations, and `vector`. The id of
        a relation is twice its id in the graph, that of its inverse one more.

        Args:
            vectors: Whether with the column `vector`.
        """
        more, changed = ("last_seen" if self.kind == "entity" else "inverse"), None
        columns = [f"{self.kind}_id", self.kind, more, *([self.column] if vectors else ())]
        for path in self.files:
            is_base = path.parent != self.version
            if is_base and changed is None:
                own = [pq.read_table(file, columns=["entity_id"]) for file in self.files if file.parent == self.version]
                changed = pa.concat_tables(own)["entity_id"]
            with open_file(path) as file:
                for batch in file.iter_batches(_BATCH, columns=columns):
                    table = pa.Table.from_batches([batch])
                    if is_base:
                        table = table.filter(pc.invert(pc.is_in(table["entity_id"], value_set=changed)))
                    ids, names = table[columns[0]], table[self.kind].cast(pa.large_string())
                    if self.kind == "relation":
                        ids = pc.add(pc.multiply(ids, 2), table[more].cast(pa.int64()))
                    row_vectors = {"vector": table[self.column]} if vectors else {}
                    yield pa.table({"id": ids, "name": names, more: table[more], **row_vectors})

    def read(self, ids: np.ndarray) -> np.ndarray:
        """The vectors of a few entities, float32 (num_ids, dim).

        Raises:
            ArtifactError: Rows are missing.
        """
        found: dict[int, np.ndarray] = {}
        for folder in dict.fromkeys(file.parent for file in self.files):  # what has changed comes first
            files = [str(file) for file in self.files if file.parent == folder]
            rows_of = ds.field("entity_id").isin([one for one in ids.tolist() if one not in found])
            rows = ds.dataset(files, format="parquet").to_table(["entity_id", self.column], filter=rows_of)
            found |= dict(zip(rows["entity_id"].to_pylist(), matrix(rows[self.column]), strict=True))
        if not found.keys() >= set(ids.tolist()):
            raise ArtifactError(f"{self.version}: entities are missing; redo it: {command('embeddings')} --force")
        return np.stack([found[one] for one in ids.tolist()])

    def load(self) -> np.ndarray:
        """The vectors of all entities by id, float32 (num_rows, dim).

        Raises:
            ArtifactError: Rows are missing.
        """
        vectors, filled = np.empty((self.num_rows, self.dim), np.float32), np.zeros(self.num_rows, bool)
        for table in self.batches():
            ids = table["id"].to_numpy()
            vectors[ids], filled[ids] = matrix(table["vector"]), True
        if not filled.all():
            raise ArtifactError(f"{self.version}: entities are missing; redo it: {command('embeddings')} --force")
        return vectors


def _opened(version: Path, part: str, verified: bool) -> Manifest:
    return read_manifest(version, "embeddings") if verified else open_artifact(version, "embeddings", part=part)


def matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of fixed-size lists as an array (num_rows, dim)."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return flat.flatten().to_numpy(zero_copy_only=False).reshape(len(flat), flat.type.list_size)
