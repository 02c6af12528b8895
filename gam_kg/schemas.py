"""Arrow schemas of every table that gam-kg writes, and the names that tables and manifests share."""

import pyarrow as pa

SCHEMA_VERSION = 2

SPLITS = ("train", "valid", "test")
SETTINGS = ("single_step", "multi_step")
FILTERS = ("time_aware", "raw")
DIRECTIONS = ("both", "object", "subject")
STRATA = ("recurrent", "pair_only", "cold")

ENTITIES = pa.schema(
    [
        pa.field("entity_id", pa.int64(), nullable=False),
        pa.field("entity", pa.large_string(), nullable=False),
        pa.field("degree", pa.int64(), nullable=False),
        pa.field("first_snapshot", pa.int64(), nullable=False),
    ]
)

RELATIONS = pa.schema(
    [
        pa.field("relation_id", pa.int64(), nullable=False),
        pa.field("relation", pa.large_string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)

SNAPSHOTS = pa.schema(
    [
        pa.field("snapshot", pa.int64(), nullable=False),
        pa.field("num_facts", pa.int64(), nullable=False),
    ]
)

ANCHORED = pa.schema(
    [
        pa.field("snapshot", pa.int64(), nullable=False),
        pa.field("anchor", pa.int64(), nullable=False),
        pa.field("relation", pa.int32(), nullable=False),
        pa.field("other", pa.int64(), nullable=False),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("file", pa.large_string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("subject", pa.large_string()),
        pa.field("relation", pa.large_string()),
        pa.field("object", pa.large_string()),
        pa.field("timestamp", pa.large_string()),
        pa.field("end_timestamp", pa.large_string()),
        pa.field("split", pa.large_string()),
    ]
)

# One row a query and setting would repeat the query; ranks of the settings and of the baselines are columns.
RANKS = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("snapshot", pa.int64(), nullable=False),
        pa.field("timestamp", pa.large_string(), nullable=False),
        pa.field("direction", pa.string(), nullable=False),
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("subject", pa.large_string(), nullable=False),
        pa.field("relation_id", pa.int64(), nullable=False),
        pa.field("relation", pa.large_string(), nullable=False),
        pa.field("object_id", pa.int64(), nullable=False),
        pa.field("object", pa.large_string(), nullable=False),
        pa.field("stratum", pa.string(), nullable=False),
    ]
)

PREDICTIONS = pa.schema(
    [
        pa.field("query_id", pa.int64(), nullable=False),
        pa.field("subject", pa.large_string()),
        pa.field("relation", pa.large_string(), nullable=False),
        pa.field("object", pa.large_string()),
        pa.field("timestamp", pa.large_string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("answer_id", pa.int64(), nullable=False),
        pa.field("answer", pa.large_string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
    ]
)


def embedding_schema(kind: str, dim: int) -> pa.Schema:
    """Schema of `entities.parquet` or `relations.parquet` in an embeddings artifact.

    Args:
        kind: "entity" or "relation".
        dim: Length of each embedding; float32, fixed-size lists.
    """
    vector = pa.field("embedding", pa.list_(pa.field("element", pa.float32(), nullable=False), dim), nullable=False)
    fields = [
        pa.field(f"{kind}_id", pa.int64(), nullable=False),
        pa.field(kind, pa.large_string(), nullable=False),
    ]
    if kind == "entity":
        fields.append(pa.field("last_seen", pa.large_string()))
        fields.append(pa.field("last_seen_snapshot", pa.int64()))
    else:
        fields.append(pa.field("inverse", pa.bool_(), nullable=False))
    return pa.schema([*fields, vector])
