"""Metrics and comparisons of parts of the answers, against a plain group-by."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.metrics.bootstrap import paired_difference
from gam_kg.metrics.comparison import compare
from gam_kg.metrics.horizons import HORIZONS, horizon_bin
from gam_kg.metrics.parts import parts_of
from gam_kg.metrics.tree import setting_metrics
from gam_kg.schemas import ENTITIES_SEEN, MODEL, STRATA

KINDS = ("strata", "entities", "horizons", "relations", "inverse_relations")
RELATIONS = ["likes", "owns", "sees"]
FEWEST = 8
BASELINES = ("even", "odd")
seeds = st.integers(0, 10_000)


def random_answers(seed, size):
    """Answers as a frame, with the ranks of three scorers."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"query": np.sort(rng.integers(0, max(1, size // 2), size))})
    of_query = {"relation": 2 * len(RELATIONS), "horizon": 40, "time": 5}
    for name, end in of_query.items():
        frame[name] = rng.integers(0, end, size)[frame["query"]]
    frame["horizon"] += 1
    frame["stratum"] = rng.integers(0, len(STRATA) - 1, size)  # nothing is of the last one
    seen = rng.random(size) < rng.choice([0.5, 1.0])  # now and then nothing is unseen
    frame["entities"] = np.where(seen, *ENTITIES_SEEN)
    for name in (MODEL, *BASELINES):
        frame[name] = rng.geometric(0.2, size).astype(float)
    frame["relations"] = frame["relation"].map(dict(enumerate(RELATIONS)))
    frame["inverse_relations"] = frame["relation"].map({len(RELATIONS) + i: name for i, name in enumerate(RELATIONS)})
    frame["strata"] = frame["stratum"].map(dict(enumerate(STRATA)))
    frame["horizons"] = frame["horizon"].map(by_hand)
    return frame


def by_hand(horizon):
    """The name of a horizon's bin, read as a person reads it."""
    for name in HORIZONS:
        first, _, last = name.rstrip("+").partition("-")
        if int(first) <= horizon <= int(last or (first if "+" not in name else horizon)):
            return name
    raise AssertionError(horizon)


def parts(frame, fewest=FEWEST):
    stratum, horizon, relation = (frame[name].to_numpy() for name in ("stratum", "horizon", "relation"))
    entities = frame["entities"].map(ENTITIES_SEEN.index).to_numpy()
    return parts_of(stratum, entities, horizon, relation, RELATIONS, fewest)


def reciprocal(frame):
    return {name: 1 / frame[name].to_numpy() for name in (MODEL, *BASELINES)}


def test_every_horizon_is_in_the_one_bin_that_its_name_says():
    horizons = np.arange(1, 1200)
    names = [list(HORIZONS)[at] for at in horizon_bin(horizons)]
    assert names == [by_hand(horizon) for horizon in horizons.tolist()]
    assert set(names) == set(HORIZONS)


@given(seeds, st.integers(1, 80))
@settings(max_examples=30)
def test_parts_have_the_metrics_of_a_group_by(seed, size):
    frame = random_answers(seed, size)
    ranks = dict.fromkeys(("time_aware", "raw"), frame[MODEL].to_numpy())
    direction = 1 + (frame["relation"] >= len(RELATIONS)).to_numpy()
    tree = setting_metrics(frame["time"].to_numpy(), direction, parts(frame), ranks)
    for kind in KINDS:
        expected = {name: group[MODEL] for name, group in frame.groupby(kind)}
        if "relations" in kind:
            expected = {name: ranks for name, ranks in expected.items() if len(ranks) >= FEWEST}
        found = {name: leaf for name, leaf in tree[kind].items() if leaf["count"]}
        assert found.keys() == expected.keys(), kind
        for name, ranks in expected.items():
            assert found[name]["count"] == len(ranks)
            assert found[name]["mrr"] == pytest.approx((1 / ranks).mean())
            assert found[name]["hits@3"] == pytest.approx((ranks <= 3).mean())
    assert set(tree["strata"]) == set(STRATA)


@given(seeds, st.integers(1, 60))
@settings(max_examples=15, deadline=None)
def test_each_part_is_compared_on_its_answers_with_the_baseline_that_is_best_there_in_validation(seed, size):
    test, valid = random_answers(seed, size), random_answers(seed + 1, size)
    found = compare(
        test["query"].to_numpy(), reciprocal(test), parts(test), reciprocal(valid), parts(valid, fewest=1)
    )  # fmt: skip
    expected = {("overall", ""): (test, valid)}
    for kind in KINDS:
        for name, group in test.groupby(kind):
            if "relations" not in kind or len(group) >= FEWEST:
                same = valid[valid[kind] == name]
                expected[kind, name] = group, same if len(same) else valid
    flat = {(kind, name): leaf for kind, tree in found.items() if kind != "overall" for name, leaf in tree.items()}
    assert {("overall", ""): found["overall"], **flat}.keys() == expected.keys()
    for (kind, name), (group, tried) in expected.items():
        leaf = found[kind][name] if name else found[kind]
        assert leaf["count"] == len(group)
        scores = {baseline: (1 / tried[baseline]).sum() for baseline in BASELINES}
        assert scores[leaf["best_baseline"]] == pytest.approx(max(scores.values()))
        for baseline in BASELINES:
            one = paired_difference(
                *(1 / group[column].to_numpy() for column in (MODEL, baseline)), group["query"].to_numpy()
            )
            numbers = leaf["model_minus"][baseline]
            assert numbers == pytest.approx({"mrr": one.mean, "low": one.low, "high": one.high})
            assert numbers["mrr"] == pytest.approx((1 / group[MODEL]).mean() - (1 / group[baseline]).mean(), abs=1e-12)
