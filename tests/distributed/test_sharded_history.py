"""What ranks look up of the past is together what one index of all facts finds, each rank its own candidates."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from graphs import (
    HISTORY,
    NUM_ENTITIES,
    NUM_RELATIONS,
    NUM_SNAPSHOTS,
    all_queries,
    graph_of,
    moments_of,
    queries_of,
    random_facts,
)
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.data.graph import TemporalGraph
from gam_kg.data.history import HistoryIndex
from gam_kg.data.past import History
from gam_kg.data.recency import Recent
from gam_kg.data.snapshot import Moment, Queries
from gam_kg.distributed.moments import read_moments
from gam_kg.distributed.sharded_history import build_history
from gam_kg.distributed.topology import Topology

LIMITS = [
    {},
    {"recent": 2, "same_relation": 1, "popular": 1, "two_hop_first": 2, "two_hop_second": 1},
    {"recent": 0, "popular": 0, "two_hop_first": 50, "two_hop_second": 3},
    {"recent": 1, "same_relation": 0, "popular": 2, "two_hop_first": 0},
    {"recent": 50, "same_relation": 50, "popular": 50, "two_hop_first": 1, "two_hop_second": 50},
]
GRAPHS = [(0, 60, 64), (1, 60, 3), (2, 120, 2), (3, 4, 64), (4, 0, 64)]


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


def counted(*columns: Tensor) -> Counter:
    return Counter(zip(*(column.tolist() for column in columns), strict=True))


def told(history: History, ids: Tensor) -> dict[str, Counter]:
    """What a look-up tells, by part, with the candidate's id in second place."""
    found = {}
    if (pairs := history.pairs) is not None:
        entry, pair = pairs.link_entry, pairs.link_pair
        assert torch.equal(pairs.pair_query[pair], pairs.link_query)
        assert torch.equal(pairs.pair_other[pair], pairs.entry_other[entry])
        found["facts"] = counted(
            pairs.link_query,
            ids[pairs.entry_other[entry]],
            pairs.entry_relation[entry],
            pairs.entry_recency[entry],
            pairs.entry_count[entry],
            pairs.entry_same[entry],
        )
        found["pairs"] = counted(pairs.pair_query, ids[pairs.pair_other], *pairs.pair_features.T)
    if (paths := history.paths) is not None:
        first, second = paths.path_first[paths.link_path], paths.path_second[paths.link_path]
        assert torch.equal(paths.pair_query[paths.link_pair], paths.link_query)
        assert torch.equal(paths.pair_other[paths.link_pair], paths.second_other[second])
        found["paths"] = counted(
            paths.link_query,
            ids[paths.second_other[second]],
            paths.first_relation[first],
            paths.first_recency[first],
            paths.second_relation[second],
            paths.second_recency[second],
            paths.second_count[second],
        )
        found["ends of paths"] = counted(paths.pair_query, ids[paths.pair_other])
    if (popular := history.popularity) is not None:
        found["popular"] = counted(popular.relations[popular.row], ids[popular.other], popular.recency, popular.count)
    return found


def told_of_subjects(index: HistoryIndex, found: Recent, ids: Tensor) -> Counter:
    relation, other = found.item // index.stride, ids[found.item % index.stride]
    return counted(found.row, other, relation, found.last, found.count)


def owned_part(found: Counter, owned: list[bool]) -> Counter:
    return Counter({row: times for row, times in found.items() if owned[row[1]]})


