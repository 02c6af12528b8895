from collections import Counter
from dataclasses import replace

import pytest
import torch
from graphs import NUM_ENTITIES, graph_of, history_before, random_facts, tiny_config
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.nn.history_plan import HistoryPlan
from gam_kg.train.kept_plans import KEPT_PLAN_BYTES, KeptPlans
from gam_kg.train.loop import Trainer


def plan_of(*ends):
    return HistoryPlan(torch.tensor(ends, dtype=torch.int64), None, None, None)


@pytest.fixture
def queries():
    return graph_of(random_facts(0)).snapshot(4).queries


@pytest.mark.parametrize("ends", [(), (0, 255), (-1, 4), (32_768,), (2**40, 3)])
def test_a_plan_comes_back_as_it_was(queries, ends):
    kept = KeptPlans()
    kept.keep(queries, plan_of(*ends))
    found = kept.find(queries)
    assert found.ends.dtype == torch.int64
    assert found.ends.tolist() == list(ends)


def test_a_plan_is_found_for_its_own_queries_only(queries):
    kept = KeptPlans()
    kept.keep(queries, plan_of(1))
    assert kept.find(replace(queries, time=5)) is None
    assert kept.find(queries.select(torch.arange(len(queries)).flip(0))) is None
    assert kept.find(queries.select(torch.arange(1))) is None


def test_no_more_is_kept_than_there_is_room_for(queries):
    kept = KeptPlans(max_bytes=16 * len(queries) + 5)
    for time in range(3):
        kept.keep(replace(queries, time=time), plan_of(1, 2, 3))
    assert [kept.find(replace(queries, time=time)) is not None for time in range(3)] == [True, False, False]


def test_all_parts_of_a_plan_come_back(queries):
    history = history_before(graph_of(random_facts(0)), HistoryConfig(), 4)
    plan = HistoryPlan.of(history.look_up(queries), queries, NUM_ENTITIES)
    kept = KeptPlans()
    kept.keep(queries, plan)

    def flat(value):
        if isinstance(value, Tensor):
            return [value]
        parts = value if isinstance(value, tuple) else vars(value).values() if value is not None else ()
        return [tensor for part in parts for tensor in flat(part)]

    for found, expected in zip(flat(kept.find(queries)), flat(plan), strict=True):
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype


def test_training_with_kept_plans_looks_up_once_and_gives_the_same_numbers(monkeypatch):
    weights, looked_up = [], []
    for max_bytes in (KEPT_PLAN_BYTES, 0):
        trainer = Trainer(tiny_config(epochs=3, patience=3), graph_of(random_facts(0)))
        trainer._kept_plans = KeptPlans(max_bytes)
        times, original = [], trainer.history.look_up

        def look_up(asked, original=original, times=times):
            times.append(asked.time)
            return original(asked)

        monkeypatch.setattr(trainer.history, "look_up", look_up)
        list(trainer.run())
        weights.append(trainer.model.state_dict())
        looked_up.append(Counter(time for time in times if time in trainer.times))
    assert set(looked_up[0].values()) == {1}
    assert set(looked_up[1].values()) == {3}
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
