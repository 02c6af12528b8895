"""The evaluation of a run: how the baselines that it reports are chosen."""

import pytest
from graphs import graph_of, random_facts, tiny_config, write_graph
from runs import train_run

from gam_kg.config import EvaluateConfig
from gam_kg.inference.evaluation import evaluate_run
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.metrics.baselines import StrictRecurrency

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
