import pytest
import torch
from graphs import (
    NAMES,
    NUM_ENTITIES,
    VALID_START,
    all_queries,
    graph_of,
    history_before,
    message_graphs,
    model_config,
    random_facts,
    snapshots_of,
    tiny_config,
    tiny_model,
)
from scoring import sharded, step_loss
from torch.nn import functional

from gam_kg.graph.message_graph import MessageGraph, Window
from gam_kg.graph.name_words import NameWords
from gam_kg.history.index import HistoryIndex
from gam_kg.nn.decoder import DECODERS
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training.evaluate import ModelScorer, roll
from gam_kg.training.trainer import Trainer

SHARED_ROWS = [8, 9]


def graph_with_newcomers():
    """Entities 8 and 9 are first seen after training."""
    facts = random_facts(4, 80)
    new = ((facts[:, [0, 2]] >= 8).any(1)) & (facts[:, 3] < VALID_START)
    facts = [tuple(fact) for fact in facts[~new].tolist()]
    newcomers = [(8, 0, 1, VALID_START), (2, 1, 9, VALID_START), (9, 2, 8, VALID_START)]
    graph = graph_of([*facts, (5, 0, 0, 0), *newcomers])
    assert torch.nonzero(~graph.trained)[:, 0].tolist() == SHARED_ROWS
    return graph


def test_rows_are_the_own_or_shared_row_and_the_mean_of_the_words():
    names = ["red fox", "red hen", "blue fox", "owl"]
    trained, dropped = torch.tensor([True, True, False, True]), torch.tensor([False, True, False, False])
    model = GAMLSTM(model_config(), torch.tensor([True]), trained, NameWords.of(names))
    assert model.word is not None
    model.word_agreement[:] = torch.tensor([0.5, 0.25])
    # A word of weight one counts √d / 2 times its row, and in so far as entities that share it act alike.
    fox, red = model.word * model.config.dim**0.5 / 2 * torch.tensor([[0.5], [0.25]])
    expected = [model.entity[0] + (fox + red) / 2, model.shared + red, model.shared + fox, model.entity[3]]
    torch.testing.assert_close(model.entity_rows(trained & ~dropped), torch.stack(expected))
    expected[1] = model.entity[1] + red
    torch.testing.assert_close(model.entity_rows(), torch.stack(expected))


def test_names_without_shared_words_add_nothing():
    model = GAMLSTM(model_config(), torch.tensor([True]), torch.tensor([True, True]), NameWords.of(["a", "b"]))
    assert model.word is None
    assert torch.equal(model.entity_rows(), model.entity)


