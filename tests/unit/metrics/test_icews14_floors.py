"""The untrained baselines reach their known figures on ICEWS14, so that the protocol is the published one."""

import os
from pathlib import Path

import numpy as np
import pytest
from graphs import moments_of

from gam_kg.config import HistoryConfig
from gam_kg.data.graph import TemporalGraph
from gam_kg.data.history import HistoryIndex
from gam_kg.metrics.baselines import build_baselines
from gam_kg.metrics.strata import Strata
from gam_kg.metrics.summary import RankSummary
from gam_kg.schemas import STRATA
from gam_kg.train.evaluate import Scorer, rank_split, roll

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "data" / "icews14"


@pytest.fixture(scope="module")
def answer_ranks():
    if not FOLDER.exists():
        message = f"{FOLDER} is missing: the ICEWS14 figures were not checked"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    splits = {
        name: np.loadtxt(FOLDER / f"{name}.txt", dtype=np.int64, usecols=range(4))
        for name in ("train", "valid", "test")
    }
    facts = np.concatenate(list(splits.values()))
    graph = TemporalGraph.from_facts(
        facts,
        num_entities=int(facts[:, [0, 2]].max()) + 1,
        num_relations=int(facts[:, 1].max()) + 1,
        valid_start=int(splits["valid"][:, 3].min()),
        test_start=int(splits["test"][:, 3].min()),
    )
    assert len(splits["test"]) == 7371
    history = HistoryIndex(graph, HistoryConfig())
    baselines = build_baselines(history, graph.partition, graph.num_relations)
    scorers: dict[str, Scorer] = {name: baselines[name] for name in ("recurrency_strict", "recurrency_combined")}
    past, test = (
        moments_of(graph, [time for time in graph.times if (time >= graph.test_start) == is_test])
        for is_test in (False, True)
    )
    roll(scorers.values(), history, past)
    return rank_split(scorers, history, test, partition=graph.partition, strata=Strata(graph), max_scores=4_000_000)


def percent_mrr(ranks):
    return 100 * RankSummary.of(ranks).compute()["mrr"]


def test_recurrency_reaches_its_known_figures(answer_ranks):
    assert len(answer_ranks.answer) == 2 * 7371
    assert percent_mrr(answer_ranks.time_aware["recurrency_strict"]) == pytest.approx(35.5, abs=0.1)
    assert percent_mrr(answer_ranks.time_aware["recurrency_combined"]) == pytest.approx(37.5, abs=0.15)
    assert percent_mrr(answer_ranks.raw["recurrency_combined"]) == pytest.approx(36.6, abs=0.1)


def test_strata_have_their_known_shares(answer_ranks):
    shares = {name: 100 * float((answer_ranks.stratum == index).mean()) for index, name in enumerate(STRATA)}
    assert shares == pytest.approx({"recurrent": 52.4, "pair_only": 22.0, "cold": 25.7}, abs=0.1)
