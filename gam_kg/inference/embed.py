"""Embeddings of all entities and relations as Parquet that other systems read: fixed-size lists of float32."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from gam_kg.artifacts import Manifest, read_manifest
from gam_kg.errors import ArtifactError
from gam_kg.graph.update_chain import Update, updates_after
from gam_kg.inference.similarity import SPACE, SearchSpace, vector_groups
from gam_kg.inference.state import changes_before
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.out_of_memory import naming_knobs
from gam_kg.ops.read_ahead import read_ahead
from gam_kg.parquet import open_writer, read_table
from gam_kg.schemas import embedding_schema
from gam_kg.training.evaluate import Tick
from gam_kg.versions import versions

_METRICS = {
    "entity": {
        "gam_kg.embedding.metric": "inner_product",
        "gam_kg.embedding.normalised": "true",
        "gam_kg.search_vector.metric": "cosine",
        "gam_kg.search_vector.normalised": "true",
    },
    "relation": {"gam_kg.embedding.normalised": "false"},
}


@naming_knobs(lambda: "embedding", "more workers (train.num_workers)")
def write_embeddings(
    run: TrainedRun,
    last: int,
    folder: Path,
    tick: Tick = lambda: None,
    *,
    anew: bool = False,
    base: Path | None = None,
) -> None:
    """Write a rank's part of the embeddings after the facts of a snapshot. A collective.

    Metadata of the files (`gam_kg.*`) tell the moment, the model, and of each vector its length and metric.
    One rank writes `entities.parquet`; several write a file each, as `entities-00000-of-00002.parquet`, by id.

    Args:
        run: The run.
        last: The snapshot.
        folder: Where to write; the same on all ranks.
        tick: Called after each snapshot.
        anew: See `TrainedRun.memory_before`.
        base: A version that `find_base` has found: of the entities only rows that have changed since are written,
            unless these are more than half of all; search vectors are by its `SearchSpace`.

    Raises:
        ArtifactError: The base is damaged.
        EvaluationError: A vector is NaN or infinite.
    """
    memory, partition = run.memory_before(last + 1, tick, anew=anew), run.graph.partition
    part = f"-{partition.rank:05d}-of-{partition.world_size:05d}" if partition.world_size > 1 else ""
    about, rows = _about(run, last), None
    if base is not None and (rows := _changed(run, memory, base)) is not None:
        about["gam_kg.base"] = base.name
        space = run.sharded.communicator.together(lambda: SearchSpace.load(base, run.device))
    else:
        space = SearchSpace.after(run, memory)
    schemas = {kind: _schema(run, kind, about) for kind in ("entity", "relation")}
    _write(folder / f"entities{part}.parquet", schemas["entity"], _entity_columns(run, memory, space, rows))
    if partition.rank == 0:
        if rows is None:
            space.save(folder)
        _write(folder / "relations.parquet", schemas["relation"], [_relation_columns(run)])


def embedding_table(run: TrainedRun, last: int, kind: str = "entity") -> pa.Table:
    """The table that `write_embeddings` writes of all entities of a world of one, or of all relations ("relation").

    Raises:
        EvaluationError: A vector is NaN or infinite.
    """
    if kind == "relation":
        groups: Iterable[list[pa.Array]] = [_relation_columns(run)]
    else:
        memory = run.memory_before(last + 1)
        groups = _entity_columns(run, memory, SearchSpace.after(run, memory), None)
    schema = _schema(run, kind, _about(run, last))
    return pa.concat_tables(pa.Table.from_arrays(columns, schema=schema) for columns in groups).combine_chunks()


def find_base(folder: Path, described: Manifest, updates: Sequence[Update], last: int) -> Path | None:
    """The newest full version, by time of writing, that a version may have the changed rows of; None: there is none.

    It is of the same weights and not later, and what has been added since is after it.

    Args:
        folder: Where the versions are.
        described: Manifest of the version to be made.
        updates: Those that it is made from.
        last: The last snapshot whose facts are in it.
    """
    for path in versions(folder):
        with suppress(ArtifactError):
            made = read_manifest(path, described.kind)
            newer = updates_after(updates, made.inputs.get("updates", ""))
            same = all(made.inputs[kind] == described.inputs[kind] for kind in ("graph", "checkpoint"))
            after = made.content["after_snapshot"]
            serves = same and newer is not None and after <= last and SPACE in made.files
            if serves and not any(changes_before(update, after, made.inputs["checkpoint"]) for update in newer or ()):
                return path
    return None


def read_vectors(path: Path, name: str = "embedding") -> np.ndarray:
    """A column of vectors of an embeddings file, float32 (num_rows, dim)."""
    return vectors_of(read_table(path, columns=[name]), name)


def vectors_of(table: pa.Table, name: str = "embedding") -> np.ndarray:
    """A column of vectors of an embeddings table, float32 (num_rows, dim)."""
    column = table[name].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def _about(run: TrainedRun, last: int) -> dict[str, str]:
    return run.provenance(last) | {"gam_kg.dim": str(run.model.config.dim)}


def _schema(run: TrainedRun, kind: str, about: dict[str, str]) -> pa.Schema:
    integers = pa.types.is_integer(run.given_names[kind].type)
    return embedding_schema(kind, run.model.config.dim, integers=integers).with_metadata(about | _METRICS[kind])


def _changed(run: TrainedRun, memory: Memory, base: Path) -> Tensor | None:
    """The rank's rows that are not as in a base, int64; None where they are too many, or names are of another type.

    A collective.
    """
    made, communicator = read_manifest(base, "embeddings").content, run.sharded.communicator
    is_new = run.graph.partition.ids.to(run.device) >= made["num_entities"]
    changed = is_new | (memory.last_seen > made["after_snapshot"])
    total = int(communicator.sum(changed.sum(), "changed rows"))
    named = pq.read_schema(min(base.glob("entities*.parquet"))).field("entity").type
    if 2 * total > len(run.entities) or named != run.given_names["entity"].type:
        return None
    return changed.nonzero().squeeze(1)


def _entity_columns(
    run: TrainedRun, memory: Memory, space: SearchSpace, rows: Tensor | None
) -> Iterator[list[pa.Array]]:
    """A row group at a time, of some rows or all; `last_seen` is null for the unseen."""
    for group, vectors in vector_groups(run, memory, rows):
        ids = pa.array(run.graph.partition.ids[group.cpu()].numpy())
        last = memory.last_seen[group].cpu().numpy()
        yield [
            ids,
            run.given_names["entity"].take(ids),
            run.labels(last),
            pa.array(last, mask=last < 0),
            _fixed_lists(vectors),
            _fixed_lists(space(vectors)),
        ]


def _relation_columns(run: TrainedRun) -> list[pa.Array]:
    """All relations, then all inverses, each with the id of its relation, which more relations do not change."""
    names, is_inverse = run.given_names["relation"], np.repeat([False, True], len(run.relations))
    ids = pa.array(np.tile(np.arange(len(run.relations)), 2))
    vectors = run.model.relation.detach()[run.model.relation_rows()]
    return [ids, pa.concat_arrays([names, names]), pa.array(is_inverse), _fixed_lists(vectors)]


def _write(path: Path, schema: pa.Schema, groups: Iterable[list[pa.Array]]) -> None:
    vectors = [f"{field.name}.list.element" for field in schema if pa.types.is_fixed_size_list(field.type)]
    others = [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]
    # The least and the greatest number of many vectors are of no use.
    options: dict[str, Any] = {"use_dictionary": False, "use_byte_stream_split": vectors, "write_statistics": others}
    with open_writer(path, schema, **options) as writer:
        for columns in read_ahead(iter(groups), 1):
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _fixed_lists(vectors: Tensor) -> pa.Array:
    values = pa.array(vectors.float().cpu().numpy().ravel())
    element = pa.field("element", pa.float32(), nullable=False)
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(element, vectors.shape[1]))
