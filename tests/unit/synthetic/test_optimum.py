from collections import defaultdict
from functools import cache

import numpy as np
import pytest
import torch
from generated import SMALL, made_of, replace, rows_of
from graphs import graph_of, snapshots_of

from gam_kg.config import HistoryConfig
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.all_baselines import build_baselines
from gam_kg.metrics.ranks import rank_answers
from gam_kg.metrics.summary import RankSummary
from gam_kg.synthetic.groups import SyntheticConfig
from gam_kg.synthetic.optimum import Optimum
from gam_kg.synthetic.single_step import object_reciprocals, subject_reciprocals
from gam_kg.training.evaluate import rank_split, roll


class Process:
    """The process written again, fact by fact: the probability of each next object of each subject and relation."""

    def __init__(self, config):
        self.config, (world, groups) = config, made_of(config)
        self.born, size = world.born, config.entities
        self.weight = np.arange(1, size + 1) ** (-1 / (config.exponent - 1))
        self.relations = []  # (pattern, period, subjects, number of the lead, law of the spells)
        for made in groups:
            lead = len(self.relations)
            for place in range(len(made.facts)):
                pattern = ("follow" if place else "lead") if made.group.pattern == "chained" else made.group.pattern
                period = {"random": 0, "follow": 0, "periodic": 2 + int(made.group.relations[0].split("_")[1]) % 2}
                self.relations.append((pattern, period.get(pattern, 1), made.subjects.tolist(), lead, made.spells))
        self.past = defaultdict(list)  # (subject, relation) -> [(time, object)]

    def remember(self, rows):
        for subject, relation, object, time in rows:
            self.past[subject, relation].append((time, object))

    def may_have_a_fact(self, relation, time):
        pattern, _, subjects, lead, _ = self.relations[relation]
        if pattern == "follow":
            return [s for s in subjects if self.past[s, lead] and self.past[s, lead][-1][0] == time - 1]
        return [s for s in subjects if self.born[s] <= time]

    def probabilities(self, subject, relation, time):
        """Of every object if the series has a fact; of a persistent one, together with that it has one."""
        pattern, period, subjects, lead, law = self.relations[relation]
        present = (self.born <= time) * self.weight
        if pattern in ("lead", "follow"):
            present = present * np.isin(np.arange(len(present)), subjects)
        drawn = present / present.sum()
        if law:
            past = self.past[subject, relation]
            if not past or past[-1][0] < time - 1:
                return law.begin * drawn
            return law.survive * np.eye(len(drawn))[past[-1][1]] + (1 - law.survive) * law.begin * drawn
        if pattern == "follow":
            between = self.past[subject, lead][-1][1]
            past = self.past[between, lead]
            expected = past[-1][1] if past else None
        else:
            past = self.past[subject, relation]
            expected = past[-period][1] if period and len(past) >= period else None
        if expected is None:
            return drawn
        return (1 - self.config.noise) * np.eye(len(drawn))[expected] + self.config.noise * drawn


def oracle_scores(process, time, subject, relation):
    """Probabilities of all candidates for the answer of a query; inverse relations come after the others."""
    num_relations = len(process.relations)
    if relation < num_relations:
        return process.probabilities(subject, relation, time)
    scores = np.zeros(process.config.entities)
    for candidate in process.may_have_a_fact(relation - num_relations, time):
        scores[candidate] = process.probabilities(candidate, relation - num_relations, time)[subject]
    return scores


@cache
def oracle_results(config):
    """Per query and answer: (time, direction, answer's 1/rank, expected gain); and realistic MRR with random orders."""
    rows, names = rows_of(config)
    sizes = {"num_entities": config.entities, "num_relations": len(names)}
    graph = graph_of(rows, valid_start=1, test_start=2, **sizes)
    process, generator = Process(config), np.random.default_rng(0)
    found, ranked = {}, []
    for time in range(config.snapshots):
        queries = graph.snapshot(time).queries
        pairs = zip(queries.subject.tolist(), queries.relation.tolist(), strict=True)
        scores = np.array([oracle_scores(process, time, *pair) for pair in pairs])
        for query, answer in zip(queries.answer_query.tolist(), queries.answer.tolist(), strict=True):
            subject, relation = int(queries.subject[query]), int(queries.relation[query])
            others = set(queries.answer[queries.answer_query == query].tolist()) - {answer}
            wrong = np.delete(scores[query], [*others, answer])
            above, equal = (wrong > scores[query][answer]).sum(), (wrong == scores[query][answer]).sum()
            chances = np.sort(scores[query])[::-1] / scores[query].sum()
            expected = (chances / np.arange(1, config.entities + 1)).sum()
            found[time, subject, relation, answer] = np.mean(1 / np.arange(above + 1, above + equal + 2)), expected
        jitter = 1 + 1e-9 * generator.random(scores.shape)
        ranked.append(rank_answers(torch.from_numpy(scores * jitter), queries).time_aware.numpy())
        process.remember(rows[rows[:, 3] == time].tolist())
    return found, ranked


