"""Arrow schemas of every table that gam-kg writes, and the names that tables and manifests share."""

from collections.abc import Collection

import pyarrow as pa

SCHEMA_VERSION = 8

MODEL = "gam_lstm"
SPLITS = ("train", "valid", "test")
SETTINGS = ("single_step", "multi_step")
FILTERS = ("time_aware", "raw")
DIRECTIONS = ("both", "object", "subject")
STRATA = ("recurrent", "pair_only", "cold")
ENTITIES_SEEN = ("seen_in_training", "unseen_in_training")

_INT, _TEXT, _WORD = pa.int64(), pa.large_string(), pa.string()


def table_schema(columns: dict[str, pa.DataType], nullable: Collection[str] = ()) -> pa.Schema:
    """Schema of a table, with nulls only in the columns that `nullable` names."""
    return pa.schema([pa.field(name, column, nullable=name in nullable) for name, column in columns.items()])


ENTITIES = table_schema({"entity_id": _INT, "entity": _TEXT, "degree": _INT, "first_snapshot": _INT})
RELATIONS = table_schema({"relation_id": _INT, "relation": _TEXT, "count": _INT, "first_snapshot": _INT})
SNAPSHOTS = table_schema({"snapshot": _INT, "num_facts": _INT})
ENTITY_FEATURES = table_schema({"entity_id": _INT, "feature": _TEXT, "weight": pa.float64()})
UPDATE_FACTS = table_schema({"snapshot": _INT, "subject_id": _INT, "relation_id": _INT, "object_id": _INT})
# Facts without an end, which hold until an update has it; `start` is a snapshot.
OPEN_FACTS = table_schema(dict.fromkeys(("subject_id", "relation_id", "object_id", "start"), _INT))
ANCHORED = table_schema({"snapshot": _INT, "anchor": _INT, "relation": pa.int32(), "other": _INT})

_RAW_COLUMNS = ("subject", "relation", "object", "timestamp", "end_timestamp", "split")
QUARANTINE = table_schema(
    {"file": _TEXT, "row": _INT, "reason": _WORD} | dict.fromkeys(_RAW_COLUMNS, _TEXT), nullable=_RAW_COLUMNS
)

# One row per query and setting would repeat the query; ranks of the settings and of the baselines are columns.
RANKS = table_schema(
    {"split": _WORD, "snapshot": _INT, "timestamp": _TEXT, "direction": _WORD}
    | {"subject_id": _INT, "subject": _TEXT, "relation_id": _INT, "relation": _TEXT}
    | {"object_id": _INT, "object": _TEXT, "stratum": _WORD, "entities": _WORD, "horizon": _INT}
)

# What a query may come to; the first is the only good one.
STATUSES = ("answered", "missing", "both_sides", "unknown_name", "unreadable_timestamp", "before_first_fact")

_QUERY = {"subject": _TEXT, "relation": _TEXT, "object": _TEXT, "timestamp": _TEXT}
_ANSWER = {"snapshots_beyond_last_fact": _INT, "position": pa.int32(), "answer_id": _INT, "answer": _TEXT} | {
    "score": pa.float32(),
    "probability": pa.float32(),
    "times_seen": _INT,
    "last_seen": _TEXT,
    "novelty": _WORD,
}
# One row an answer; a query without answers has one row. Columns of the query file that are not ours follow.
PREDICTIONS = table_schema(
    {"query_id": _INT, **_QUERY, "status": _WORD, "reason": _TEXT, **_ANSWER}, nullable=(*_QUERY, "reason", *_ANSWER)
)

EXPLAINED = "explanation"
# The type of this column of predictions, which they have where `predict.explain` is set: what carries an answer.
EXPLANATION = pa.list_(
    pa.struct({"kind": _WORD, "text": _TEXT, "weight": pa.float64(), "share": pa.float64(), "percent": pa.float64()})
)

# One row for each part switched off, split, setting, and part of the answers; differences to the full model.
ABLATION = table_schema(
    {"part": _WORD, "split": _WORD, "setting": _WORD, "answers": _WORD, "num_answers": _INT, "num_seeds": _INT}
    | dict.fromkeys(("mrr", "mrr_std", "mrr_min", "mrr_max", "difference", "low", "high"), pa.float64())
    | {"seconds_per_epoch": pa.float64()},
    nullable=("mrr_std",),
)

# One row a snapshot that an update has added; MRR of untrained baselines follow.
OVER_TIME = table_schema(
    {"update": _INT, "snapshot": _INT, "timestamp": _TEXT, "num_facts": _INT, "num_answers": _INT}
    | dict.fromkeys(("mrr", "hits@1", "hits@3", "hits@10"), pa.float64())
)

# One row a snapshot; MRR of its answers with the weights before and after fine-tuning.
FINE_TUNING = table_schema(
    {"snapshot": _INT, "num_answers": _INT, "mrr_before": pa.float64(), "mrr_after": pa.float64()}
)

# One row a trial; columns of the settings that were searched follow.
TRIALS = table_schema(
    {"trial": _INT, "status": _WORD, "epochs": _INT, "best_epoch": _INT, "best_valid_mrr": pa.float64()}
    | {"seconds": pa.float64(), "error": _TEXT},
    nullable=("best_epoch", "best_valid_mrr", "error"),
)


def embedding_schema(kind: str, dim: int, *, integers: bool = False) -> pa.Schema:
    """Schema of `entities.parquet` or `relations.parquet` in an embeddings artifact.

    Args:
        kind: "entity" or "relation".
        dim: Length of each embedding; float32, fixed-size lists.
        integers: Whether names are integers, as the facts have them.
    """
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), dim)
    last_seen = {"last_seen": _TEXT, "last_seen_snapshot": _INT}
    named = {f"{kind}_id": _INT, kind: _INT if integers else _TEXT}
    if kind == "relation":
        return table_schema({**named, "inverse": pa.bool_(), "embedding": vector})
    return table_schema({**named, **last_seen, "embedding": vector, "search_vector": vector}, nullable=last_seen)
