import numpy as np
import pytest
import torch
from graphs import (
    NUM_ENTITIES,
    NUM_RELATIONS,
    TEST_START,
    VALID_START,
    all_queries,
    graph_of,
    history_before,
    random_facts,
    snapshots_of,
    tiny_model,
)
from scoring import score_table, sharded

from gam_kg.config import HistoryConfig
from gam_kg.errors import EvaluationError
from gam_kg.graph.message_graph import MessageGraph
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.product_scores import ProductScores
from gam_kg.metrics.ranks import TableScores, rank_answers
from gam_kg.metrics.strata import Strata
from gam_kg.ops.packing import on_device
from gam_kg.training import evaluate
from gam_kg.training.evaluate import ModelScorer, rank_split, roll, validate
from gam_kg.training.step_batch import divide_queries


class Constant:
    """Scores a candidate by its id."""

    def __init__(self, num_entities, offset=0.0):
        self.row = torch.arange(num_entities, dtype=torch.float64) + offset

    def scores(self, queries):
        return self.row.expand(len(queries), -1)

    def observe(self, snapshot):
        pass


def rank_test(graph, scorers, history=None, **settings):
    history = history or history_before(graph, HistoryConfig(), TEST_START)
    snapshots = snapshots_of(graph, graph.times_in("test"))
    return rank_split(scorers, history, snapshots, partition=graph.partition, **settings)


def test_every_fact_is_ranked_twice_in_time_order_with_its_stratum():
    facts = random_facts(3)
    graph = graph_of(facts)
    strata = Strata(graph)
    found = rank_test(graph, {"ids": Constant(graph.num_entities)}, strata=strata)
    rows = sorted(
        zip(found.time.tolist(), found.subject.tolist(), found.relation.tolist(), found.answer.tolist(), strict=True)
    )
    test = facts[facts[:, 3] >= TEST_START].tolist()
    expected = [(t, s, r, o) for s, r, o, t in test] + [(t, o, r + NUM_RELATIONS, s) for s, r, o, t in test]
    assert rows == sorted(expected)
    assert found.time.tolist() == sorted(found.time.tolist())
    by_hand = np.concatenate([strata.of(graph.snapshot(time).queries).numpy() for time in (6, 7)])
    assert np.array_equal(found.stratum, by_hand)
    assert np.array_equal(found.raw["ids"], graph.num_entities - found.answer)
    assert (found.time_aware["ids"] <= found.raw["ids"]).all()
    assert (found.time_aware["ids"] < found.raw["ids"]).any()


def test_ranks_do_not_depend_on_how_many_scores_are_held_at_once():
    graph = graph_of(random_facts(3))
    model = tiny_model(graph)
    ranks = []
    for max_scores in (1, 7 * graph.num_entities, 10**6):
        scorer = ModelScorer(sharded(model), HistoryIndex(graph, model.config.history))
        roll([scorer], scorer.history, snapshots_of(graph, range(TEST_START)))
        ranks.append(rank_test(graph, {"model": scorer}, scorer.history, max_scores=max_scores))
    for other in ranks[1:]:
        assert np.array_equal(ranks[0].time_aware["model"], other.time_aware["model"])
        assert np.array_equal(ranks[0].answer, other.answer)


def test_ranks_do_not_depend_on_whether_scores_are_written_out(monkeypatch):
    graph = graph_of(random_facts(3, 120))
    for changes in ({}, {"history": {"popular": 0}}, {"history": {"recent": 0, "same_relation": 0}}):
        model, ranks = tiny_model(graph, **changes), []
        for most in (10**6, 1):
            monkeypatch.setattr(evaluate, "MOST_WRITTEN_OUT", most)
            scorer = ModelScorer(sharded(model), HistoryIndex(graph, model.config.history))
            roll([scorer], scorer.history, snapshots_of(graph, range(TEST_START)))
            ranks.append(rank_test(graph, {"model": scorer}, scorer.history))
        assert isinstance(scorer.scores(all_queries(8)), ProductScores)
        assert np.array_equal(ranks[0].time_aware["model"], ranks[1].time_aware["model"])
        assert np.array_equal(ranks[0].raw["model"], ranks[1].raw["model"])


def test_vectors_stay_up_to_date_as_more_is_observed():
    graph = graph_of(random_facts(3))
    model = tiny_model(graph)
    history = HistoryIndex(graph, model.config.history)
    queried, fresh = ModelScorer(sharded(model), history), ModelScorer(sharded(model), history)
    for snapshot in snapshots_of(graph):
        queried.vectors()
        for scorer in (queried, fresh):
            scorer.observe(snapshot)
    torch.testing.assert_close(queried.vectors(), fresh.vectors(), rtol=0, atol=1e-15)


