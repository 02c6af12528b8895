"""Embeddings of all entities and relations as Parquet that other systems read: fixed-size lists of float32."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from gam_kg.inference.trained_run import TrainedRun, save_memory
from gam_kg.schemas import embedding_schema
from gam_kg.train.evaluate import ModelScorer, Tick

_ROW_GROUP = 65_536


def write_entity_embeddings(folder: Path, run: TrainedRun, scorer: ModelScorer) -> None:
    """Write z of the rank's entities as the scorer remembers it; those not seen yet have a null `last_seen`.

    One rank writes `entities.parquet`; several write a file each, as `entities-00000-of-00002.parquet`, by id.
    """
    partition = run.graph.partition
    part = f"-{partition.rank:05d}-of-{partition.world_size:05d}" if partition.world_size > 1 else ""
    ids = pa.array(partition.ids.numpy())
    vectors = scorer.vectors()
    last = scorer.memory.last_seen.cpu().numpy()
    snapshots = pa.array(last, mask=last < 0)
    last_seen = run.labels(last)
    columns = [ids, run.entities.names.take(ids), last_seen, snapshots, _fixed_lists(vectors)]
    _write(folder / f"entities{part}.parquet", "entity", columns, vectors.shape[1])


def write_relation_embeddings(path: Path, run: TrainedRun) -> None:
    """Write the vector of every relation, then of every inverse (id + num_relations)."""
    vectors = run.model.relation.detach()
    names = pa.concat_arrays([run.relations.names, run.relations.names])
    inverse = pa.array(np.arange(len(names)) >= len(run.relations))
    columns = [pa.array(np.arange(len(names))), names, inverse, _fixed_lists(vectors)]
    _write(path, "relation", columns, vectors.shape[1])


def write_embeddings(run: TrainedRun, last: int, folder: Path, tick: Tick = lambda: None) -> None:
    """Write a rank's part of the embeddings as of a snapshot, its facts included. A collective.

    Args:
        run: The run.
        last: The snapshot.
        folder: Where to write; the same on all ranks.
        tick: Called after each snapshot remembered.
    """
    scorer = run.scorer_before(last + 1, tick)
    write_entity_embeddings(folder, run, scorer)
    save_memory(scorer.memory, folder, run.graph.partition)
    if run.graph.partition.rank == 0:
        write_relation_embeddings(folder / "relations.parquet", run)


def read_vectors(path: Path) -> np.ndarray:
    """The `embedding` column of an embeddings file, float32 (num_rows, dim)."""
    column = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def _write(path: Path, kind: str, columns: list[pa.Array], dim: int) -> None:
    table = pa.Table.from_arrays(columns, schema=embedding_schema(kind, dim))
    pq.write_table(
        table,
        path,
        row_group_size=_ROW_GROUP,
        compression="zstd",
        use_dictionary=False,
        use_byte_stream_split=["embedding.list.element"],
    )


def _fixed_lists(vectors: Tensor) -> pa.Array:
    values = pa.array(vectors.float().cpu().numpy().ravel())
    element = pa.field("element", pa.float32(), nullable=False)
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(element, vectors.shape[1]))
