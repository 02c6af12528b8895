"""Baselines and strata on any number of ranks are those of one rank."""

from dataclasses import fields

import numpy as np
import pytest
from graphs import HISTORY, TEST_START, graph_of, random_facts

from gam_kg.config import HistoryConfig
from gam_kg.distributed.queries import all_queries
from gam_kg.distributed.sharded_history import build_history
from gam_kg.distributed.topology import Topology
from gam_kg.metrics.baselines import build_baselines
from gam_kg.metrics.strata import Strata
from gam_kg.train.evaluate import AnswerRanks, rank_split, roll

NAMES = {"popularity", "recurrency_strict", "recurrency_combined", "typed_pair_counts"}
CASES = {
    "random": (0, 120, 64, 1000, None),
    "uneven shards": (1, 120, 3, 1000, None),
    "a shard without entities": (2, 60, 2, 1000, None),
    "few facts of a subject": (3, 120, 64, 2, None),
    "multi-step": (4, 120, 64, 1000, TEST_START),
}


def rank_with_baselines(topology: Topology, case: str) -> tuple[AnswerRanks, float]:
    seed, size, buckets, limit, frozen_at = CASES[case]
    graph = graph_of(random_facts(seed, size), buckets=buckets).shard(topology.rank, topology.world_size)
    history = build_history(graph, HistoryConfig(**HISTORY), topology)
    baselines = build_baselines(history, graph.partition, graph.num_relations, topology)
    baselines["typed_pair_counts"].limit = limit
    valid, test = graph.times_in("valid"), graph.times_in("test")
    for baseline in baselines.values():
        baseline.tune([all_queries(graph.snapshot(time), topology) for time in valid])
    times = [*valid, *test]
    start = times[0] if frozen_at is None else frozen_at
    roll(baselines.values(), graph, [time for time in graph.times if time < start])
    ranks = rank_split(
        baselines,
        graph,
        times if frozen_at is None else test,
        frozen_at=frozen_at,
        strata=Strata(graph, topology),
        topology=topology,
        max_scores=60,
    )
    return ranks, baselines["recurrency_strict"].decay


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_ranks_of_baselines_and_strata_are_those_of_one_rank(rank_pool, case: str, world_size: int) -> None:
    expected, decay = rank_with_baselines(Topology(), case)
    assert expected.time_aware.keys() == NAMES
    assert len(set(expected.stratum.tolist())) == 3
    for found, found_decay in rank_pool.run(world_size, rank_with_baselines, case):
        assert found_decay == decay
        for field in fields(AnswerRanks):
            mine, theirs = getattr(found, field.name), getattr(expected, field.name)
            if isinstance(theirs, dict):
                assert mine.keys() == theirs.keys()
                for name, ranks in theirs.items():
                    assert np.array_equal(mine[name], ranks), f"{field.name} of {name}"
            else:
                assert np.array_equal(mine, theirs), field.name
