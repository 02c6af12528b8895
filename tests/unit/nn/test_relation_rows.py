"""Relations without facts in training have the shared rows, in every table that is indexed by relation."""

import pytest
import torch
from graphs import (
    NUM_RELATIONS,
    VALID_START,
    all_queries,
    graph_of,
    history_before,
    message_graphs,
    model_config,
    random_facts,
    snapshots_of,
    tiny_model,
)
from scoring import sharded, step_loss

from gam_kg.history.index import HistoryIndex
from gam_kg.nn.model import GAMLSTM
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training.draws import Draws, ModelFacts
from gam_kg.training.evaluate import ModelScorer, roll

NEW = 1
ALL_HISTORY = {"recent": 99, "two_hop_first": 99, "two_hop_second": 99, "rule_bodies": 99, "rule_heads": 99}
OWN = [NEW, NEW + NUM_RELATIONS]
SHARED = [2 * NUM_RELATIONS, 2 * NUM_RELATIONS + 1]


def graph_with_a_new_relation():
    """Relation 1 has facts in validation and test only."""
    facts = random_facts(4, 120)
    graph = graph_of(facts[(facts[:, 1] != NEW) | (facts[:, 3] >= VALID_START)])
    assert graph.trained_relations.tolist() == [number != NEW for number in range(NUM_RELATIONS)]
    return graph


def tables():
    """The parameters whose shape depends on the number of relations."""
    shapes = []
    for number in (NUM_RELATIONS, NUM_RELATIONS + 1):
        model = GAMLSTM(model_config(), torch.ones(number, dtype=torch.bool), torch.tensor([True]))
        shapes.append({name: value.shape for name, value in model.named_parameters()})
    few, more = shapes
    return [name for name in few if few[name] != more[name]]


def scorer_after_all(model, graph):
    scorer = ModelScorer(sharded(model), HistoryIndex(graph, model.config.history))
    roll([scorer], scorer.history, snapshots_of(graph))
    return scorer


def scores_after_all(model, graph):
    """All scores at two horizons: at the first, slopes have no part."""
    scorer = scorer_after_all(model, graph)
    return torch.stack([scorer.scores(all_queries(graph.end, horizon)) for horizon in (1, 3)])


def test_relations_and_inverses_have_their_own_or_a_shared_row():
    model = GAMLSTM(model_config(), torch.tensor([True, False, True]), torch.tensor([True]))
    assert model.relation_rows().tolist() == [0, 6, 2, 3, 7, 5]
    assert len(model.relation) == 8


def test_shared_rows_are_zero_at_the_start():
    # Of relations, their slopes and those of the gate, of pairs, paths, rules, confidences and popularity.
    assert len(tables()) == 2 + 4 + 7 + 4 + 3 + 2 + 2
    model = GAMLSTM(model_config(), torch.ones(NUM_RELATIONS, dtype=torch.bool), torch.tensor([True]))
    for name in tables():
        assert not model.get_parameter(name)[SHARED].any(), name
    assert model.relation[: 2 * NUM_RELATIONS].all()


def test_own_rows_of_relations_never_trained_have_no_influence():
    graph, found = graph_with_a_new_relation(), []
    for own_row in (0.0, torch.nan):
        model = tiny_model(graph)
        with torch.no_grad():
            for name in tables():
                model.get_parameter(name)[OWN] = own_row
        found.append(scores_after_all(model, graph))
    assert torch.isfinite(found[0]).all()
    assert torch.equal(*found)


@pytest.mark.parametrize("name", tables())
def test_the_shared_rows_of_every_table_are_those_of_relations_never_trained(name):
    graph = graph_with_a_new_relation()
    model = tiny_model(graph, history=ALL_HISTORY)
    scores = [scores_after_all(model, graph)]
    for shared in SHARED:
        with torch.no_grad():
            model.get_parameter(name)[shared] += 1.0
        scores.append(scores_after_all(model, graph))
        assert not torch.equal(*scores[-2:])


def test_shared_rows_have_no_influence_where_all_relations_are_trained():
    graph, found = graph_of(random_facts(4, 120)), []
    assert graph.trained_relations.all()
    for shared_row in (0.0, torch.nan):
        model = tiny_model(graph)
        with torch.no_grad():
            for name in tables():
                model.get_parameter(name)[SHARED] = shared_row
        found.append(scores_after_all(model, graph))
    assert torch.isfinite(found[0]).all()
    assert torch.equal(*found)


