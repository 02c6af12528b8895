"""Baselines and strata on any number of ranks are those of one rank."""

from dataclasses import fields
from functools import partial

import numpy as np
import pytest
from graphs import HISTORY, TEST_START, VALID_START, graph_of, random_facts

from gam_kg.config import HistoryConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.history.sharded import build_history
from gam_kg.metrics.all_baselines import build_baselines
from gam_kg.metrics.strata import Strata
from gam_kg.training.evaluate import AnswerRanks, rank_split, roll

NAMES = {"popularity", "recurrency_strict", "recurrency_combined", "typed_pair_counts", "rule_counts"}
CASES = {
    "random": (0, 120, 64, 1000, False),
    "uneven shards": (1, 120, 3, 1000, False),
    "a shard without entities": (2, 60, 2, 1000, False),
    "few facts of a subject": (3, 120, 64, 2, False),
    "multi-step": (4, 120, 64, 1000, True),
}


def rank_with_baselines(communicator: Communicator, case: str) -> AnswerRanks:
    seed, size, buckets, limit, multi_step = CASES[case]
    graph = graph_of(random_facts(seed, size), buckets=buckets).shard(communicator.rank, communicator.world_size)
    history = build_history(graph, HistoryConfig(**HISTORY), communicator)
    baselines = build_baselines(history)
    baselines["typed_pair_counts"].limit = limit
    start = TEST_START if multi_step else VALID_START
    past, ranked = ([time for time in graph.times if (time >= start) == later] for later in (False, True))
    roll(baselines.values(), history, read_snapshots(graph, past, communicator))
    return rank_split(
        baselines,
        history,
        read_snapshots(graph, ranked, communicator),
        partition=graph.partition,
        now=TEST_START if multi_step else None,
        strata=Strata(graph, partial(communicator.sum, purpose="ranks")),
        communicator=communicator,
        max_scores=60,
    )


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_ranks_of_baselines_and_strata_are_those_of_one_rank(rank_pool, case: str, world_size: int) -> None:
    expected = rank_with_baselines(Communicator(), case)
    assert expected.time_aware.keys() == NAMES
    assert len(set(expected.stratum.tolist())) == 3
    for found in rank_pool.run(world_size, rank_with_baselines, case):
        for field in fields(AnswerRanks):
            mine, theirs = getattr(found, field.name), getattr(expected, field.name)
            if isinstance(theirs, dict):
                assert mine.keys() == theirs.keys()
                for name, ranks in theirs.items():
                    assert np.array_equal(mine[name], ranks), f"{field.name} of {name}"
            else:
                assert np.array_equal(mine, theirs), field.name