@torch.no_grad()
def test_an_update_is_attention_over_unit_vectors_and_then_the_lstm():
    graph = graph_of(random_facts(1))
    model, snapshot = tiny_model(graph), graph.snapshot(2)
    torch.manual_seed(0)
    active = snapshot.active
    state = torch.randn(2, len(active), 4, dtype=torch.float64)
    memory = Memory(state[0], state[1], torch.randint(-1, 2, (len(active),)))
    rows = model.entity_rows()[active]
    weights, after = model.update(rows, memory, MessageGraph.of(snapshot, model.partition))

    # The same over all entities, whose ids need no translation.
    x = torch.zeros(NUM_ENTITIES, 4, dtype=torch.float64)
    x[active] = functional.normalize(rows + memory.hidden, dim=-1)
    edges = torch.stack([snapshot.other, snapshot.anchor])
    attended, found = model.gam(x, edges, snapshot.relation, model.relation, return_attention_weights=True)
    torch.testing.assert_close(weights, found)
    expected = model.lstm(attended[active], memory, torch.tensor(2))
    for mine, theirs in zip(vars(after).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(mine, theirs)


@torch.no_grad()
def test_without_memory_vectors_stay_and_when_entities_were_last_seen_is_still_known():
    graph = graph_of(random_facts(1))
    model, times = tiny_model(graph, memory=False), range(1, 4)
    memory = model.empty_memory()
    for time in times:
        sharded(model).advance(memory, MessageGraph.of(graph.snapshot(time), model.partition))
    assert not memory.hidden.any()
    assert not memory.cell.any()
    remembering = model.empty_memory()
    other = tiny_model(graph)
    for time in times:
        sharded(other).advance(remembering, MessageGraph.of(graph.snapshot(time), model.partition))
    assert torch.equal(memory.last_seen, remembering.last_seen)
    rows = functional.normalize(model.entity_rows(), dim=-1)
    torch.testing.assert_close(model.entity_vectors(memory, Window.of(message_graphs(graph, times))), rows)
    assert not torch.allclose(other.entity_vectors(remembering), rows)


@pytest.mark.parametrize(
    ("off", "parameters"),
    [
        ({"memory": False}, ("gam.", "lstm.")),
        ({"gate": False}, ("gate.",)),
        ({"history": {"pair_statistics": False}}, ("pair_attention.features.", "pair_attention.out")),
    ],
)
def test_what_is_switched_off_has_no_part_in_the_loss(off, parameters):
    graph = graph_of(random_facts(4, 80))
    for changes, switched_off in ((off, True), ({}, False)):
        model = tiny_model(graph, **changes).train()
        history = history_before(graph, model.config.history, VALID_START)
        window, queries = message_graphs(graph, (VALID_START - 2, VALID_START - 1)), graph.snapshot(VALID_START).queries
        step_loss(model, model.empty_memory(), window, queries, history, CounterRNG(0, 0))
        of_part = [value.grad for name, value in model.named_parameters() if name.startswith(parameters)]
        assert any(grad is not None and bool(grad.any()) for grad in of_part) != switched_off


def test_words_count_alike_where_their_agreement_is_switched_off():
    graph, words = graph_of(random_facts(0)), NameWords.of(NAMES)
    plain, agreeing = (Trainer(tiny_config({"word_agreement": on}), graph, words).model for on in (False, True))
    assert (plain.word_agreement == 1).all()
    assert (agreeing.word_agreement < 1).any()


@pytest.mark.parametrize("decoder", DECODERS)
def test_own_rows_of_entities_never_trained_have_no_influence(decoder):
    graph = graph_with_newcomers()
    scores = []
    for own_row in (0.0, torch.nan):
        model = tiny_model(graph, decoder=decoder)
        with torch.no_grad():
            model.entity[SHARED_ROWS] = own_row
        scorer = ModelScorer(sharded(model), HistoryIndex(graph, model.config.history))
        roll([scorer], scorer.history, snapshots_of(graph, graph.times_in("train") + graph.times_in("valid")))
        scores.append(scorer.scores(all_queries(7)))
    assert torch.isfinite(scores[0]).all()
    assert torch.equal(*scores)


def test_own_rows_of_entities_never_trained_get_no_gradient():
    graph = graph_with_newcomers()
    model = tiny_model(graph, entity_dropout=0.3).train()
    window = message_graphs(graph, (VALID_START - 1, VALID_START))
    history = history_before(graph, model.config.history, VALID_START + 1)
    queries = graph.snapshot(VALID_START + 1).queries
    step_loss(model, model.empty_memory(), window, queries, history, CounterRNG(0, 0))
    assert model.entity.grad is not None
    assert model.shared.grad is not None
    assert not model.entity.grad[SHARED_ROWS].any()
    assert model.entity.grad[: SHARED_ROWS[0]].any()
    assert model.shared.grad.any()


def dropped_rows(monkeypatch, entity_dropout, seed=0):
    """Which rows are not their own in every training step; all are trained."""
    config = tiny_config({"entity_dropout": entity_dropout}, epochs=1).model_copy(update={"seed": seed})
    trainer = Trainer(config, graph_of(random_facts(0)))
    drawn, original = [], GAMLSTM.entity_rows

    def spy(model, own=None):
        if own is not None:
            drawn.append(~own)
        return original(model, own)

    with monkeypatch.context() as patch:
        patch.setattr(GAMLSTM, "entity_rows", spy)
        list(trainer.run())
    assert len(drawn) == trainer.position.step
    return torch.stack(drawn)


def test_entity_dropout_is_drawn_anew_each_step_from_seed_and_step(monkeypatch):
    drawn = dropped_rows(monkeypatch, 0.5)
    assert 0.3 < drawn.double().mean() < 0.7
    assert len(torch.unique(drawn, dim=0)) == len(drawn)
    assert torch.equal(drawn, dropped_rows(monkeypatch, 0.5))
    assert not torch.equal(drawn, dropped_rows(monkeypatch, 0.5, seed=1))


def test_without_entity_dropout_no_row_is_dropped(monkeypatch):
    assert not dropped_rows(monkeypatch, 0.0).any()
