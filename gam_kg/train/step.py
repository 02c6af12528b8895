"""One training step: recompute the last memory updates, score a snapshot, back-propagate."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gam_kg.config import TrainConfig
from gam_kg.data.graph import Queries, Snapshot
from gam_kg.data.history import HistoryIndex
from gam_kg.distributed.sharded_softmax import Targets, sharded_cross_entropy
from gam_kg.distributed.topology import Topology
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.nn.vectors import unit

_MOST_QUERIES = 4000


def entity_vectors(
    model: GAMLSTM, memory: Memory, window: Sequence[Snapshot] = (), dropped: Tensor | None = None
) -> Tensor:
    """Vectors z of all entities after the stored memory and the updates of a window, with gradients through the window.

    Args:
        model: The model.
        memory: Memory before the window.
        window: Snapshots to remember, in time order.
        dropped: Entities that get the shared row, bool (num_entities,).

    Returns:
        (num_entities, dim).
    """
    rows = model.entity_rows(dropped)
    hidden = memory.hidden
    if window:
        touched = torch.unique(torch.cat([snapshot.active for snapshot in window]))
        compact, compact_rows = memory.rows(touched), rows[touched]
        for snapshot in window:
            active = torch.searchsorted(touched, snapshot.active)
            _, after = model.update(compact_rows[active], compact.rows(active), snapshot)
            compact = compact.replaced(active, after)
        hidden = hidden.index_copy(0, touched, compact.hidden)
    return unit(rows + hidden)


@torch.no_grad()
def remember(model: GAMLSTM, memory: Memory, snapshot: Snapshot) -> None:
    """Advance the stored memory by one snapshot, in place and without gradients."""
    if len(snapshot):
        rows = model.entity_rows(index=snapshot.active)
        _, after = model.update(rows, memory.rows(snapshot.active), snapshot)
        memory.store(snapshot.active, after)


def query_blocks(queries: Queries, num_candidates: int, max_scores: int) -> Iterator[Queries]:
    """Cut queries so that no block has more than `max_scores` scores (one query at least)."""
    rows = torch.arange(len(queries), device=queries.subject.device)
    # Where candidates are few, what a query reads of the past takes more room than its scores.
    for block in rows.split(max(1, min(max_scores // max(1, num_candidates), _MOST_QUERIES))):
        yield queries.select(block)


def step_queries(queries: Queries, config: TrainConfig) -> list[Queries]:
    """Divide the queries of a snapshot at random over its optimizer steps, each query to exactly one.

    A snapshot with few answers is one step, one with many several, so that data sets with long snapshots get as many
    steps for their facts as those with short ones.
    """
    wanted = max(1, round(len(queries.answer) / config.answers_per_step))
    num_steps = min(wanted, config.max_steps_per_snapshot, len(queries))
    return [queries.select(rows) for rows in torch.randperm(len(queries)).tensor_split(num_steps)]


def backward_snapshot(
    model: GAMLSTM,
    memory: Memory,
    window: Sequence[Snapshot],
    queries: Queries,
    history: HistoryIndex,
    *,
    smoothing: float,
    max_scores: int,
    topology: Topology,
) -> Tensor:
    """Add the gradients of one snapshot's mean loss to the parameters.

    Args:
        model: In training mode.
        memory: Memory before the window.
        window: The snapshots just before, whose updates get gradients.
        queries: Questions of the snapshot.
        history: The past.
        smoothing: Label smoothing.
        max_scores: Scores held at once; queries above it are scored block by block, with the same result.
        topology: The ranks.

    Returns:
        The mean cross-entropy over the answers, without gradient.
    """
    num_entities = len(model.entity)
    dropped = torch.rand(num_entities, device=memory.hidden.device) < model.config.entity_dropout
    z = entity_vectors(model, memory, window, dropped)
    # Gradients of all blocks meet at z, so that the window is walked back once.
    leaf = z.detach().requires_grad_()
    loss = z.new_zeros(())
    for block in query_blocks(queries, num_entities, max_scores):
        scores = model.scores(leaf, block, history.look_up(block))
        answers = torch.bincount(block.answer_query, minlength=len(block))
        targets = Targets(block.answer_query, block.answer, answers)
        block_loss = sharded_cross_entropy(
            scores, targets, num_candidates=num_entities, smoothing=smoothing, topology=topology
        ) / len(queries.answer)
        block_loss.backward()
        loss += block_loss.detach()
    z.backward(leaf.grad)
    return loss
