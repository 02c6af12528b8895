"""Several runs together: they rank by the mean of their log-probabilities, whatever their settings."""

import numpy as np
import pytest
import torch
from graphs import NUM_RELATIONS, graph_of, random_facts, tiny_config, write_graph
from runs import changed, train_run

from gam_kg.config import EvaluateConfig
from gam_kg.inference import trained_run
from gam_kg.inference.ensemble import Ensemble
from gam_kg.inference.evaluation import count_ticks, evaluate_run
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.metrics.product_scores import ProductScores
from gam_kg.training import evaluate
from gam_kg.training.evaluate import roll

ALONE = EvaluateConfig(baselines=False)
SETTINGS = (
    {"seed": 0},
    {"seed": 1, "model.dim": 6},
    {"seed": 2, "model.history.recent": 0, "model.history.two_hop_first": 0},
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs on one graph that differ in seed, size and what they read of the past."""
    folder = tmp_path_factory.mktemp("runs")
    write_graph(folder / "graph", graph_of(random_facts(1, 150), buckets=3), buckets=3)
    folders = []
    for number, settings in enumerate(SETTINGS):
        folders.append(folder / str(number))
        folders[-1].mkdir()
        (folders[-1] / "graph").symlink_to(folder / "graph")
        train_run(folders[-1], changed(tiny_config(epochs=2, learning_rate=0.02), settings))
    return folders


@pytest.fixture
def runs(folders):
    return [TrainedRun.load(folder) for folder in folders]


def test_a_run_together_with_itself_ranks_as_the_run(runs):
    alone, twice = evaluate_run(runs[0], ALONE), evaluate_run(runs[0], ALONE, others=runs[:1])
    assert twice.ranks.equals(alone.ranks)
    other = evaluate_run(runs[0], ALONE, others=runs[1:2])
    assert not other.ranks["rank"].equals(alone.ranks["rank"])


def test_ranks_are_those_of_the_mean_log_probability(runs):
    found = evaluate_run(runs[0], ALONE, others=runs[1:]).ranks.to_pandas()
    checked = 0
    for (split, time), rows in found.groupby(["split", "snapshot"]):
        first, _ = runs[0].graph.bounds(split)
        for column, now in (("rank", time), ("rank_multi_step", first)):
            queries = runs[0].graph.snapshot(time).queries.seen_from(now)
            tables = [run.scorer_before(now).table(queries).double().log_softmax(1) for run in runs]
            mean = (sum(tables) / len(tables)).numpy()
            row_of = {pair: row for row, pair in enumerate(zip(*of(queries.subject, queries.relation), strict=True))}
            answers = {row: set() for row in row_of.values()}
            for row, answer in zip(*of(queries.answer_query, queries.answer), strict=True):
                answers[row].add(answer)
            for one in rows.itertuples():
                ends, relation = (one.subject_id, one.object_id), one.relation_id
                if one.direction == "subject":
                    ends, relation = ends[::-1], relation + NUM_RELATIONS
                row = row_of[ends[0], relation]
                rivals = np.delete(mean[row], list(answers[row]))
                target = mean[row, ends[1]]
                above, tied = (rivals > target + 1e-7).sum(), (np.abs(rivals - target) <= 1e-7).sum()
                assert getattr(one, column) == 1 + above + tied / 2
                checked += 1
    assert checked == 2 * len(found) > 100


def of(*columns):
    return [column.tolist() for column in columns]


def test_metrics_are_those_of_the_ranks_and_no_calibration_is_claimed(runs):
    ticks = []
    found = evaluate_run(runs[0], ALONE, lambda: ticks.append(0), others=runs[1:])
    assert len(ticks) == count_ticks(runs[0], ALONE)
    assert evaluate_run(runs[0], ALONE, others=runs[1:]).ranks.equals(found.ranks), "walked through once more"
    ranks = found.ranks.to_pandas()
    for split, rows in ranks.groupby("split"):
        for setting, column in (("single_step", "rank"), ("multi_step", "rank_multi_step")):
            tree = found.metrics[split][setting]
            assert tree["time_aware"]["both"]["mrr"] == pytest.approx((1 / rows[column]).mean())
            assert tree["time_aware"]["both"]["hits@3"] == pytest.approx((rows[column] <= 3).mean())
            assert "calibration" not in tree


def test_scores_are_the_same_where_they_are_not_written_out(runs, monkeypatch):
    scorer, graph = Ensemble(runs), runs[0].graph
    roll([scorer], runs[0].history, runs[0].snapshots(0, graph.test_start))
    queries = graph.snapshot(graph.test_start).queries
    table = scorer.scores(queries)
    monkeypatch.setattr(evaluate, "MOST_WRITTEN_OUT", 1)
    products = scorer.scores(queries)
    assert isinstance(products, ProductScores)
    query, row = (pairs.flatten() for pairs in torch.meshgrid(*map(torch.arange, table.shape), indexing="ij"))
    torch.testing.assert_close(products.of(query, row).view(table.shape), table)


def test_runs_that_read_the_past_alike_share_their_history(runs, monkeypatch):
    built, build = [], trained_run.build_history

    def counted(*arguments):
        built.append(build(*arguments))
        return built[-1]

    monkeypatch.setattr(trained_run, "build_history", counted)
    evaluate_run(runs[0], ALONE, others=[runs[1], runs[2], runs[1]])
    assert len(built) == 2
