"""Embeddings of all entities and relations as Parquet that other systems read: fixed-size lists of float32."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from gam_kg.inference.trained_run import TrainedRun, save_memory
from gam_kg.nn.recurrence import Memory
from gam_kg.schemas import embedding_schema
from gam_kg.train.evaluate import Tick
from gam_kg.train.step import entity_vectors

_ROW_GROUP = 65_536


@torch.no_grad()
def write_entity_embeddings(folder: Path, run: TrainedRun, memory: Memory) -> None:
    """Write z of the rank's entities as remembered; those not seen yet have a null `last_seen`.

    A row group is made and written at a time: there is no second copy of all rows.
    One rank writes `entities.parquet`; several write a file each, as `entities-00000-of-00002.parquet`, by id.
    """
    partition = run.graph.partition
    part = f"-{partition.rank:05d}-of-{partition.world_size:05d}" if partition.world_size > 1 else ""
    rows = torch.arange(partition.num_rows, device=run.graph.device)

    def groups() -> Iterator[list[pa.Array]]:
        for group in rows.split(_ROW_GROUP) if len(rows) else ():
            ids = pa.array(partition.ids[group.cpu()].numpy())
            last = memory.last_seen[group].cpu().numpy()
            vectors = _fixed_lists(entity_vectors(run.model, memory, held=group))
            yield [ids, run.entities.names.take(ids), run.labels(last), pa.array(last, mask=last < 0), vectors]

    _write(folder / f"entities{part}.parquet", "entity", groups(), run.model.config.dim)


def write_relation_embeddings(path: Path, run: TrainedRun) -> None:
    """Write the vector of every relation, then of every inverse (id + num_relations)."""
    vectors = run.model.relation.detach()
    names = pa.concat_arrays([run.relations.names, run.relations.names])
    inverse = pa.array(np.arange(len(names)) >= len(run.relations))
    columns = [pa.array(np.arange(len(names))), names, inverse, _fixed_lists(vectors)]
    _write(path, "relation", [columns], vectors.shape[1])


def write_embeddings(
    run: TrainedRun, last: int, folder: Path, tick: Tick = lambda: None, *, anew: bool = False
) -> None:
    """Write a rank's part of the embeddings as of a snapshot, its facts included. A collective.

    Args:
        run: The run.
        last: The snapshot.
        folder: Where to write; the same on all ranks.
        tick: Called after each snapshot remembered.
        anew: Start from the first fact, not from the memory of embeddings made before.
    """
    memory = run.memory_before(last + 1, tick, anew=anew)
    write_entity_embeddings(folder, run, memory)
    save_memory(memory, folder, run.graph.partition)
    if run.graph.partition.rank == 0:
        write_relation_embeddings(folder / "relations.parquet", run)


def read_vectors(path: Path) -> np.ndarray:
    """The `embedding` column of an embeddings file, float32 (num_rows, dim)."""
    column = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def _write(path: Path, kind: str, groups: Iterable[list[pa.Array]], dim: int) -> None:
    schema = embedding_schema(kind, dim)
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        use_byte_stream_split=["embedding.list.element"],
    ) as writer:
        for columns in groups:
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=_ROW_GROUP)


def _fixed_lists(vectors: Tensor) -> pa.Array:
    values = pa.array(vectors.float().cpu().numpy().ravel())
    element = pa.field("element", pa.float32(), nullable=False)
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(element, vectors.shape[1]))