def test_scores_that_are_not_written_out_are_of_the_same_rows():
    graph = graph_with_a_new_relation()
    scorer, queries = scorer_after_all(tiny_model(graph), graph), all_queries(graph.end)
    table = scorer.table(queries)
    query, row = (at.flatten() for at in torch.meshgrid(*map(torch.arange, table.shape), indexing="ij"))
    torch.testing.assert_close(scorer.products(queries).of(query, row), table.flatten())


def test_dropped_relations_step_with_the_shared_rows_alone():
    graph = graph_of(random_facts(4, 120))
    model = tiny_model(graph, relation_dropout=0.5, history=ALL_HISTORY).train()
    now = VALID_START - 1
    rng = next(
        rng for rng in (CounterRNG(0, step) for step in range(99)) if 0 < dropped(model, rng).sum() < NUM_RELATIONS
    )
    window = message_graphs(graph, (now - 2, now - 1))
    ahead = graph.snapshot(now + 1).queries.seen_from(now)  # at horizon 1 slopes have no gradients
    queries, history = graph.snapshot(now).queries, history_before(graph, model.config.history, now)
    step_loss(model, model.empty_memory(), window, queries, history, rng, [ahead])
    without = dropped(model, rng).repeat(2)
    for name in tables():
        grad = model.get_parameter(name).grad
        assert grad is not None
        assert not grad[: 2 * NUM_RELATIONS][without].any(), name
        assert grad[: 2 * NUM_RELATIONS][~without].any(), name
        assert grad[SHARED].any(), name


def test_shared_rows_that_are_zero_have_gradients_like_others():
    graph = graph_of(random_facts(4, 120))
    config = model_config(relation_dropout=0.5, history=ALL_HISTORY)
    model = GAMLSTM(config, graph.trained_relations, graph.trained).double().train()
    assert not model.relation[SHARED].any()
    now = VALID_START - 1
    queries, history = graph.snapshot(now).queries, history_before(graph, config.history, now)
    rng = next(rng for rng in (CounterRNG(0, step) for step in range(99)) if dropped(model, rng).any())
    step_loss(model, model.empty_memory(), message_graphs(graph, (now - 1,)), queries, history, rng)
    grad = model.relation.grad
    assert grad is not None
    assert grad[SHARED].any()
    assert grad[SHARED].norm() < 100 * grad[: 2 * NUM_RELATIONS].norm()


def relation_rows(model, seed, step):
    return Draws(ModelFacts.of(model), CounterRNG(seed, step)).relation_rows


def dropped(model, rng):
    """Which relations are dropped; their inverses are with them."""
    rows = Draws(ModelFacts.of(model), rng).relation_rows
    own = rows == torch.arange(2 * NUM_RELATIONS)
    assert rows[~own].tolist() == [SHARED[int(at >= NUM_RELATIONS)] for at in torch.nonzero(~own)[:, 0]]
    of_relations, of_inverses = own.chunk(2)
    assert torch.equal(of_relations, of_inverses)
    return ~of_relations


def test_relations_are_dropped_anew_each_step_from_seed_and_step():
    number = 40
    all_trained, entities = torch.ones(number, dtype=torch.bool), torch.tensor([True])
    model = GAMLSTM(model_config(relation_dropout=0.3), all_trained, entities)
    found = [[relation_rows(model, seed, step) for step in range(50)] for seed in (0, 0, 1)]
    rows, again, other = map(torch.stack, found)
    share = (rows >= 2 * number).double().mean()
    assert 0.25 < share < 0.35
    assert len(torch.unique(rows, dim=0)) == 50
    assert torch.equal(rows, again)
    assert not torch.equal(rows, other)
    never = GAMLSTM(model_config(relation_dropout=0.0), all_trained, entities)
    assert torch.equal(relation_rows(never, 0, 0), torch.arange(2 * number))


def test_outside_training_no_relation_is_dropped():
    graph = graph_with_a_new_relation()
    rarely, often = (scores_after_all(tiny_model(graph, relation_dropout=share), graph) for share in (0.0, 0.9))
    assert torch.equal(rarely, often)
