"""One training step: recompute the last memory updates, score a snapshot, back-propagate.

On several ranks all of it runs in lockstep: what is marked a collective is entered by all ranks, those without facts or
queries included.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.config import TrainConfig
from gam_kg.data.history import HistoryIndex
from gam_kg.data.ragged import distinct
from gam_kg.data.snapshot import Queries
from gam_kg.distributed.neighbourhood import Neighbourhood
from gam_kg.distributed.sampled_softmax import Sample, sampled_cross_entropy
from gam_kg.distributed.sharded_softmax import Targets, sharded_cross_entropy
from gam_kg.nn.candidates import Candidates, Held, Shares, rows_of
from gam_kg.nn.history_plan import HistoryPlan
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.noise import Noise
from gam_kg.nn.recurrence import Memory
from gam_kg.nn.vectors import tapped, unit
from gam_kg.train.kept_plans import KeptPlans
from gam_kg.train.stopwatch import Stopwatch

MOST_QUERIES = 8192
_BLOCK_ROWS = 512


def entity_vectors(
    model: GAMLSTM,
    memory: Memory,
    window: Sequence[Neighbourhood] = (),
    dropped: Tensor | None = None,
    noise: Noise | None = None,
    held: Tensor | None = None,
) -> Tensor:
    """Vectors z of the rank's entities after the stored memory and the updates of a window. A collective.

    Args:
        model: The model.
        memory: Memory before the window.
        window: Snapshots to remember, in time order; gradients flow through them.
        dropped: Entities that get the shared row, bool (num_rows,).
        noise: Of the step; None: torch's.
        held: Rows that are wanted, those active in the window among them, ascending, int64 (num_held,); None for all.

    Returns:
        (num_rows, dim), or (num_held, dim).
    """
    rows = model.entity_rows(dropped, held)
    hidden = memory.hidden if held is None else memory.hidden.index_select(0, held)
    if not window:
        return unit(rows + hidden)
    touched = active_rows(window)
    before = compact = memory.rows(touched)
    at = touched if held is None else torch.searchsorted(held, touched)
    rows, compact_rows = tapped(rows, at)
    for snapshot in window:
        active = torch.searchsorted(touched, snapshot.active)
        _, after = model.update(compact_rows[active], compact.rows(active), snapshot, noise)
        compact = compact.replaced(active if snapshot.wanted is None else active[snapshot.wanted], after)
    # Adding what has changed makes no copy of all rows, forward or backward.
    return unit((rows + hidden).index_add_(0, at, compact.hidden - before.hidden))


def only_for(window: Sequence[Neighbourhood], read: Tensor) -> list[Neighbourhood]:
    """A window that updates only what bears on some rows: those, and what is active in later snapshots.

    Args:
        window: Snapshots, in time order.
        read: Rows, ascending, int64 (num_read,).
    """
    found: list[Neighbourhood] = []
    for snapshot in reversed(window):
        found.insert(0, snapshot.only(read))
        read = distinct(torch.cat([read, snapshot.active]))
    return found


def active_rows(window: Sequence[Neighbourhood]) -> Tensor:
    """Rows of the entities active in any of some snapshots, ascending, int64 (num_active,)."""
    return distinct(torch.cat([snapshot.active for snapshot in window]))


@torch.no_grad()
def remember(model: GAMLSTM, memory: Memory, snapshot: Neighbourhood, noise: Noise | None = None) -> None:
    """Advance the stored memory by one snapshot, as `model.update` does, in place and without gradients. A collective.

    On a CPU it goes over the active entities block by block, so that what is between the products stays in the cache.
    """
    gam, num_blocks = model.gam, len(snapshot.active) // _BLOCK_ROWS if memory.hidden.is_cpu else 1
    # Blocks of many rows: the products of one alone would be rounded otherwise.
    blocks = snapshot.active.tensor_split(max(1, num_blocks))
    before = [memory.rows(rows) for rows in blocks]
    vectors = [unit(model.entity_rows(index=rows) + one.hidden) for rows, one in zip(blocks, before, strict=True)]
    query, sent = (torch.cat([part(x) for x in vectors]) for part in (gam.query, gam.project))
    told, _ = model.listen(query, sent, snapshot)
    sizes = [len(rows) for rows in blocks]
    parts = zip(blocks, before, vectors, told.split(sizes), model.update_keys(snapshot).split(sizes), strict=True)
    for rows, one, x, heard, key in parts:
        attended = gam.answer(heard, x, None if noise is None else noise.rows(key))
        memory.store(rows, model.lstm(attended, one, snapshot.time))


def query_blocks(queries: Queries, num_candidates: int, max_scores: int) -> Iterator[Queries]:
    """Cut queries so that no block has more than `max_scores` scores (one query at least)."""
    rows = torch.arange(len(queries), device=queries.subject.device)
    # Where candidates are few, what a query reads of the past takes more room than its scores.
    for block in rows.split(max(1, min(max_scores // max(1, num_candidates), MOST_QUERIES))):
        yield queries.select(block)


def step_queries(queries: Queries, config: TrainConfig, seed: int) -> list[Queries]:
    """Divide the queries of a snapshot at random over its optimizer steps, each query to exactly one.

    A snapshot with few answers is one step, one with many several, so that data sets with long snapshots get as many
    steps for their facts as those with short ones.
    """
    wanted = max(1, round(len(queries.answer) / config.step_answers))
    num_steps = min(wanted, config.max_steps_per_snapshot, len(queries))
    if num_steps == 1:
        return [queries]
    order = torch.randperm(len(queries), generator=torch.Generator().manual_seed(seed)).to(queries.subject.device)
    return [queries.select(rows) for rows in order.tensor_split(num_steps)]


@dataclass(frozen=True)
class StepSettings:
    """What a step is told beside its data.

    Attributes:
        smoothing: Label smoothing.
        max_scores: Scores held at once; queries above it are scored block by block, with the same result.
        bf16: Whether matrix products of forward and backward are in bfloat16.
        num_negatives: Entities drawn as candidates, all ranks together; None: all entities are candidates.
        history_links: Past facts and paths that a query reads where candidates are drawn, on average.
    """

    smoothing: float
    max_scores: int
    bf16: bool = False
    num_negatives: int | None = None
    history_links: int = 16


def backward_snapshot(
    model: GAMLSTM,
    memory: Memory,
    window: Sequence[Neighbourhood],
    queries: Queries,
    history: HistoryIndex,
    noise: Noise,
    settings: StepSettings,
    watch: Stopwatch | None = None,
    kept: KeptPlans | None = None,
) -> Tensor:
    """Add the gradients of one snapshot's mean loss to the parameters. A collective.

    Parameters that all ranks have alike get this rank's part of the gradient, which is their sum over the ranks.

    Args:
        model: In training mode.
        memory: Memory before the window.
        window: The snapshots just before, whose updates get gradients.
        queries: Questions of the snapshot, alike on all ranks.
        history: The past.
        noise: Of the step.
        settings: Loss and limits.
        watch: Told how long each phase takes.
        kept: Plans of the history where all queries of a snapshot are one step; None: none is kept.

    Returns:
        The mean cross-entropy over the answers of all ranks, without gradient.
    """
    if settings.num_negatives is not None:
        return _backward_sampled(model, memory, window, queries, history, noise, settings, watch or Stopwatch())
    partition, watch = model.partition, watch or Stopwatch()
    autocast = torch.autocast(memory.hidden.device.type, torch.bfloat16, enabled=settings.bf16)
    with watch.phase("encode"), autocast:
        dropped = noise.uniform(model.entity_id, "entity dropout") < model.config.entity_dropout
        z = entity_vectors(model, memory, window, dropped, noise)
    # Gradients of all blocks meet at z, so that the window is walked back once.
    leaf = z.detach().requires_grad_()
    loss = z.new_zeros(())
    for block in query_blocks(queries, partition.most_rows, settings.max_scores):
        with watch.phase("history"):
            plan = _plan(block, history, len(z), kept if len(block) == len(queries) else None)
        with watch.phase("score"), autocast:
            scores = model.scores(leaf, block, plan, noise)
        with watch.phase("loss"):
            targets = Targets.of(block, partition)
            block_loss = sharded_cross_entropy(
                scores,
                targets,
                num_candidates=partition.num_entities,
                smoothing=settings.smoothing,
                topology=model.topology,
            ) / len(queries.answer)
        with watch.phase("backward of scores"):
            block_loss.backward()
        loss += block_loss.detach()
    with watch.phase("backward of encode"):
        z.backward(leaf.grad)
    return loss


def _plan(queries: Queries, history: HistoryIndex, num_rows: int, kept: KeptPlans | None) -> HistoryPlan:
    plan = None if kept is None else kept.find(queries)
    if plan is None:
        plan = HistoryPlan.of(history.look_up(queries), queries, num_rows)
        if kept is not None:
            kept.keep(queries, plan)
    return plan


def _backward_sampled(
    model: GAMLSTM,
    memory: Memory,
    window: Sequence[Neighbourhood],
    queries: Queries,
    history: HistoryIndex,
    noise: Noise,
    settings: StepSettings,
    watch: Stopwatch,
) -> Tensor:
    """`backward_snapshot` over sampled candidates: only rows that the step reads are computed or get gradients."""
    assert settings.num_negatives is not None
    partition = model.partition
    autocast = torch.autocast(memory.hidden.device.type, torch.bfloat16, enabled=settings.bf16)
    with watch.phase("history"):
        # Alike on all ranks, as the number of blocks must be.
        most = min(2 * settings.num_negatives, partition.num_entities)
        blocks = list(query_blocks(queries, most, settings.max_scores))
        found = [history.find(block) for block in blocks]
        known_subject, known_row = map(torch.cat, zip(*(one.known_answers for one in found), strict=True))
        counts = torch.tensor([len(known_row), sum(one.num_links for one in found)], device=known_row.device)
        counts = model.topology.sum(counts, "candidates").tolist()
        shares = Shares.of(settings.history_links * len(queries), *counts)
        candidates = Candidates.draw(
            queries, settings.num_negatives, (known_subject, known_row), shares, model.entity_id, partition, noise
        )
        pasts = [history.sampled(one, candidates) for one in found]
        own = torch.cat([queries.subject, queries.answer])
        own = partition.rows(own[partition.owns(own)])
        ends = (rows for past in pasts for rows in rows_of(past))
        read = distinct(torch.cat([candidates.rows, own, *ends]))
        window = only_for(window, read)
        active = [snapshot.active for snapshot in window]
        held = Held.of(distinct(torch.cat([read, *active])), partition.num_rows)
    with watch.phase("encode"), autocast:
        ids = model.entity_id.index_select(0, held.rows)
        dropped = noise.uniform(ids, "entity dropout") < model.config.entity_dropout
        z = entity_vectors(model, memory, window, dropped, noise, held.rows)
    leaf = z.detach().requires_grad_()
    loss = z.new_zeros(())
    for block, past in zip(blocks, pasts, strict=True):
        with watch.phase("score"), autocast:
            scored = model.sampled_scores(leaf, held, candidates, block, past, noise)
        with watch.phase("loss"):
            sample = Sample(
                candidates.log_weight,
                scored.replaced,
                scored.query,
                scored.log_weight,
                scored.answers,
                scored.answers_per_query,
                partition.num_entities,
            )
            block_loss = sampled_cross_entropy(
                scored.dense, scored.score, sample, smoothing=settings.smoothing, topology=model.topology
            ) / len(queries.answer)
        with watch.phase("backward of scores"):
            block_loss.backward()
        loss += block_loss.detach()
    with watch.phase("backward of encode"):
        z.backward(leaf.grad)
    return loss
