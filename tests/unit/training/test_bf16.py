"""Training with bfloat16 matrix products stays near single precision, and evaluation is single precision."""

import pytest
import torch
from graphs import graph_of, history_before, message_graphs, model_config, random_facts
from scoring import sharded, step_loss

from gam_kg.history.index import HistoryIndex
from gam_kg.nn.model import GAMLSTM
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training.evaluate import ModelScorer

# bfloat16 keeps 8 bits: 0.4 % a rounding, of which a gradient goes through some dozens.
TOLERANCE = 0.05


def gradients(decoder: str, *, bf16: bool) -> torch.Tensor:
    torch.manual_seed(0)
    graph = graph_of(random_facts(0))
    model = GAMLSTM(model_config(dim=32, decoder=decoder), graph.trained_relations, graph.trained)
    window, queries = message_graphs(graph, (1, 2)), graph.snapshot(3).queries
    history, precision = history_before(graph, model.config.history, 3), "bf16" if bf16 else "float32"
    memory, rng = model.empty_memory(), CounterRNG(0, 0)
    loss = step_loss(model, memory, window, queries, history, rng, max_logits=10_000, precision=precision)
    assert loss.dtype == torch.float32
    found = [torch.zeros_like(each) if each.grad is None else each.grad for each in model.parameters()]
    assert all(each.dtype == torch.float32 for each in found)
    return torch.cat([each.flatten() for each in found])


@pytest.mark.parametrize("decoder", ["mlp", "distmult", "complex", "conv_transe"])
def test_gradients_in_bf16_are_near_those_in_single_precision(decoder: str) -> None:
    exact, found = gradients(decoder, bf16=False), gradients(decoder, bf16=True)
    assert torch.isfinite(found).all()
    error = float((found - exact).norm() / exact.norm())
    assert 0 < error < TOLERANCE, "not zero, or bf16 was not used"


def test_evaluation_scores_are_single_precision() -> None:
    graph = graph_of(random_facts(0))
    model = GAMLSTM(model_config(), graph.trained_relations, graph.trained)
    scorer = ModelScorer(sharded(model), HistoryIndex(graph, model.config.history))
    assert scorer.scores(graph.snapshot(3).queries).dtype == torch.float32
