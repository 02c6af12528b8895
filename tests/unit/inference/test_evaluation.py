"""The evaluation of a run: what it reports, and how the baselines are chosen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import graph_of, random_facts, tiny_config, write_graph
from runs import train_run

from gam_kg.config import EvaluateConfig
from gam_kg.errors import EvaluationError
from gam_kg.inference.answers import answer_queries
from gam_kg.inference.evaluation import count_ticks, evaluate_run
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.metrics.baselines import StrictRecurrency
from gam_kg.metrics.horizons import HORIZONS
from gam_kg.schemas import ENTITIES_SEEN
from gam_kg.training import evaluate

SETTINGS = EvaluateConfig(settings=("single_step",))


def recurrency(run: TrainedRun) -> dict[str, float]:
    """The MRR of strict recurrency on each split."""
    tree = evaluate_run(run, SETTINGS).metrics["baselines"]["recurrency_strict"]
    return {split: tree[split]["single_step"]["time_aware"]["both"]["mrr"] for split in SETTINGS.splits}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_graph(folder / "graph", graph_of(random_facts(1, 150), buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    return TrainedRun.load(folder)


def test_the_decay_of_recurrency_is_the_one_that_is_best_on_validation(run, monkeypatch):
    decays, chosen, alone = StrictRecurrency.decays, recurrency(run), {}
    for decay in decays:
        monkeypatch.setattr(StrictRecurrency, "decays", (decay,))
        alone[decay] = recurrency(run)
    ordered = sorted(decays, key=lambda decay: alone[decay]["valid"], reverse=True)
    assert alone[ordered[0]]["valid"] > alone[ordered[1]]["valid"], "the best decay must be the only best one"
    assert ordered[0] not in (decays[0], decays[-1]), "the best decay must be neither the first nor the last"
    assert chosen == alone[ordered[0]]


@pytest.fixture(scope="module")
def whole(run):
    """Everything, evaluated with a temperature of 2 at the second horizon and of 3 beyond."""
    return evaluate_run(heated(run), EvaluateConfig())


@pytest.mark.parametrize("splits", [("valid", "test"), ("valid",)])
def test_a_split_without_facts_has_no_results(run, splits):
    all_valid = replace(run, graph=replace(run.graph, test_start=run.graph.end))
    ticks = []
    config = EvaluateConfig(splits=splits)
    found = evaluate_run(all_valid, config, lambda: ticks.append(None))
    assert len(ticks) == count_ticks(all_valid, config)
    assert found.metrics.keys() == {"valid", "baselines", "comparison"}
    assert {split for tree in found.metrics["baselines"].values() for split in tree} == {"valid"}
    assert set(found.ranks["split"].to_pylist()) == {"valid"}
    assert set(found.ranks["snapshot"].to_pylist()) == {*run.graph.times_in("valid"), *run.graph.times_in("test")}


def test_only_splits_without_facts_are_refused(run):
    all_valid = replace(run, graph=replace(run.graph, test_start=run.graph.end))
    with pytest.raises(EvaluationError, match=r"no facts in test; rank others, for instance evaluate.splits=\[valid\]"):
        evaluate_run(all_valid, EvaluateConfig(splits=("test",)))


def heated(run):
    """The run with other temperatures."""
    temperatures = {"1": 1.0, "2": 2.0} | dict.fromkeys(list(HORIZONS)[2:], 3.0)
    content = {**run.checkpoint_manifest.content, "temperatures": temperatures}
    return replace(run, checkpoint_manifest=replace(run.checkpoint_manifest, content=content))


def test_horizons_count_from_the_start_of_the_split_and_have_the_metrics_of_their_ranks(run, whole):
    ranks = whole.ranks.to_pandas()
    for split, rows in ranks.groupby("split"):
        assert (rows["horizon"] == rows["snapshot"] - run.graph.bounds(split)[0] + 1).all()
        for prefix, tree in {"": whole.metrics, "popularity_": whole.metrics["baselines"]["popularity"]}.items():
            found = {name: leaf["mrr"] for name, leaf in tree[split]["multi_step"]["horizons"].items()}
            by_hand = (1 / rows[f"{prefix}rank_multi_step"]).groupby(rows["horizon"]).mean()
            assert found == pytest.approx({str(horizon): mrr for horizon, mrr in by_hand.items()})
            assert list(tree[split]["single_step"]["horizons"]) == ["1"]
    assert set(ranks["horizon"]) == {1, 2}


def test_answers_of_entities_without_facts_in_train_are_a_part(tmp_path):
    facts = np.array([*random_facts(1, 150), (9, 0, 1, 6), (1, 2, 9, 7)])
    facts = facts[
        ((facts[:, [0, 2]] != 9) | (facts[:, 3:] > 5)).all(1)
    ]  # entity 9 comes with the first snapshot of test
    write_graph(tmp_path / "graph", graph_of(facts, buckets=3), buckets=3)
    train_run(tmp_path, tiny_config(epochs=1))
    whole = evaluate_run(TrainedRun.load(tmp_path), EvaluateConfig())
    ranks, seen, unseen = whole.ranks.to_pandas(), *ENTITIES_SEEN
    late = (ranks["subject_id"] == 9) | (ranks["object_id"] == 9)
    assert late.sum() >= 4
    assert (ranks["entities"] == np.where(late, unseen, seen)).all()
    for setting, suffix in (("single_step", ""), ("multi_step", "_multi_step")):
        trees = {"": whole.metrics, "popularity_": whole.metrics["baselines"]["popularity"]}
        mrr = {prefix: (1 / ranks.loc[late, f"{prefix}rank{suffix}"]).mean() for prefix in trees}
        for prefix, tree in trees.items():
            leaf = tree["test"][setting]["entities"][unseen]
            assert (leaf["count"], leaf["mrr"]) == (late.sum(), pytest.approx(mrr[prefix]))
        compared = whole.metrics["comparison"]["test"][setting]["entities"][unseen]
        difference = compared["model_minus"]["popularity"]
        assert difference["mrr"] == pytest.approx(mrr[""] - mrr["popularity_"])
        assert difference["low"] <= difference["mrr"] <= difference["high"]
        assert set(whole.metrics["valid"][setting]["entities"]) == {seen}


def test_the_model_is_compared_with_each_baseline_and_the_best_on_validation_is_named(whole):
    ranks, compared = whole.ranks.to_pandas(), whole.metrics["comparison"]
    for split in ("valid", "test"):
        for setting, suffix in (("single_step", ""), ("multi_step", "_multi_step")):
            tree, rows = compared[split][setting], ranks[ranks["split"] == split]
            assert tree["chosen_on"] == "valid"
            for name, difference in tree["overall"]["model_minus"].items():
                mine, theirs = ((1 / rows[f"{prefix}rank{suffix}"]).mean() for prefix in ("", f"{name}_"))
                assert difference["mrr"] == pytest.approx(mine - theirs)
                assert difference["low"] <= difference["mrr"] <= difference["high"]
            baselines = whole.metrics["baselines"]
            mrr = {name: baselines[name]["valid"][setting]["time_aware"]["both"]["mrr"] for name in baselines}
            assert mrr[tree["overall"]["best_baseline"]] == max(mrr.values())


def test_without_validation_the_best_baseline_is_that_of_test_and_without_baselines_there_is_none(run):
    alone = evaluate_run(run, EvaluateConfig(splits=("test",)))
    assert alone.metrics["comparison"]["test"]["multi_step"]["chosen_on"] == "test"
    assert "comparison" not in evaluate_run(run, EvaluateConfig(baselines=False)).metrics


def test_calibration_is_that_of_the_models_softmax(run, whole):
    first, _ = run.graph.bounds("test")
    scorer, found = run.scorer_before(first), whole.metrics["test"]["multi_step"]["calibration"]
    assert [leaf["temperature"] for leaf in found.values()] == [1.0, 2.0]
    for time, leaf in zip(run.graph.times_in("test"), found.values(), strict=True):
        queries = run.graph.snapshot(time).queries.seen_from(first)
        scores = scorer.table(queries)
        assert leaf["count"] == len(queries)
        answered = set(zip(queries.answer_query.tolist(), queries.answer.tolist(), strict=True))
        hits = torch.tensor([(query, int(row.argmax())) in answered for query, row in enumerate(scores)])
        for kind, temperature in (("raw", 1.0), ("calibrated", leaf["temperature"])):
            softmax = (scores / temperature).softmax(1).double()
            log_answers = softmax[queries.answer_query, queries.answer].log()
            assert leaf[f"log_likelihood_{kind}"] == pytest.approx(float(log_answers.mean()), rel=1e-5)
            best, error, tenths = softmax.amax(1), 0.0, []
            for tenth in range(10):
                here = (best * 10).long() == tenth
                error += abs(float((best[here] - hits[here].double()).sum())) / len(queries)
                if here.any():
                    tenths.append([here.sum(), best[here].mean(), hits[here].double().mean()])
            assert leaf[f"ece_{kind}"] == pytest.approx(error, abs=1e-5)
            shown = [list(one.values()) for one in leaf["tenths"][kind]]
            np.testing.assert_allclose(shown, tenths, rtol=1e-5)
            assert list(leaf["tenths"][kind][0]) == ["count", "probability", "share"]


def test_calibration_is_the_same_where_scores_are_not_written_out(run, whole, monkeypatch):
    monkeypatch.setattr(evaluate, "MOST_WRITTEN_OUT", 1)
    found = evaluate_run(heated(run), EvaluateConfig(baselines=False)).metrics["test"]["multi_step"]["calibration"]
    for name, leaf in whole.metrics["test"]["multi_step"]["calibration"].items():
        for kind, tenths in leaf["tenths"].items():
            assert found[name]["tenths"][kind] == [pytest.approx(tenth, rel=1e-5) for tenth in tenths]
        assert found[name] | {"tenths": 0} == pytest.approx(leaf | {"tenths": 0}, rel=1e-5)


def test_probabilities_of_answers_have_the_temperature_of_their_horizon(run):
    end, pair = run.graph.end, np.array([0, 0, 0, 0])
    times = np.array([end - 1, end, end + 1, end + 40])
    found = answer_queries(heated(run), EncodedQueries(pair, pair, times), 10)
    assert found.entity.shape[1] == len(run.entities), "all candidates, so that the scores give the softmax"
    for row, temperature in enumerate((1.0, 1.0, 2.0, 3.0)):
        scores = torch.from_numpy(found.score[row]) / temperature
        np.testing.assert_allclose(found.probability[row], scores.softmax(0), rtol=1e-4)