def test_a_share_of_the_queries_has_the_ranks_it_has_among_all():
    graph = graph_of(random_facts(3, 120))
    scorers = {"ids": Constant(graph.num_entities)}

    def rows_of(ranks):
        columns = (ranks.time, ranks.subject, ranks.relation, ranks.answer, ranks.time_aware["ids"], ranks.raw["ids"])
        return set(zip(*(column.tolist() for column in columns), strict=True))

    every, some, others = (rank_test(graph, scorers, share=share) for share in (1.0, 0.4, 0.4))
    assert rows_of(some) < rows_of(every)
    assert rows_of(some) == rows_of(others)
    assert 0.2 < len(some.answer) / len(every.answer) < 0.6
    # All answers of a query are ranked, or none.
    ranked = {row[:3] for row in rows_of(some)}
    assert rows_of(some) == {row for row in rows_of(every) if row[:3] in ranked}


def test_a_number_of_facts_is_a_share_of_the_split():
    facts = random_facts(3)
    graph, total = graph_of(facts), int((facts[:, 3] >= TEST_START).sum())
    assert graph.share_of("test", 0) == graph.share_of("test", total) == graph.share_of("test", total + 5) == 1.0
    assert graph.share_of("test", 3) == 3 / total


def test_validation_is_the_mean_over_a_walk_from_the_first_snapshot_on():
    graph = graph_of(random_facts(3), valid_start=5, test_start=7)
    model = tiny_model(graph)
    history = HistoryIndex(graph, model.config.history)
    memory, found = model.empty_memory(), []
    for snapshot in snapshots_of(graph, range(7)):
        if snapshot.time >= 5:
            with torch.no_grad():
                queries = snapshot.queries
                scores = score_table(model, model.entity_vectors(memory), queries, history)
            found.append(1 / rank_answers(scores, queries).time_aware)
        sharded(model).advance(memory, MessageGraph.of(snapshot, graph.partition))
        history.insert(snapshot)
    expected = torch.cat(found)
    result = validate(sharded(model), graph, history_before(graph, model.config.history, 5), max_scores=10**6)
    assert result["mrr"] == pytest.approx(float(expected.mean()), rel=1e-12)
    assert result["count"] == len(expected)


def test_a_model_of_nans_has_no_rank():
    graph = graph_of(random_facts(3))
    model = tiny_model(graph)
    with torch.no_grad():
        model.relation[:] = torch.nan
    with pytest.raises(EvaluationError, match="NaN"):
        validate(sharded(model), graph, history_before(graph, model.config.history, VALID_START), max_scores=10**6)


def test_a_split_without_facts_has_no_ranks():
    graph = graph_of([(0, 0, 1, 0)])
    found = rank_test(graph, {"ids": Constant(graph.num_entities)})
    assert len(found.answer) == len(found.time_aware["ids"]) == 0


def test_ticks_count_snapshots():
    graph, ticks = graph_of(random_facts(3)), []
    scorer = Constant(graph.num_entities)
    roll([scorer], None, snapshots_of(graph, range(TEST_START)), lambda: ticks.append("roll"))
    rank_test(graph, {"ids": scorer}, tick=lambda: ticks.append("rank"))
    assert ticks == ["roll"] * TEST_START + ["rank"] * 2


def test_a_scorer_may_start_from_a_stored_memory():
    graph = graph_of(random_facts(3))
    model = tiny_model(graph)
    history = HistoryIndex(graph, model.config.history)
    whole, first = ModelScorer(sharded(model), history), ModelScorer(sharded(model), history)
    roll([whole], history, snapshots_of(graph, range(TEST_START)))
    roll([first], None, snapshots_of(graph, range(3)))
    second = ModelScorer(sharded(model), history, first.memory)
    roll([second], None, snapshots_of(graph, range(3, TEST_START)))
    assert torch.equal(whole.vectors(), second.vectors())
    block = next(divide_queries(graph.snapshot(TEST_START).queries, graph.num_entities, 10**6))
    assert torch.equal(whole.scores(block), second.scores(block))


@pytest.mark.parametrize("most", [10**6, 1])
@pytest.mark.parametrize("popular", [5, 0])
def test_a_model_on_a_device_with_int32_indices_scores_and_ranks_the_same(monkeypatch, most, popular):
    graph = graph_of(random_facts(3, 120))
    model, found = tiny_model(graph, history={"popular": popular}), []
    monkeypatch.setattr(evaluate, "MOST_WRITTEN_OUT", most)
    for move in (evaluate.to_device, on_device):
        monkeypatch.setattr(evaluate, "to_device", move)
        scorer = ModelScorer(sharded(model), HistoryIndex(graph, model.config.history))
        roll([scorer], scorer.history, snapshots_of(graph, range(TEST_START)))
        queries = graph.snapshot(TEST_START).queries
        scores, pairs = scorer.scores(queries), torch.cartesian_prod(*map(torch.arange, (len(queries), NUM_ENTITIES)))
        scores = TableScores(scores) if isinstance(scores, torch.Tensor) else scores
        ranks = rank_test(graph, {"model": scorer}, scorer.history)
        found.append([scores.of(*pairs.T), scorer.vectors(), torch.from_numpy(ranks.raw["model"])])
    assert all(map(torch.equal, *found))
