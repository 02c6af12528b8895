"""Embeddings of all entities and relations as Parquet that other systems read: fixed-size lists of float32."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from gam_kg.data.vocabulary import Vocabulary
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import embedding_schema
from gam_kg.train.evaluate import ModelScorer

_ROW_GROUP = 65_536


def write_entity_embeddings(path: Path, run: TrainedRun, scorer: ModelScorer) -> None:
    """Write z of every entity as the scorer remembers it; those not seen yet have a null `last_seen`."""
    vectors = scorer.vectors()
    last = scorer.memory.last_seen.cpu().numpy()
    snapshots = pa.array(last, mask=last < 0)
    last_seen = run.labels(last)
    columns = [_ids(run.entities), run.entities.names, last_seen, snapshots, _fixed_lists(vectors)]
    _write(path, "entity", columns, vectors.shape[1])


def write_relation_embeddings(path: Path, run: TrainedRun) -> None:
    """Write the vector of every relation, then of every inverse (id + num_relations)."""
    vectors = run.model.relation.detach()
    names = pa.concat_arrays([run.relations.names, run.relations.names])
    inverse = pa.array(np.arange(len(names)) >= len(run.relations))
    columns = [pa.array(np.arange(len(names))), names, inverse, _fixed_lists(vectors)]
    _write(path, "relation", columns, vectors.shape[1])


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


def _ids(vocabulary: Vocabulary) -> pa.Array:
    return pa.array(np.arange(len(vocabulary)))


def _fixed_lists(vectors: Tensor) -> pa.Array:
    values = pa.array(vectors.float().cpu().numpy().ravel())
    element = pa.field("element", pa.float32(), nullable=False)
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(element, vectors.shape[1]))
