"""Scores and losses of a model in a world of one."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gam_kg.config import TrainConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.graph.message_graph import MessageGraph
from gam_kg.graph.snapshot import Queries
from gam_kg.history.index import HistoryIndex
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training.draws import Draws, ModelFacts
from gam_kg.training.step import ShardedModel, backward_step
from gam_kg.training.step_batch import make_batch, query_block
from gam_kg.training.stopwatch import Stopwatch


def sharded(model: GAMLSTM) -> ShardedModel:
    """A model in a world of one."""
    return ShardedModel(model, Communicator())


def score_table(model: GAMLSTM, z: Tensor, queries: Queries, history: HistoryIndex) -> Tensor:
    """Scores of all entities, (num_queries, num_entities)."""
    return sharded(model).scores(z, query_block(history, queries, Communicator())).view(len(queries), len(z))


def step_loss(
    model: GAMLSTM,
    memory: Memory,
    window: Sequence[MessageGraph],
    queries: Queries,
    history: HistoryIndex,
    rng: CounterRNG,
    ahead: Sequence[Queries] = (),
    **train: Any,
) -> Tensor:
    """The loss of a step over queries, and perhaps some ahead, whose gradients are added to the parameters."""
    config = TrainConfig(**train)
    draws = Draws(ModelFacts.of(model), rng)
    batch = make_batch([queries, *ahead], window, history, config, draws, Communicator())
    return backward_step(sharded(model), memory, batch, config, Stopwatch())
