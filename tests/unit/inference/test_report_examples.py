"""What a report shows of the model itself: it is what the run and its evaluation say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from graphs import graph_of, random_facts, tiny_config, write_graph
from runs import train_run

from gam_kg.config import EvaluateConfig
from gam_kg.inference import report_examples
from gam_kg.inference.evaluation import evaluate_run
from gam_kg.inference.report_examples import choose_examples, look_at, map_entities
from gam_kg.inference.search import nearest_entities
from gam_kg.inference.trained_run import TrainedRun

FACTS = random_facts(1, 150)
LAST = FACTS[:, 3].max()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_graph(folder / "graph", graph_of(FACTS, buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    return TrainedRun.load(folder)


@pytest.fixture(scope="module")
def ranks(run):
    return evaluate_run(run, EvaluateConfig(settings=("single_step",), baselines=False)).ranks


def truth(example):
    """The true answers of an example, from the facts."""
    subject, relation, unknown = (
        None if name is None else int(name.rpartition(" ")[2])
        for name in (example.subject, example.relation, example.object)
    )
    rows = FACTS[(FACTS[:, 3] == LAST) & (FACTS[:, 1] == relation)]
    known, column = (subject, 0) if unknown is None else (unknown, 2)
    return {f"entity {entity}" for entity in rows[rows[:, column] == known][:, 2 - column]}


def test_examples_are_right_and_wrong_answers_of_the_evaluation(run, ranks):
    examples = choose_examples(run, ranks, "test", seed=0)
    assert {example.right for example in examples} == {True, False}
    frame = ranks.to_pandas().query("split == 'test' and snapshot == @LAST")
    for example in examples:
        true = truth(example)
        assert [is_true for *_, is_true in example.answers] == [name in true for name, *_ in example.answers]
        assert example.right == example.answers[0][2]
        assert example.truth in true
        unknown = "object" if example.object is None else "subject"
        known = "subject" if unknown == "object" else "object"
        of_example = {"relation": example.relation, known: getattr(example, known), unknown: example.truth}
        same = (frame[list(of_example)] == pd.Series(of_example)).all(axis=1)
        (row,) = frame.loc[same & (frame["direction"] == unknown), "rank"]
        assert row == example.rank
        assert (row == 1) == example.right
        probabilities = [probability for _, probability, _ in example.answers]
        assert probabilities == sorted(probabilities, reverse=True)
        assert example.reasons
    wrong = [example.answers[0][1] for example in examples if not example.right]
    assert wrong == sorted(wrong, reverse=True)
    assert choose_examples(run, ranks, "test", seed=0) == examples


def test_wrong_examples_are_those_that_the_model_was_surest_of(run, ranks, monkeypatch):
    few = [example.answers[0][1] for example in choose_examples(run, ranks, "test", 0) if not example.right]
    monkeypatch.setattr(report_examples, "NUM_EXAMPLES", 10_000)
    every = [example.answers[0][1] for example in choose_examples(run, ranks, "test", 0) if not example.right]
    assert len(every) > len(few)
    assert few[0] == max(every)


def test_the_map_is_along_the_axes_of_most_variance(run):
    found = map_entities(run)
    assert found.names == run.entities.names.to_pylist()
    covariance = np.cov(found.place.T)
    assert covariance[0, 0] >= covariance[1, 1] > 0
    assert covariance[0, 1] == pytest.approx(0, abs=1e-8)
    assert 0 < found.share <= 1
    assert set(found.labelled) <= set(range(len(found.names)))
    assert (np.bincount(found.group) > 0).sum() == len(found.groups)


def test_the_group_of_an_entity_is_the_relation_and_side_that_it_has_most_facts_of(run):
    found = map_entities(run)
    for name, group in zip(found.names, found.group, strict=True):
        number = int(name.rpartition(" ")[2])
        kind, _, relation = found.groups[group].partition(" of relation ")
        if kind == "others":
            continue
        counts = [np.bincount(FACTS[FACTS[:, column] == number, 1], minlength=4) for column in (0, 2)]
        assert counts[0 if kind == "subject" else 1][int(relation)] == np.max(counts)


def test_neighbours_are_those_of_the_search(run, ranks):
    found = look_at(run, ranks, "test", seed=0)
    assert found.neighbours
    for name, nearest in found.neighbours.items():
        expected = nearest_entities(run, name, top_k=len(nearest)).to_pydict()
        assert [other for other, _ in nearest] == expected["entity"]
        assert [cosine for _, cosine in nearest] == pytest.approx(expected["cosine"])


def test_without_ranks_to_explain_there_are_no_examples(run, ranks, monkeypatch):
    assert look_at(run, ranks.drop_columns("rank"), "test", 0).examples == []
    assert choose_examples(run, ranks.slice(0, 0), "test", 0) == []
    monkeypatch.setattr(report_examples, "MOST_REPLAYED", len(FACTS) - 1)
    graph = replace(run.graph_manifest, content=run.graph_manifest.content | {"num_facts": len(FACTS)})
    assert look_at(replace(run, graph_manifest=graph), ranks, "test", 0).examples == []