def compare(topology: Topology) -> Counter:
    """Compares all cases on a rank, and tells how many rows it has found by part."""
    rows: Counter = Counter()
    subjects = torch.arange(NUM_ENTITIES)
    for number, graph in enumerate(graphs()):
        shard = graph.shard(topology.rank, topology.world_size)
        ids, every = shard.partition.ids, torch.arange(NUM_ENTITIES)
        owned = shard.partition.owns(every).tolist()
        for changes in LIMITS:
            config = HistoryConfig(**{**HISTORY, **changes})
            mine, whole = build_history(shard, config, topology), HistoryIndex(graph, config)
            for before, queries, time in VIEWS:
                for moment in read_moments(shard, range(mine.as_of, before), topology):
                    mine.remember(moment)
                for moment in moments_of(graph, range(whole.as_of, before)):
                    whole.remember(moment)
                asked = queries(time)
                found, expected = told(mine.look_up(asked), ids), told(whole.look_up(asked), every)
                assert found.keys() == expected.keys()
                for part, theirs in expected.items():
                    case = f"graph {number}, {changes}, {part} of {time} before {before}"
                    assert found[part] == owned_part(theirs, owned), case
                    rows[part] += len(found[part])
        for limit in (0, 1, 3, 1000):
            found = told_of_subjects(mine, mine.recent_facts(subjects, limit), ids)
            expected = told_of_subjects(whole, whole.recent_facts(subjects, limit), every)
            assert found == owned_part(expected, owned), f"graph {number}, recent facts, {limit}"
    return rows


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_look_up_together_what_one_index_finds(rank_pool, world_size: int) -> None:
    parts = rank_pool.run(world_size, compare)
    total: Counter = sum(parts, Counter())
    assert set(total) == {"facts", "pairs", "paths", "ends of paths", "popular"}
    assert min(total.values()) > 1000
    # What is compared is a real division.
    assert sum(len(part) > 0 for part in parts) >= 2


def compare_planned(topology: Topology, seed: int, room: int) -> int:
    """Look-ups planned some snapshots ahead in three epochs, as training does, against those of the whole.

    Between the epochs it is asked without a plan, about later than is told, as multi-step evaluation does.
    """
    graph, config = graph_of(random_facts(seed, 120), buckets=5), HistoryConfig(**HISTORY)
    shard, every = graph.shard(topology.rank, topology.world_size), torch.arange(NUM_ENTITIES)
    owned = shard.partition.owns(every).tolist()
    mine, whole = build_history(shard, config, topology), HistoryIndex(graph, config)
    mine._room = room

    def look_up(asked: Queries, case: str) -> int:
        found, expected = told(mine.look_up(asked), shard.partition.ids), told(whole.look_up(asked), every)
        for part, theirs in expected.items():
            assert found[part] == owned_part(theirs, owned), f"{part}, {case}"
        return sum(len(part) for part in found.values())

    rows = 0
    for epoch in range(3):
        mine.reset()
        whole.reset()
        times = graph.times[: len(graph.times) - epoch]
        both = zip(read_moments(shard, times, topology, by_three(mine.plan)), moments_of(graph, times), strict=True)
        for moment, other in both:
            assert torch.equal(moment.queries.answer, other.queries.answer)
            for asked in (moment.queries, moment.queries.select(torch.arange(0, len(moment.queries), 2))):
                rows += look_up(asked, f"epoch {epoch}, {moment.time}")
            mine.remember(moment)
            whole.remember(other)
        # Of the second there is a plan, of more than is told by now.
        for time in (graph.end + 3, graph.times[-1] + (epoch == 0)):
            rows += look_up(all_queries(time), f"about {time} after epoch {epoch}")
    return rows


def updates_by_epoch(topology: Topology) -> list[int]:
    """How often own past is told of a snapshot in each of three epochs whose plans are kept."""
    graph = graph_of(random_facts(0, 120), buckets=5).shard(topology.rank, topology.world_size)
    history = build_history(graph, HistoryConfig(**HISTORY), topology)
    told_of: list[int] = []
    for part in history._parts:
        tell = part._keys
        part._keys = lambda moment, tell=tell: (told_of.append(moment.time), tell(moment))[1]
    updates = []
    for _ in range(3):
        history.reset()
        for moment in read_moments(graph, graph.times, topology, history.plan):
            history.look_up(moment.queries)
            history.remember(moment)
        updates.append(len(told_of))
        told_of.clear()
    return updates


def test_an_epoch_whose_plans_are_kept_needs_no_own_past(rank_pool) -> None:
    assert rank_pool.run(2, updates_by_epoch) == [[3 * NUM_SNAPSHOTS, 0, 0]] * 2


def by_three(plan: Callable[[list[Moment]], None]) -> Callable[[list[Moment]], None]:
    return lambda moments: [plan(moments[first : first + 3]) for first in range(0, len(moments), 3)]


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("room", [0, 30_000, 2**30])
@pytest.mark.parametrize("seed", [0, 1])
def test_planned_look_ups_find_what_one_index_finds_in_every_epoch(
    rank_pool, world_size: int, room: int, seed: int
) -> None:
    assert sum(rank_pool.run(world_size, compare_planned, seed, room)) > 1000
