"""What ranks find of the past is together what one index of all facts finds, each rank its own candidates."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from columns import (
    confidence_columns,
    counted,
    fact_columns,
    joined_of,
    joined_rule_columns,
    layout_of,
    pair_columns,
    parts_of,
    path_columns,
    popular_columns,
    rule_columns,
)
from graphs import (
    HISTORY,
    NUM_ENTITIES,
    NUM_RELATIONS,
    all_queries,
    graph_of,
    queries_of,
    random_facts,
    snapshots_of,
)
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.graph.snapshot import Queries
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.index import HistoryIndex
from gam_kg.history.recency import Recent
from gam_kg.history.sharded import build_history
from gam_kg.history.walks import Joined

LIMITS = [
    {},
    {"recent": 2, "same_relation": 1, "popular": 1, "two_hop_first": 2, "two_hop_second": 1, "rule_bodies": 0},
    {"two_hop_first": 8, "two_hop_second": 1, "two_hop_newest": 50},
    {"recent": 0, "popular": 0, "two_hop_first": 50, "two_hop_second": 3, "rule_count": 2, "rule_heads": 1},
    {"recent": 1, "same_relation": 0, "popular": 2, "two_hop_first": 0, "rule_bodies": 50},
    {"max_rules": 100},
    {"recent": 50, "same_relation": 50, "popular": 50, "two_hop_first": 1, "two_hop_second": 50, "rule_bodies": 0},
]
GRAPHS = [(0, 60, 64), (1, 60, 3), (2, 120, 2), (3, 4, 64), (4, 0, 64)]
RECENT = (0, 1, 3, 1000)
"""How many of the most recent facts of a subject are looked up."""


def some_queries(time: int) -> Queries:
    return queries_of([(9, 1), (0, 0), (3, 2), (0, 4)], time)


# Before which snapshot, queries, and about when.
VIEWS = [(0, some_queries, 0), (4, all_queries, 8), (5, some_queries, 5), (6, all_queries, 6), (8, all_queries, 8)]


def graphs() -> list[TemporalGraph]:
    """With and without ties by name, which may be any numbers."""
    found = []
    for seed, size, buckets in GRAPHS:
        graph = graph_of(random_facts(seed, size), buckets=buckets)
        generator, limits = torch.Generator().manual_seed(seed), (-(2**62), 2**62)
        entity_tie = torch.randint(*limits, (NUM_ENTITIES,), generator=generator)
        relation_tie = torch.randint(*limits, (2 * NUM_RELATIONS,), generator=generator)
        found += [graph, replace(graph, entity_tie=entity_tie, relation_tie=relation_tie)]
    return found


def found_by(history: HistoryIndex, joined: Joined, ids: Tensor) -> dict[str, Counter]:
    """What is found for queries, by part, with the candidate's id in second place."""
    found = {}
    for name, (walks, pairs) in parts_of(joined).items():
        columns = {"facts": fact_columns, "paths": path_columns}[name](walks)
        found[name] = with_ids(columns, ids)
        found[f"pairs of {name}"] = with_ids(pair_columns(walks, pairs, history.num_rows), ids)
    layout = layout_of(history, joined)
    if layout.popularity is not None:
        found["popular"] = with_ids(popular_columns(layout), ids)
    if history.rules is not None:
        for name, limit in (("rules", None), ("rules with some heads", history.config.rule_heads)):
            found[name] = with_ids(rule_columns(history, joined.found.groups.queries, 1, limit), ids)
        found["joined rules"] = with_ids(joined_rule_columns(joined), ids)
    found["confidences"] = with_ids(confidence_columns(joined), ids)
    found["known answers"] = with_ids(joined.found.known_answers, ids)
    return found


def with_ids(columns: Sequence[Tensor], ids: Tensor) -> Counter:
    first, row, *rest = columns
    return counted((first, ids[row], *rest))


def found_of_subjects(index: HistoryIndex, found: Recent, ids: Tensor) -> Counter:
    relation, other = found.item // index.num_rows, ids[found.item % index.num_rows]
    return counted((found.row, other, relation, found.last, found.count))


def owned_part(found: Counter, owned: list[bool]) -> Counter:
    return Counter({row: times for row, times in found.items() if owned[row[1]]})