CONFIGS = {
    "all": SMALL,
    "without noise": replace(SMALL, noise=0.0, seed=5),
    "crowded": SyntheticConfig(entities=12, relations=9, facts=700, snapshots=60, noise=0.4, exponent=1.5, newcomers=0),
}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def test_every_reciprocal_rank_is_that_of_an_oracle_by_hand(config):
    found, _ = oracle_results(config)
    rows, names = rows_of(config)
    start = 0
    for made in made_of(config)[1]:
        for place, facts in enumerate(made.facts):
            here = rows[start : start + len(facts)].tolist()
            start += len(facts)
            objects = [found[time, s, r, o][0] for s, r, o, time in here]
            subjects = [found[time, o, r + len(names), s][0] for s, r, o, time in here]
            np.testing.assert_allclose(object_reciprocals(made, place), objects, rtol=1e-12, err_msg=facts.relation)
            np.testing.assert_allclose(subject_reciprocals(made, place), subjects, rtol=1e-12, err_msg=facts.relation)


def optimum_of(config):
    optimum = Optimum.empty(config.snapshots)
    for made in made_of(config)[1]:
        optimum = optimum.merge(Optimum.of(made, config.snapshots))
    return optimum


def test_the_optimum_is_what_the_protocol_gives_the_oracle(config):
    """Ranked by the library's own ranks, equally probable candidates in a random order."""
    start = config.snapshots // 2
    best = optimum_of(config).compute(start, config.snapshots)["all"]
    ranks = np.concatenate(oracle_results(config)[1][start:])
    assert len(ranks) == 2 * best["facts"]
    # What differs is one random order instead of the mean over them, which is less than the answers themselves vary.
    error = (1 / ranks).std() / len(ranks) ** 0.5
    assert (1 / ranks).mean() == pytest.approx(best["both"], abs=2 * error)


def test_objects_gain_what_the_oracle_expects_and_the_error_is_that_of_the_mean(config):
    """The sum of probability / rank over all candidates is what a query gains on average."""
    found, _ = oracle_results(config)
    num_relations = len(rows_of(config)[1])
    expected = [gain for (_, _, relation, _), (_, gain) in found.items() if relation < num_relations]
    best = optimum_of(config).compute(0, config.snapshots)["all"]
    assert best["facts"] == len(expected)
    assert best["object"] == pytest.approx(np.mean(expected), abs=3 * best["object_error"])
    wide = replace(config, seed=config.seed + 1)
    values = np.concatenate([object_reciprocals(made, p) for made in made_of(wide)[1] for p in range(len(made.facts))])
    assert optimum_of(wide).compute(0, wide.snapshots)["all"]["object_error"] == pytest.approx(
        values.std() / len(values) ** 0.5
    )


def test_no_untrained_baseline_is_better_than_the_oracle():
    config = SyntheticConfig(entities=150, relations=9, facts=6000, snapshots=60)
    rows, names = rows_of(config)
    sizes = {"num_entities": config.entities, "num_relations": len(names)}
    graph = graph_of(rows, valid_start=48, test_start=54, **sizes)
    history = HistoryIndex(graph, HistoryConfig())
    baselines = build_baselines(history)
    roll(baselines.values(), history, snapshots_of(graph, range(54)))
    found = rank_split(baselines, history, snapshots_of(graph, range(54, 60)), partition=graph.partition)
    best = optimum_of(config).compute(54, 60)["all"]
    mrr = {name: RankSummary.of(ranks).compute()["mrr"] for name, ranks in found.time_aware.items()}
    assert len(found.answer) == 2 * best["facts"]
    assert max(mrr.values()) < best["both"]
    # But they are not far off, since most patterns show in the subject's own past.
    assert max(mrr.values()) > 0.6 * best["both"]
    for direction, chosen in (("object", found.relation < len(names)), ("subject", found.relation >= len(names))):
        assert max((1 / ranks[chosen]).mean() for ranks in found.time_aware.values()) < best[direction]
