"""Embeddings of all entities and relations as Parquet that other systems read: fixed-size lists of float32."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from gam_kg.inference.similarity import SearchSpace, vector_groups
from gam_kg.inference.trained_run import MEMORY, TrainedRun
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.finite import require_finite
from gam_kg.parquet import open_writer, read_table
from gam_kg.schemas import embedding_schema
from gam_kg.train.checkpoint import save_rows
from gam_kg.train.evaluate import Tick


def write_embeddings(
    run: TrainedRun, last: int, folder: Path, tick: Tick = lambda: None, *, anew: bool = False
) -> None:
    """Write a rank's part of the embeddings after the facts of a snapshot. A collective.

    One rank writes `entities.parquet`; several write a file each, as `entities-00000-of-00002.parquet`, by id.

    Args:
        run: The run.
        last: The snapshot.
        folder: Where to write; the same on all ranks.
        tick: Called after each snapshot.
        anew: See `TrainedRun.memory_before`.

    Raises:
        EvaluationError: A vector or a state of the memory is NaN or infinite.
    """
    memory, partition, dim = run.memory_before(last + 1, tick, anew=anew), run.graph.partition, run.model.config.dim
    part = f"-{partition.rank:05d}-of-{partition.world_size:05d}" if partition.world_size > 1 else ""
    _write(folder / f"entities{part}.parquet", "entity", _entity_columns(run, memory), dim)
    for name in ("hidden", "cell"):
        require_finite(getattr(memory, name), f"{name} states of the memory")
    save_rows(vars(memory), folder, MEMORY, partition)
    if partition.rank == 0:
        _write(folder / "relations.parquet", "relation", [_relation_columns(run)], dim)


def read_vectors(path: Path, name: str = "embedding") -> np.ndarray:
    """A column of vectors of an embeddings file, float32 (num_rows, dim)."""
    column = read_table(path, columns=[name])[name].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def _entity_columns(run: TrainedRun, memory: Memory) -> Iterator[list[pa.Array]]:
    """A row group at a time; `last_seen` is null for the unseen. A collective."""
    space = SearchSpace.after(run, memory)
    for rows, vectors in vector_groups(run, memory):
        ids = pa.array(run.graph.partition.ids[rows.cpu()].numpy())
        last = memory.last_seen[rows].cpu().numpy()
        yield [
            ids,
            run.entities.names.take(ids),
            run.labels(last),
            pa.array(last, mask=last < 0),
            _fixed_lists(vectors),
            _fixed_lists(space(vectors)),
        ]


def _relation_columns(run: TrainedRun) -> list[pa.Array]:
    """All relations, then all inverses (id + num_relations)."""
    ids = np.arange(2 * len(run.relations))
    names = pa.concat_arrays([run.relations.names, run.relations.names])
    vectors = run.model.relation.detach()[run.model.relation_rows()]
    return [pa.array(ids), names, pa.array(ids >= len(run.relations)), _fixed_lists(vectors)]


def _write(path: Path, kind: str, groups: Iterable[list[pa.Array]], dim: int) -> None:
    schema = embedding_schema(kind, dim)
    vectors = [f"{field.name}.list.element" for field in schema if pa.types.is_fixed_size_list(field.type)]
    options: dict[str, Any] = {"use_dictionary": False, "use_byte_stream_split": vectors}
    with open_writer(path, schema, **options) as writer:
        for columns in groups:
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _fixed_lists(vectors: Tensor) -> pa.Array:
    values = pa.array(vectors.float().cpu().numpy().ravel())
    element = pa.field("element", pa.float32(), nullable=False)
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(element, vectors.shape[1]))
