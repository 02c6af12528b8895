"""Explanations of answers of trained runs: they add up, they name facts that were there, and those matter."""

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pytest
from graphs import graph_of, history_before, message_graphs, queries_of, random_facts, tiny_config, write_graph
from runs import train_run
from updates import LAST, SIZES, add_updates, divided_facts, write_prepared

from gam_kg.artifacts import read_manifest
from gam_kg.inference.answers import answer_queries
from gam_kg.inference.contributions import PARTS
from gam_kg.inference.explain import explain, explanation_column
from gam_kg.inference.memory_attention import memory_attention
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import EXPLANATION
from gam_kg.training.evaluate import ModelScorer

FACTS = random_facts(1, 150)
NUM_ENTITIES, NUM_RELATIONS, END = 10, 3, 8
MODELS = {
    "as it is": ({}, {}),
    "convolution": ({"decoder": "conv_transe"}, {}),
    "trained on samples": ({}, {"candidates": "sampled", "num_negatives": 3}),
    "no gate, no rules": ({"gate": False, "history": {"rule_bodies": 0}}, {}),
}


def trained(folder, model=None, **train):
    write_graph(folder / "graph", graph_of(FACTS, buckets=3), buckets=3)
    train_run(folder, tiny_config(model, epochs=2, **train))
    return TrainedRun.load(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"))


def every_query(times, entities=NUM_ENTITIES, relations=NUM_RELATIONS):
    rows = [(s, r, t) for t in times for s in range(entities) for r in range(2 * relations)]
    return EncodedQueries(*np.array(rows).T)


def repeated(queries, number):
    return EncodedQueries(*(column.repeat(number) for column in vars(queries).values()))


def check_sums(run, queries):
    answers = answer_queries(run, queries, 10)
    number = answers.entity.shape[1]
    found = explain(run, repeated(queries, number), answers.entity.ravel(), top=None)
    scores = [sum(one.parts.values()) for one in found]
    np.testing.assert_allclose(scores, answers.score.ravel(), rtol=1e-5, atol=1e-5)
    assert [one.score for one in found] == scores
    assert [one.answer for one in found] == run.entities.decode(answers.entity.ravel()).to_pylist()
    for one in found[::37]:
        for part in PARTS:
            shares = sum(reason.share for reason in one.reasons if reason.kind == part)
            assert shares == pytest.approx(0 if part == "vector" else one.parts[part], abs=1e-6)
            percents = sum(one.percent_of(reason) for reason in one.reasons if reason.kind == part)
            assert percents == pytest.approx(one.percent[part] if shares else 0, abs=1e-6)
        assert sum(map(abs, one.percent.values())) == pytest.approx(100)
    return found


def test_names_that_are_integers_are_given_as_such(run):
    integers = run.copy()
    given = {"entity": pa.array(range(NUM_ENTITIES)), "relation": pa.array(range(NUM_RELATIONS))}
    vars(integers)["given_names"] = given
    queries = every_query([END], entities=2)
    explanations = explain(integers, queries, np.arange(len(queries)) % NUM_ENTITIES)
    for row, one in enumerate(explanations):
        known, relation = int(queries.subject[row]), int(queries.relation[row])
        asks_subject = relation >= NUM_RELATIONS
        expected = (None, known) if asks_subject else (known, None)
        assert (one.subject, one.object) == expected
        assert (one.relation, one.answer) == (relation % NUM_RELATIONS, row % NUM_ENTITIES)
    facts = [fact for one in explanations for reason in one.reasons for fact in reason.facts]
    assert {type(end) for fact in facts for end in (fact.subject, fact.object)} <= {int, type(None)}
    fact = next(fact for fact in facts if fact.subject == 0)
    assert str(fact).startswith("(0, ")  # and not "anyone"


@pytest.mark.parametrize("name", MODELS)
def test_parts_sum_to_the_score_of_every_answer_at_any_time(tmp_path, name):
    model, train = MODELS[name]
    check_sums(trained(tmp_path, model, **train), every_query([3, END, END + 4]))


def test_parts_sum_to_the_score_where_updates_brought_entities_and_relations(tmp_path):
    divided = divided_facts(1, late=False)
    write_prepared(tmp_path, divided)
    train_run(tmp_path, tiny_config(epochs=1))
    add_updates(tmp_path, divided, read_manifest(tmp_path / "checkpoint", "checkpoint"))
    run = TrainedRun.load(tmp_path)
    num_entities, num_relations = SIZES[-1]
    found = check_sums(run, every_query([LAST], num_entities, num_relations))
    names = {fact.subject for one in found for reason in one.reasons for fact in reason.facts}
    assert f"entity {num_entities - 1}" in names


def test_facts_of_reasons_were_seen_before_the_query_so_often_and_last_then(run):
    queries = every_query([4, END])
    found = explain(run, queries, np.arange(len(queries)) % NUM_ENTITIES, top=None)
    checked = 0
    for one in found:
        for reason in one.reasons:
            for fact in reason.facts:
                here = FACTS[FACTS[:, 3] < int(one.timestamp)]
                for column, number in enumerate(ids_of(fact)):
                    here = here if number is None else here[here[:, column] == number]
                times = set(here[:, 3].tolist())
                assert (fact.times_seen, int(fact.timestamp)) == (len(times), max(times))
                checked += 1
            assert (reason.kind in ("pattern", "confidence")) == (not reason.facts)
            assert len(reason.facts) == (2 if reason.kind == "paths" else 0 if not reason.facts else 1)
            assert all(
                name is None or name in reason.text
                for fact in reason.facts
                for name in (fact.subject, fact.relation, fact.object)
            )
        ends = [reason.facts[-1] for reason in one.reasons if reason.kind in ("facts", "paths")]
        assert all(one.answer in (fact.subject, fact.object) for fact in ends)
        (unknown,) = [name for name in ("subject", "object") if getattr(one, name) is None]
        assert getattr(one, "object" if unknown == "subject" else "subject") is not None
    assert checked > 200


def test_an_explanation_depends_on_nothing_else_that_is_explained(run):
    queries = every_query([4, END])
    answers = np.random.default_rng(0).integers(0, NUM_ENTITIES, len(queries))
    together = explain(run, queries, answers)
    for at in (0, 7, 100, 119, 7):
        alone = EncodedQueries(*(column[[at]] for column in vars(queries).values()))
        (found,) = explain(run, alone, answers[[at]])
        assert found.parts == pytest.approx(together[at].parts, abs=1e-6)
        assert [reason.text for reason in found.reasons] == [reason.text for reason in together[at].reasons]
    (first, second) = explain(run, repeated(alone, 2), answers[[at, at]])
    assert first == second
    assert explain(run, EncodedQueries(*np.zeros((3, 0), np.int64)), answers[:0]) == []


def test_top_reasons_are_those_with_the_largest_shares(run):
    queries = every_query([END])
    answers = np.arange(len(queries)) % NUM_ENTITIES
    for few, every in zip(explain(run, queries, answers, 3), explain(run, queries, answers, None), strict=True):
        assert [reason.share for reason in few.reasons] == [reason.share for reason in every.reasons[:3]]
        sizes = [abs(reason.share) for reason in every.reasons]
        assert sizes == sorted(sizes, reverse=True)
        assert few.parts == every.parts
        assert all(reason.text in few.summary() for reason in few.reasons)


def test_the_column_of_predictions_has_the_reasons_of_each_answer(run):
    queries = every_query([END, 4])
    answers = answer_queries(run, queries, 3).entity
    column = explanation_column(run, queries, answers, 2)
    assert column.type == EXPLANATION
    found = explain(run, repeated(queries, 3), answers.ravel(), 2)
    for row, one in zip(column.to_pylist(), found, strict=True):
        assert [(reason["text"], reason["kind"]) for reason in row] == [(r.text, r.kind) for r in one.reasons]
        assert [reason["share"] for reason in row] == [r.share for r in one.reasons]
        assert [reason["percent"] for reason in row] == [one.percent_of(r) for r in one.reasons]
    assert len(explanation_column(run, EncodedQueries(*np.zeros((3, 0), np.int64)), np.zeros((0, 3), np.int64), 2)) == 0


SIZES_OF_HABITS = {"num_entities": 16, "num_relations": 4, "valid_start": 11, "test_start": 13}


def habits(num_snapshots=16, seed=0):
    """Each subject has three objects for each relation, one most often, and meets them by the next relation too."""
    generator, (num_entities, num_relations) = np.random.default_rng(seed), list(SIZES_OF_HABITS.values())[:2]
    liked, rows = generator.integers(0, num_entities, (num_entities, num_relations, 3)), set()
    for time, s, r in np.ndindex(num_snapshots, num_entities, num_relations):
        o = int(liked[s, r, generator.choice(3, p=[0.6, 0.3, 0.1])])
        if generator.random() < 0.4 and o != s:
            rows.add((s, r, o, time))
            if generator.random() < 0.5 and time + 1 < num_snapshots:
                rows.add((s, (r + 1) % num_relations, o, time + 1))
    return np.array(sorted(rows))


def test_without_the_fact_of_most_weight_a_score_falls_more_than_without_that_of_least(tmp_path):
    """The fact is taken out of the whole past, so that pattern, rules and popularity change as well; weights of the
    model and memory stay. Of attention alone this holds always, see `test_contributions`; here it does on average, and
    mostly for answers to which one fact weighs twice as much as another."""
    facts = habits()
    write_graph(tmp_path / "graph", graph_of(facts, buckets=3, **SIZES_OF_HABITS), buckets=3)
    limits = {"recent": 50, "same_relation": 50, "popular": 50, "rule_bodies": 10, "rule_heads": 5, "dim": 8}
    train_run(tmp_path, tiny_config({"dim": 16, "history": limits}, epochs=2))
    run = TrainedRun.load(tmp_path)
    end, config, memory = run.graph.end, run.model.config.history, run.scorer_before(run.graph.end).memory
    queries = every_query([end], 16, 4)
    answers = answer_queries(run, queries, 1).entity[:, 0]
    block = queries_of(zip(queries.subject.tolist(), queries.relation.tolist(), strict=True), end)

    @lru_cache
    def scores_without(*fact):
        history = history_before(
            graph_of(facts[(facts[:, :3] != fact).any(1)], buckets=3, **SIZES_OF_HABITS), config, end
        )
        return ModelScorer(run.sharded, history, memory).table(block)

    falls = []
    for place, one in enumerate(explain(run, queries, answers, None)):
        reasons = [reason for reason in one.reasons if reason.kind == "facts"]
        if len(falls) < 24 and len(reasons) > 1 and reasons[0].weight > 2 * reasons[-1].weight:
            ends = ([*ids_of(reason.facts[0])] for reason in (reasons[0], reasons[-1]))
            falls.append([one.score - float(scores_without(*fact)[place, answers[place]]) for fact in ends])
    most, least = np.array(falls).T
    assert len(most) == 24
    assert most.mean() > 1.5 * least.mean()
    assert (most > least).mean() > 0.75


def test_the_memory_attended_to_the_last_facts_of_an_entity_with_weights_that_sum_to_one(run):
    for before, entity in ((END, 0), (5, 2), (END, 9), (0, 0)):
        found = memory_attention(run, entity, before)
        mine = FACTS[(FACTS[:, [0, 2]] == entity).any(1) & (FACTS[:, 3] < before)]
        expected = mine[mine[:, 3] == mine[:, 3].max(initial=-1)].tolist()
        got = [[*ids_of(fact), int(fact.timestamp)] for fact, _ in found]
        assert sorted(map(tuple, got)) == sorted(
            tuple(row) for row in expected for _ in range(2 if row[0] == row[2] else 1)
        )
        for (s, r, o, _), (fact, _) in zip(got, found, strict=True):
            assert fact.times_seen == (mine[:, :3] == (s, r, o)).all(1).sum()
        weights = [weight for _, weight in found]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) == pytest.approx(1 if expected else 0)


def test_weights_of_the_memory_are_those_of_its_update(run):
    """The update of all entities of the snapshot has, for the edges into one of them, the weights of its own update."""
    last = END - 1
    graph = message_graphs(run.graph, [last])[0]
    memory = run.memory_before(last)
    rows = run.model.selected_rows(run.model.sources().select(graph.active))
    weights, _ = run.model.update(rows, memory.rows(graph.active), graph)
    for number, entity in enumerate(graph.active.tolist()):
        of_entity = weights[graph.dst == number].mean(1)
        found = [weight for _, weight in memory_attention(run, entity, END)]
        assert found == pytest.approx(of_entity.sort(descending=True).values.tolist(), abs=1e-6)


def ids_of(fact):
    names = fact.subject, fact.relation, fact.object
    return tuple(None if name is None else int(name.split()[1]) for name in names)
