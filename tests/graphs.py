"""Small temporal graphs, models small enough to check by hand, and the past in plain Python."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from gam_kg.artifacts import Manifest, write_manifest
from gam_kg.config import Config, HistoryConfig, ModelConfig
from gam_kg.graph.message_graph import MessageGraph
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.index import HistoryIndex
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.ingest.vocabulary import Vocabulary, vocabulary_hash
from gam_kg.metrics.sparse_scores import SparseScores
from gam_kg.nn.model import GAMLSTM
from gam_kg.schemas import ANCHORED, ENTITY_FEATURES, SNAPSHOTS, SPLITS

Fact = tuple[int, int, int, int]

NUM_ENTITIES, NUM_RELATIONS, NUM_SNAPSHOTS = 10, 3, 8
VALID_START, TEST_START = 5, 6
HISTORY = {
    **{"recent": 4, "same_relation": 3, "popular": 5, "two_hop_first": 3, "two_hop_second": 2, "dim": 3},
    **{"two_hop_newest": 4},
    **{"rule_bodies": 4, "rule_heads": 2},
}
NAMES = ["Police (Arda)", "Army (Arda)", "Police (Bree)", "Citizen", "army", "Citizen (Bree)", "x", "y", "z", "Bree"]


def features_of(rows: Iterable[tuple[int, str, float]]) -> pa.Table:
    """ENTITY_FEATURES of rows (entity, feature, weight)."""
    columns = dict(zip(ENTITY_FEATURES.names, zip(*rows, strict=True), strict=True))
    return pa.table(columns, schema=ENTITY_FEATURES)


def random_features(num_entities: int = 10, seed: int = 0) -> pa.Table:
    """A category, two numbers and some words of most entities."""
    generator, rows = np.random.default_rng(seed), []
    for entity in range(num_entities):
        if entity % 5 != 3:
            rows.append((entity, f"kind = {generator.integers(3)}", 1.0))
            rows += [(entity, f"text = {word}", 0.5) for word in sorted(set(generator.integers(6, size=2).tolist()))]
        rows += [
            (entity, f"{name} =", float(generator.normal())) for name in ("age", "size") if generator.random() < 0.7
        ]
    return features_of(rows)


def random_facts(seed: int, num_facts: int = 60) -> np.ndarray:
    """Distinct facts; few entities have most of them, so that facts and pairs recur, and some meet themselves."""
    generator = np.random.default_rng(seed)
    ends = np.minimum(generator.geometric(0.3, (2, num_facts)) - 1, NUM_ENTITIES - 1)
    relation, time = (generator.integers(0, size, num_facts) for size in (NUM_RELATIONS, NUM_SNAPSHOTS))
    return np.unique(np.stack([ends[0], relation, ends[1], time], 1), axis=0)


def periodic_facts(num_snapshots: int = 12) -> np.ndarray:
    """Each subject meets its objects in turn, so that the last fact tells the next one."""
    rows = [(s, s % 2, 4 + (s + t) % 4, t) for t in range(num_snapshots) for s in range(4)]
    return np.array(rows)


def graph_of(facts: np.ndarray | Iterable[Fact], buckets: int = 64, **changes: int) -> TemporalGraph:
    sizes = {
        "num_entities": NUM_ENTITIES,
        "num_relations": NUM_RELATIONS,
        "valid_start": VALID_START,
        "test_start": TEST_START,
        **changes,
    }
    graph = TemporalGraph.from_facts(np.array(facts, dtype=np.int64).reshape(-1, 4), **sizes)
    return replace(graph, partition=Partition(graph.num_entities, buckets))


def random_graph(num_facts: int, **sizes: int) -> TemporalGraph:
    """Facts between entities of which few have many; snapshots are alike."""
    generator = np.random.default_rng(0)
    ends = (sizes["num_entities"] * generator.random((2, num_facts)) ** 2).astype(int)
    relation, time = generator.integers(0, 3, num_facts), generator.integers(0, NUM_SNAPSHOTS, num_facts)
    return graph_of(np.unique(np.stack([ends[0], relation, ends[1], time], 1), axis=0), buckets=16, **sizes)


def write_graph(
    folder: Path,
    graph: TemporalGraph,
    buckets: int,
    num_facts: int | None = None,
    row_group_size: int = 1000,
    names: Sequence[str] | None = None,
    features: pa.Table | None = None,
) -> None:
    """Store a graph as `prepare` does, with these names of entities, or "entity 0", "entity 1", ..."""
    rows = graph.rows()
    for bucket in range(buckets):
        mine = rows.anchor % buckets == bucket
        columns = [pa.array(column[mine].numpy()) for column in rows]
        part = folder / "anchored" / f"bucket={bucket:03d}"
        part.mkdir(parents=True)
        table = pa.table(columns, names=ANCHORED.names).cast(ANCHORED)
        pq.write_table(table, part / "part.parquet", row_group_size=row_group_size)
    vocabulary = []
    for kind, plural, count in (
        ("entity", "entities", graph.num_entities),
        ("relation", "relations", graph.num_relations),
    ):
        named = [f"{kind} {number}" for number in range(count)] if names is None or kind == "relation" else list(names)
        vocabulary.append(Vocabulary(pa.array(named, pa.large_string()), kind))
        column = rows.anchor if kind == "entity" else rows.relation
        first = [min(rows.time[column == number].tolist(), default=99) for number in range(count)]
        table = pa.table({kind: named, "first_snapshot": first})
        numbers = column.bincount(minlength=count)[:count].numpy()
        for name, values in {
            f"{kind}_id": np.arange(count),
            "degree" if kind == "entity" else "count": numbers,
        }.items():
            table = table.append_column(name, pa.array(values))
        pq.write_table(table, folder / f"{plural}.parquet")
    times, counts = rows.time.unique(return_counts=True)
    timeline = pa.table([times.numpy(), counts.numpy() // 2], names=SNAPSHOTS.names).cast(SNAPSHOTS)
    pq.write_table(timeline, folder / "snapshots.parquet")
    if features is not None:
        pq.write_table(features, folder / "entity_features.parquet")
    ends = (0, graph.valid_start, graph.test_start, max(graph.end, graph.test_start))
    content = {
        "buckets": buckets,
        "num_snapshots": len(times),
        "splits": {
            split: int(counts[(times >= start) & (times < end)].sum()) // 2
            for split, start, end in zip(SPLITS, ends, ends[1:], strict=False)
        },
        "num_facts": len(rows.time) // 2 if num_facts is None else num_facts,
        "num_entities": graph.num_entities,
        "num_relations": graph.num_relations,
        "valid_start": graph.valid_start,
        "test_start": graph.test_start,
        "first_snapshot": graph.times[0] if graph.times else 0,
        "last_snapshot": max(0, graph.end - 1),
        "quarantined": {},
        "vocabulary": vocabulary_hash(*vocabulary),
        "time": asdict(TimeAxis("integer", 1, 0)),
    }
    write_manifest(folder, Manifest("graph", "key", {}, {}, content))


def snapshots_of(graph: TemporalGraph, times: Iterable[int] | None = None) -> list[Snapshot]:
    """Snapshots as a world of one sees them; of all times with facts where none are named."""
    return list(graph.read(graph.times if times is None else list(times)))


def history_before(graph: TemporalGraph, config: HistoryConfig, time: int) -> HistoryIndex:
    """The history index that has all snapshots before a time."""
    history = HistoryIndex(graph, config)
    for snapshot in snapshots_of(graph, [at for at in graph.times if at < time]):
        history.insert(snapshot)
    return history


def queries_of(pairs: Iterable[tuple[int, int]], time: int) -> Queries:
    """Questions (subject, relation) without answers."""
    subject, relation = torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2).T
    none = torch.zeros(0, dtype=torch.int64)
    return Queries(time, subject, relation, none, none)


def all_queries(now: int, horizon: int = 1) -> Queries:
    """Every query, which sees the facts before a snapshot."""
    pairs = ((s, r) for s in range(NUM_ENTITIES) for r in range(2 * NUM_RELATIONS))
    return queries_of(pairs, now + horizon - 1).seen_from(now)


def table_of(scores: Tensor | SparseScores) -> Tensor:
    """Scores written out, (num_queries, num_candidates)."""
    return scores if isinstance(scores, Tensor) else scores.dense()


def history_config(**changes: int) -> HistoryConfig:
    return HistoryConfig(**{**HISTORY, **changes})


def model_config(**changes: Any) -> ModelConfig:
    history = history_config(**changes.pop("history", {}))
    small = {"dim": 4, "heads": 2, "dropout": 0.0, "entity_dropout": 0.0, "relation_dropout": 0.0, "history": history}
    return ModelConfig.model_validate({**small, **changes})


def tiny_config(model: dict[str, Any] | None = None, **train: Any) -> Config:
    return Config.model_validate({"model": model_config(**(model or {})).model_dump(), "train": train})


def tiny_model(graph: TemporalGraph, seed: int = 0, features: pa.Table | None = None, **changes: Any) -> GAMLSTM:
    """A float64 model in evaluation mode whose every parameter is random, those that start at zero included."""
    torch.manual_seed(seed)
    names = [NAMES[number % len(NAMES)] for number in range(graph.num_entities)]
    words = NameWords.of(names, features=features)
    model = GAMLSTM(model_config(**changes), graph.trained_relations, graph.trained, words).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def message_graphs(graph: TemporalGraph, times: Iterable[int]) -> list[MessageGraph]:
    return [MessageGraph.of(graph.snapshot(time), graph.partition) for time in times]


class Past:
    """What was seen before some time, in both directions, looked up by walking through all of it."""

    def __init__(self, facts: np.ndarray | Iterable[Fact], as_of: int) -> None:
        self.seen: dict[tuple[int, int, int], set[int]] = defaultdict(set)
        for subject, relation, answer, time in np.array(facts, dtype=np.int64).reshape(-1, 4).tolist():
            if time < as_of:
                self.seen[subject, relation, answer].add(time)
                self.seen[answer, relation + NUM_RELATIONS, subject].add(time)

    def facts_of(self, subject: int, limit: int) -> list[tuple[int, int, int, int]]:
        """(relation, other, last, count) of the `limit` most recent distinct facts, from oldest to latest."""
        found = [
            (max(times), len(times), relation, other)
            for (owner, relation, other), times in self.seen.items()
            if owner == subject
        ]
        return [(relation, other, last, count) for last, count, relation, other in _latest(sorted(found), limit)]

    def ends_of(self, neighbour: int, config: HistoryConfig) -> list[tuple[int, int, int, int]]:
        """`facts_of` with which a path over a neighbour may end."""
        if config.two_hop_second == 0:
            return []
        nearest = self.facts_of(neighbour, config.two_hop_second)
        newest = {row[0]: row for row in self.facts_of(neighbour, config.two_hop_newest)}  # the last of each relation
        return [*nearest, *(row for row in newest.values() if row not in nearest)]

    def answers_of(self, subject: int, relation: int, limit: int) -> list[tuple[int, int, int]]:
        """(other, last, count) of the most recent distinct answers to (subject, relation, ?)."""
        found = [
            (max(times), len(times), other)
            for (owner, asked, other), times in self.seen.items()
            if (owner, asked) == (subject, relation)
        ]
        return [(other, last, count) for last, count, other in _latest(sorted(found), limit)]

    def popular(self, relation: int, limit: int) -> list[tuple[int, int, int]]:
        """(other, last, count of snapshots) of the most recent distinct objects of a relation."""
        times_of: dict[int, set[int]] = defaultdict(set)
        for (_, asked, other), times in self.seen.items():
            if asked == relation:
                times_of[other] |= times
        found = [(max(times), len(times), other) for other, times in times_of.items()]
        return [(other, last, count) for last, count, other in _latest(sorted(found), limit)]


def _latest(rows: list[Any], limit: int) -> list[Any]:
    return rows[len(rows) - min(limit, len(rows)) :]