@pytest.fixture(scope="module")
def of_whole() -> list[Any]:
    """What one index finds in all cases: of a view the walks, the least hits of a rule, and all that is found."""
    cases: list[Any] = []
    subjects, every = torch.arange(NUM_ENTITIES), torch.arange(NUM_ENTITIES)
    for graph in graphs():
        for changes in LIMITS:
            whole = HistoryIndex(graph, HistoryConfig(**{**HISTORY, **changes}))
            for before, queries, time in VIEWS:
                for snapshot in snapshots_of(graph, range(whole.end, before)):
                    whole.insert(snapshot)
                joined = joined_of(whole, queries(time))
                cases.append((joined.found.num_walks, fewest_of(whole), found_by(whole, joined, every)))
        for limit in RECENT:
            found = whole.recent((whole.by_subject, subjects, limit))[0]
            cases.append(found_of_subjects(whole, found, every))
    return cases


def fewest_of(history: HistoryIndex) -> int | None:
    return history.rules.fewest if history.rules is not None else None


def compare(communicator: Communicator, of_whole: list[Any]) -> Counter:
    """Compares all cases on a rank; returns how many rows it has found by part."""
    rows: Counter = Counter()
    subjects, cases = torch.arange(NUM_ENTITIES), iter(of_whole)
    for number, graph in enumerate(graphs()):
        shard = graph.shard(communicator.rank, communicator.world_size)
        ids, owned = shard.partition.ids, shard.partition.owns(torch.arange(NUM_ENTITIES)).tolist()
        for changes in LIMITS:
            mine = build_history(shard, HistoryConfig(**{**HISTORY, **changes}), communicator)
            for before, queries, time in VIEWS:
                for snapshot in read_snapshots(shard, range(mine.end, before), communicator):
                    mine.insert(snapshot)
                joined = joined_of(mine, queries(time))
                num_walks, fewest, expected = next(cases)
                assert int(communicator.sum(torch.tensor(joined.found.num_walks), "history")) == num_walks
                assert fewest_of(mine) == fewest
                found = found_by(mine, joined, ids)
                assert found.keys() == expected.keys()
                for part, theirs in expected.items():
                    case = f"graph {number}, {changes}, {part} of {time} before {before}"
                    assert found[part] == owned_part(theirs, owned), case
                    rows[part] += len(found[part])
        for limit in RECENT:
            found = found_of_subjects(mine, mine.recent((mine.by_subject, subjects, limit))[0], ids)
            assert found == owned_part(next(cases), owned), f"graph {number}, recent facts, {limit}"
    assert next(cases, None) is None
    return rows


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_find_together_what_one_index_finds(rank_pool, of_whole: list[Any], world_size: int) -> None:
    parts = rank_pool.run(world_size, compare, of_whole)
    total: Counter = sum(parts, Counter())
    rules = {"rules", "rules with some heads", "joined rules", "confidences"}
    walks = {"facts", "pairs of facts", "paths", "pairs of paths"}
    assert set(total) == {*walks, "popular", "known answers", *rules}
    assert min(total.values()) > 1000
    # What is compared is a real division.
    assert sum(len(part) > 0 for part in parts) >= 2


def compare_epochs(communicator: Communicator, seed: int) -> int:
    """Look-ups in three epochs, as training does, against those of the whole.

    Between the epochs there are queries about later than is inserted, as in multi-step evaluation.
    """
    graph, config = graph_of(random_facts(seed, 120), buckets=5), HistoryConfig(**HISTORY)
    shard, every = graph.shard(communicator.rank, communicator.world_size), torch.arange(NUM_ENTITIES)
    owned = shard.partition.owns(every).tolist()
    mine, whole = build_history(shard, config, communicator), HistoryIndex(graph, config)

    def look_up(requested: Queries, case: str) -> int:
        found = found_by(mine, joined_of(mine, requested), shard.partition.ids)
        expected = found_by(whole, joined_of(whole, requested), every)
        for part, theirs in expected.items():
            assert found[part] == owned_part(theirs, owned), f"{part}, {case}"
        return sum(len(part) for part in found.values())

    rows = 0
    for epoch in range(3):
        mine.reset()
        whole.reset()
        times = graph.times[: len(graph.times) - epoch]
        both = zip(read_snapshots(shard, times, communicator), snapshots_of(graph, times), strict=True)
        for snapshot, other in both:
            assert torch.equal(snapshot.queries.answer, other.queries.answer)
            half = snapshot.queries.select(torch.arange(0, len(snapshot.queries), 2))
            for requested in (snapshot.queries, half):
                rows += look_up(requested, f"epoch {epoch}, {snapshot.time}")
            mine.insert(snapshot)
            whole.insert(other)
        for time in (graph.end + 3, graph.times[-1] + (epoch == 0)):
            rows += look_up(all_queries(time), f"about {time} after epoch {epoch}")
    return rows


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_look_ups_find_what_one_index_finds_in_every_epoch(rank_pool, world_size: int, seed: int) -> None:
    assert sum(rank_pool.run(world_size, compare_epochs, seed)) > 1000
