"""A run of which a part is prepared, and the rest comes as updates; and the same prepared whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from graphs import graph_of, write_graph

from gam_kg.artifacts import Manifest, read_manifest
from gam_kg.graph.temporal_graph import TemporalGraph, read_names
from gam_kg.graph.update_chain import Update, read_updates, write_update
from gam_kg.ingest.vocabulary import Vocabulary

BUCKETS = 3
SIZES = ((6, 2), (8, 2), (8, 3), (10, 4))
"""Entities and relations of the prepared graph, and after each update."""
END, LAST = 8, 12
"""The snapshots after the last of the prepared graph and of all."""
CHECKPOINT = Manifest("checkpoint", "key", {}, {})


@dataclass(frozen=True)
class Divided:
    """Facts (subject, relation, object, snapshot) of the prepared graph and of each update, (num_facts, 4) each."""

    prepared: np.ndarray
    added: Sequence[np.ndarray]

    @property
    def every(self) -> np.ndarray:
        """All facts."""
        return np.concatenate([self.prepared, *self.added])


def divided_facts(seed: int, num_facts: int = 200, *, late: bool = True) -> Divided:
    """Facts of which few entities have most; `late`: updates also bring facts of times that the prepared graph has."""
    generator, (num_entities, num_relations) = np.random.default_rng(seed), SIZES[-1]
    ends = np.minimum(generator.geometric(0.25, (2, num_facts)) - 1, num_entities - 1)
    relation, time = generator.integers(0, num_relations, num_facts), generator.integers(0, LAST, num_facts)
    facts = np.unique(np.stack([ends[0], relation, ends[1], time], 1), axis=0)
    entity, relation, time = facts[:, [0, 2]].max(1), facts[:, 1], facts[:, 3]
    first = sum(((entity >= size) | (relation >= of_relations)).astype(int) for size, of_relations in SIZES[:-1])
    part = np.maximum(first, np.where(time < END, 0, generator.integers(1, len(SIZES), len(facts))))
    if late:
        part = np.maximum(part, generator.choice(len(SIZES), len(facts), p=[0.7, 0.1, 0.1, 0.1]))
    else:
        part[(part > 0) & (time < END)] = len(SIZES)  # in none
    return Divided(facts[part == 0], [facts[part == number] for number in range(1, len(SIZES))])


def write_prepared(run: Path, divided: Divided) -> TemporalGraph:
    """Write the `graph/` of a run before its updates."""
    num_entities, num_relations = SIZES[0]
    graph = graph_of(divided.prepared, BUCKETS, num_entities=num_entities, num_relations=num_relations)
    write_graph(run / "graph", graph, BUCKETS)
    return graph


def write_whole(run: Path, divided: Divided) -> None:
    """Write the `graph/` that has everything."""
    num_entities, num_relations = SIZES[-1]
    graph = graph_of(divided.every, BUCKETS, num_entities=num_entities, num_relations=num_relations)
    write_graph(run / "graph", graph, BUCKETS)


def add_updates(run: Path, divided: Divided, checkpoint: Manifest = CHECKPOINT) -> tuple[Update, ...]:
    """Write the updates of a run, each after it has read those before; returns them as they are read."""
    for before, after, facts in zip(SIZES, SIZES[1:], divided.added, strict=False):
        add_update(run, facts[::-1], before, after, checkpoint)
    return read_updates(run, read_manifest(run / "graph", "graph"))


def add_update(
    run: Path, facts: np.ndarray, before: tuple[int, int], after: tuple[int, int], checkpoint: Manifest
) -> None:
    """Write the next update of a run; entities and relations before and after it."""
    graph = read_manifest(run / "graph", "graph")
    updates = read_updates(run, graph)
    known = tuple(Vocabulary(read_names(run / "graph", kind, updates), kind) for kind in ("entity", "relation"))
    write_update(
        run,
        graph=graph,
        checkpoint=checkpoint,
        previous=updates[-1] if updates else None,
        vocabularies=known,
        facts=facts,
        entities=new_names("entity", before[0], after[0]),
        relations=new_names("relation", before[1], after[1]),
    )


def new_names(kind: str, first: int, end: int) -> pa.Table:
    """ENTITIES or RELATIONS of names as `write_graph` gives them."""
    numbers, count = range(first, end), "degree" if kind == "entity" else "count"
    names = pa.array([f"{kind} {number}" for number in numbers], pa.large_string())
    columns = {f"{kind}_id": pa.array(numbers, pa.int64()), kind: names}
    return pa.table(columns | dict.fromkeys((count, "first_snapshot"), pa.array([1] * len(names), pa.int64())))
