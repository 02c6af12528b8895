"""Temperatures: fitted where the answers are most likely, and the probabilities that they give."""

import numpy as np
import pytest
import torch
from graphs import NUM_RELATIONS, graph_of, random_facts, tiny_config, tiny_model
from scoring import sharded

from gam_kg.distributed.communicator import Communicator
from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Queries
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.horizons import HORIZONS
from gam_kg.training import calibration
from gam_kg.training.calibration import Probabilities, calibrate, fit_temperatures, temperature_at
from gam_kg.training.evaluate import ModelScorer
from gam_kg.training.trainer import Trainer

SEVERAL = np.array([0.5, 1.0, 3.0])


def queries_of(answers, time=0):
    """Queries with the answers given for each."""
    number = torch.arange(len(answers))
    query = number.repeat_interleave(torch.tensor([len(some) for some in answers]))
    return Queries(
        time, number, torch.zeros_like(number), query, torch.tensor([one for some in answers for one in some])
    )


def test_probabilities_are_the_softmax_of_the_divided_scores():
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    best = int(scores[1].argmax())
    queries = queries_of([[0, 3], [best], [6]])
    found = Probabilities.of(scores, queries, SEVERAL, Partition(7), Communicator())
    for place, temperature in enumerate(SEVERAL):
        softmax = (scores / temperature).softmax(1)[queries.answer_query]
        expected = softmax.gather(1, queries.answer[:, None])[:, 0]
        torch.testing.assert_close(found.log_answer[:, place].exp(), expected)
        torch.testing.assert_close(found.best[:, place], (scores / temperature).softmax(1).amax(1))
    assert found.is_answer.tolist() == [int(scores[0].argmax()) in (0, 3), True, int(scores[2].argmax()) == 6]


class Drawn:
    """A scorer whose scores are those of the softmax that answers are drawn from, times a factor by horizon."""

    def __init__(self, history, partition, factors):
        self.history, self.sharded, self._factors = history, sharded(torch.nn.Identity()), factors
        self._truth = truth(partition.num_entities)

    def table(self, queries):
        table = self._truth[queries.relation]
        return table * (self._factors[1] if queries.horizon > 1 else self._factors[0])

    def observe(self, snapshot):
        pass


def truth(size):
    """Logarithm of the probability of each object of each relation; subjects are alike."""
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(2 * NUM_RELATIONS, size, generator=generator, dtype=torch.float64)
    scores[NUM_RELATIONS:] = 0
    return scores.mul(1.5).log_softmax(1)


def drawn_facts(num_entities, per_snapshot):
    """Facts whose objects are drawn, each subject once; validation is snapshots 1 to 3."""
    generator, rows = np.random.default_rng(2), []
    for time in range(5):
        for subject in range(per_snapshot):
            relation = int(generator.integers(NUM_RELATIONS))
            chances = truth(num_entities)[relation].exp().numpy()
            other = int(generator.choice(num_entities, p=chances / chances.sum()))
            rows.append((subject % num_entities, relation, other, time))
    return np.array(rows)


@pytest.mark.parametrize("factors", [(1.0, 1.0), (2.0, 0.5), (0.7, 3.0)])
def test_temperatures_are_those_with_the_highest_likelihood_of_the_answers_at_each_horizon(monkeypatch, factors):
    graph = graph_of(drawn_facts(10, 150), num_entities=10, valid_start=1, test_start=4)
    history = HistoryIndex(graph, tiny_model(graph).config.history)
    monkeypatch.setattr(calibration, "_MAX_SCORES", 100)
    found = fit_temperatures(Drawn(history, graph.partition, factors), graph)
    assert list(found) == list(HORIZONS)

    all_of, chances = {time: graph.snapshot(time).queries for time in (1, 2, 3)}, truth(10)

    def loss(temperature, horizons, factor):
        scores = (chances * factor / temperature).log_softmax(1)
        total = 0.0
        for time in (1, 2, 3):
            if time in horizons:
                queries = all_of[time]
                total -= float(scores[queries.relation[queries.answer_query], queries.answer].sum())
        return total

    tried = np.geomspace(0.25, 4, 2000)
    for name, horizons, factor in (("1", (1, 2, 3), factors[0]), ("2", (2,), factors[1]), ("3-5", (3,), factors[1])):
        best = tried[np.argmin([loss(temperature, horizons, factor) for temperature in tried])]
        assert found[name] == pytest.approx(best, rel=0.015), name
    assert found["501+"] == found["6-10"] == found["3-5"], "horizons beyond validation have that of the last bin in it"


def test_a_bin_with_few_answers_has_the_temperature_of_the_one_before_and_the_first_has_one():
    graph = graph_of(random_facts(3, 30))
    scorer = ModelScorer(sharded(tiny_model(graph)), HistoryIndex(graph, tiny_model(graph).config.history))
    assert fit_temperatures(scorer, graph) == dict.fromkeys(HORIZONS, 1.0)


def test_a_horizon_has_the_temperature_of_its_bin():
    temperatures = {name: float(place) for place, name in enumerate(HORIZONS)}
    assert [temperature_at(temperatures, horizon) for horizon in (1, 2, 3, 5, 6, 4000)] == [0, 1, 2, 2, 3, 9]


def test_calibration_is_of_the_best_weights_and_leaves_the_last(monkeypatch):
    trainer, seen = Trainer(tiny_config(epochs=1), graph_of(random_facts(3, 120))), []
    list(trainer.run())
    with torch.no_grad():
        trainer.model.relation.add_(1.0)
    last = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    def fit(scorer, *_):
        seen.append({name: value.clone() for name, value in scorer.model.state_dict().items()})
        return {"1": 2.0}

    monkeypatch.setattr(calibration, "fit_temperatures", fit)
    calibrate(trainer)
    assert trainer.position.temperatures == {"1": 2.0}
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, last[name]), name
        assert torch.equal(seen[0][name], trainer.best_weights[name]), name
    trainer.position.answers = trainer.position.seconds = 1
    trainer.position.end_epoch({"valid_mrr": 0.1})
    assert trainer.position.temperatures == {}, "those of weights that are no longer the last best ones"
