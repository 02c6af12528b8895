import copy

import pytest
import torch
from graphs import graph_of, history_before, message_graphs, random_facts, tiny_model
from scoring import sharded

from gam_kg.config import TrainConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training.draws import Draws, ModelFacts
from gam_kg.training.gradients import Gradients
from gam_kg.training.step import backward_step
from gam_kg.training.step_batch import make_batch
from gam_kg.training.stopwatch import Stopwatch


def model_and_gradients():
    model = tiny_model(graph_of(random_facts(0)))
    return model, Gradients(model, Communicator())


def some_loss(model):
    """Reaches the entity rows, relations and words, and not the LSTM."""
    torch.manual_seed(1)
    rows = model.entity_rows()
    return (rows * torch.randn_like(rows)).sum() + (model.relation * torch.randn_like(model.relation)).square().sum()


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e6])
def test_in_a_world_of_one_gradients_are_clipped_as_torch_clips_them(max_norm):
    model, gradients = model_and_gradients()
    plain = copy.deepcopy(model)
    for parameter in plain.parameters():
        parameter.grad = None
    some_loss(plain).backward()
    expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), max_norm)
    some_loss(model).backward()
    norm = float(gradients.reduce(max_norm))
    assert norm == pytest.approx(float(expected), rel=1e-12)
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        expected = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        torch.testing.assert_close(mine.grad, expected, rtol=1e-10, atol=1e-14, msg=name)
    total = torch.linalg.vector_norm(torch.cat([each.grad.flatten() for each in model.parameters()]))
    assert float(total) == pytest.approx(min(norm, max_norm), rel=1e-5)


def test_parameters_that_nothing_depends_on_have_zero_gradients():
    model, gradients = model_and_gradients()
    model.shared.sum().backward()
    gradients.reduce(1e9)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.any() == (name == "shared"), name


def test_without_any_gradient_the_norm_is_zero_and_nothing_divides_by_it():
    model, gradients = model_and_gradients()
    assert gradients.reduce(1.0) == 0
    assert not any(parameter.grad.any() for parameter in model.parameters())


def test_clearing_sets_all_to_zero_for_the_next_step():
    model, gradients = model_and_gradients()
    norms = []
    for _ in range(2):
        some_loss(model).backward()
        norms.append(gradients.reduce(1e9))
        gradients.clear()
        assert not any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert norms[0] == norms[1] > 0


def test_gradients_stay_views_of_one_buffer():
    model, gradients = model_and_gradients()
    shared = {name: each for name, each in model.named_parameters() if name != "entity"}
    places = {name: each.grad.data_ptr() for name, each in shared.items()}
    storages = {each.grad.untyped_storage().data_ptr() for each in shared.values()}
    assert len(storages) == 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        some_loss(model).backward()
        gradients.reduce(0.5)
        optimizer.step()
        gradients.clear()
        assert {name: each.grad.data_ptr() for name, each in shared.items()} == places
        assert {each.grad.untyped_storage().data_ptr() for each in shared.values()} == storages


def test_no_two_gradients_share_a_place():
    model, _ = model_and_gradients()
    for number, parameter in enumerate(model.parameters()):
        if parameter is not model.entity:
            parameter.grad.fill_(number)
    for number, parameter in enumerate(model.parameters()):
        if parameter is not model.entity:
            assert (parameter.grad == number).all()


@pytest.mark.parametrize("decoder", ["mlp", "conv_transe"])
def test_what_is_summed_first_is_complete_once_scores_are_back_propagated(decoder):
    graph = graph_of(random_facts(0, 120))
    model = tiny_model(graph, decoder=decoder).train()
    gradients, time, found = Gradients(model, Communicator()), 6, []
    window, history = message_graphs(graph, (time - 2, time - 1)), history_before(graph, model.config.history, time)
    draws = Draws(ModelFacts.of(model), CounterRNG(0, 0))
    batch = make_batch([graph.snapshot(time).queries], window, history, TrainConfig(), draws, Communicator())
    backward_step(
        sharded(model),
        model.empty_memory(),
        batch,
        TrainConfig(),
        Stopwatch(),
        lambda: found.append(gradients._early.clone()),
    )
    (early,) = found
    assert torch.equal(early, gradients._early)
    assert early.count_nonzero() > 1000
    assert gradients._late.any()
