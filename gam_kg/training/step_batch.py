"""The step batch: all that a step reads apart from weights and memory, made on the CPU from data and seed only."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from gam_kg.config import TrainConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.cross_entropy import Targets
from gam_kg.distributed.exchange import GatherPlan
from gam_kg.graph.message_graph import MessageGraph, Window
from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Queries
from gam_kg.history.index import HistoryIndex
from gam_kg.history.layout import ScoreLayout, Slots, lay_out
from gam_kg.history.sampling import InclusionProbabilities, Sample
from gam_kg.history.walks import Joined, join
from gam_kg.nn.entity_rows import SelectedRows
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.ops.dimensions import Within
from gam_kg.ops.packing import on_device
from gam_kg.ops.ragged import select, unique
from gam_kg.ops.records import NARROWEST, Record, map_tensors
from gam_kg.ops.sparse import CSRPattern
from gam_kg.training.draws import Draws
from gam_kg.training.query_block import QueryBlock, joined_blocks, most_together


@dataclass(frozen=True)
class Leaving:
    """The snapshot that leaves the window after a step, and updates the stored memory.

    Attributes:
        snapshot: Its facts.
        rows: Rows of its active entities.
    """

    snapshot: MessageGraph
    rows: Annotated[SelectedRows, Within(places=".snapshot.active")]


@dataclass(frozen=True)
class StepBatch:
    """All that a training step reads apart from weights and memory.

    Attributes:
        num_answers: Answers of all ranks, to queries of the next snapshot and ahead; integer ().
        rows: Rows of the shard that the step reads, ascending; None: all.
        own: Which rows of the shard use their own row, bool (num_rows,); None where `rows` says it.
        window: The snapshots just before, whose updates get gradients; None: there are none.
        blocks: The queries.
        leaving: None where no snapshot leaves the window.
    """

    num_answers: Tensor
    rows: Annotated[SelectedRows | None, Within(places="rows")]
    own: Tensor | None
    window: Window | None
    blocks: tuple[QueryBlock, ...]
    leaving: Leaving | None = None


def to_device(record: Record, device: torch.device) -> Record:
    """A record on the CPU as one on a device, where its index tensors are int32.

    On a CPU they are int64: there `index_add_` of rows takes 2.7 times as long with int32.
    """
    if device.type == "cpu":
        return widened(record)
    return on_device(record, device)


def widened(record: Record) -> Record:
    """The record with its index tensors as int64."""
    return map_tensors(record, lambda value: value.long() if value.dtype in NARROWEST else value)


def divide_queries(queries: Queries, num_candidates: int, max_scores: int) -> Iterator[Queries]:
    """Divide queries into blocks of at most `max_scores` scores (one query at least)."""
    for block in torch.arange(len(queries)).split(most_together(num_candidates, max_scores)):
        yield queries.select(block)


def num_steps(queries: Queries, config: TrainConfig) -> int:
    """Number of optimizer steps over the queries of a snapshot, 1 at least."""
    number = min(round(len(queries.answer) / config.step_answers), config.max_steps_per_snapshot, len(queries))
    return max(1, number)


def step_queries(queries: Queries, config: TrainConfig, seed: int) -> list[Queries]:
    """Divide the queries of a snapshot at random over its optimizer steps, each query to exactly one.

    A snapshot is divided into about `answers / step_answers` steps, `max_steps_per_snapshot` at most, so that steps per
    fact do not depend on the size of snapshots.
    """
    number = num_steps(queries, config)
    if number == 1:
        return [queries]
    order = torch.randperm(len(queries), generator=torch.Generator().manual_seed(seed))
    return [queries.select(rows) for rows in order.tensor_split(number)]


def queries_ahead(
    queries: Queries, following: Sequence[Queries], config: TrainConfig, rng: CounterRNG
) -> list[Queries]:
    """Some queries of one later snapshot, which see what a step sees; none where there is no later one.

    The horizon h is drawn with probabilities in proportion to 1 / h, among those at which there are queries.

    Args:
        queries: Queries of the step.
        following: Those of snapshots after its own, in time order, the same on all ranks.
        config: `max_horizon` and `ahead_share`.
        rng: Random numbers of the step.
    """
    following = [one.seen_from(queries.time) for one in following]
    following = [one for one in following if one.horizon <= config.max_horizon and len(one)]
    if not following or not config.ahead_share:
        return []
    generator = torch.Generator().manual_seed(rng.integer("horizon"))
    weight = torch.tensor([1 / one.horizon for one in following])
    one = following[int(torch.multinomial(weight, 1, generator=generator))]
    share = min(1.0, config.ahead_share * len(queries.answer) / len(one.answer))
    number = max(1, round(share * len(one)))
    return [one.select(torch.randperm(len(one), generator=generator)[:number].sort().values)]


def query_block(history: HistoryIndex, queries: Queries, communicator: Communicator) -> QueryBlock:
    """Make the block of queries that are scored against all entities, outside training. A collective."""
    joined = join(history, history.find(queries))
    slots = Slots.of(joined, queries.answer[:0], history.partition.num_rows, None)
    return QueryBlock(lay_out(history, joined, slots), _gather_plan(queries, history.partition, communicator), None)


def make_batch(
    parts: Sequence[Queries],
    window: Sequence[MessageGraph],
    history: HistoryIndex,
    config: TrainConfig,
    draws: Draws,
    communicator: Communicator,
) -> StepBatch:
    """The batch of a step. A collective.

    Args:
        parts: Queries of the step, each part of one snapshot, the same on all ranks.
        window: The snapshots just before.
        history: The past.
        config: Which candidates, and how many scores per block.
        draws: Random choices of the step.
        communicator: The ranks.
    """
    if config.candidates == "sampled":
        return _sampled_batch(parts, window, history, config, draws, communicator)
    return full_batch(parts, window, full_blocks(parts, history, config, communicator), config, draws)


def full_blocks(
    parts: Sequence[Queries], history: HistoryIndex, config: TrainConfig, communicator: Communicator
) -> tuple[QueryBlock, ...]:
    """The blocks of a step over all entities, without random choices; for arguments see `make_batch`. A collective."""
    return tuple(
        _block(history, join(history, history.find(block)), None, communicator)
        for part in parts
        for block in divide_queries(part, history.partition.most_rows, config.max_logits)
    )


def full_batch(
    parts: Sequence[Queries],
    window: Sequence[MessageGraph],
    blocks: Iterable[QueryBlock],
    config: TrainConfig,
    draws: Draws,
) -> StepBatch:
    """The batch of a step over all entities, of its `full_blocks`; for other arguments see `make_batch`."""
    most = most_together(draws.model.partition.most_rows, config.max_logits)
    blocks = _with_draws(joined_blocks(map(widened, blocks), most), draws)
    return StepBatch(_num_answers(parts), None, draws.own(), _window(window, draws), blocks)


def leaving_snapshot(snapshot: MessageGraph, draws: Draws) -> Leaving:
    """A snapshot that leaves the window; with the random choices of the step after."""
    with torch.no_grad():
        return Leaving(draws.graph(snapshot), draws.model.sources.select(snapshot.active))


def _num_answers(parts: Sequence[Queries]) -> Tensor:
    return torch.tensor(sum(len(part.answer) for part in parts))


def _window(window: Sequence[MessageGraph], draws: Draws, rows: Tensor | None = None) -> Window | None:
    return Window.of([draws.graph(snapshot) for snapshot in window], rows)


def _with_draws(blocks: Iterable[QueryBlock], draws: Draws) -> tuple[QueryBlock, ...]:
    return tuple(replace(block, layout=draws.layout(block.layout)) for block in blocks)


def _sampled_batch(
    parts: Sequence[Queries],
    window: Sequence[MessageGraph],
    history: HistoryIndex,
    config: TrainConfig,
    draws: Draws,
    communicator: Communicator,
) -> StepBatch:
    """The batch of a step over sampled candidates, which reads only some rows."""
    partition, queries = history.partition, Queries.together(parts)
    most = min(2 * config.num_negatives, partition.num_entities)  # the same on all ranks, as the blocks must be
    found = [history.find(block) for part in parts for block in divide_queries(part, most, config.max_logits)]
    known_subject, known_row = map(torch.cat, zip(*(one.known_answers for one in found), strict=True))
    counts = torch.tensor([len(known_row), sum(one.num_walks for one in found)])
    counts = communicator.sum(counts, "candidates").tolist()
    probabilities = InclusionProbabilities.of(config.history_links * len(queries), *counts)
    sample = Sample.draw(queries, config.num_negatives, (known_subject, known_row), probabilities, partition, draws.rng)
    blocks = (_block(history, join(history, one, sample), sample, communicator) for one in found)
    blocks = joined_blocks(blocks, most_together(most, config.max_logits))
    own = torch.cat([queries.subject, queries.answer])
    own = partition.rows(own[partition.owns(own)])
    # Walks end in `ends`; rules lead to pairs apart, which no walk may reach.
    candidates = [part for block in blocks for part in (block.layout.ends, _rows_apart(block.layout))]
    read = unique(torch.cat([sample.column_rows, own, *candidates]))
    window = only_for(window, read)
    rows = unique(torch.cat([read, *(one.active for one in window)]))
    # Other places are not written, since that would take time proportional to the shard.
    place = torch.empty(partition.num_rows, dtype=torch.int64).index_copy_(0, rows, torch.arange(len(rows)))
    blocks = (replace(block, layout=_renumbered(block.layout, place, len(rows))) for block in blocks)
    blocks = _with_draws(blocks, draws)
    return StepBatch(_num_answers(parts), draws.selected(rows), None, _window(window, draws, rows), blocks)


def _rows_apart(layout: ScoreLayout) -> Tensor:
    return layout.ends[:0] if layout.apart is None else layout.apart.column


def _renumbered(layout: ScoreLayout, place: Tensor, num_rows: int) -> ScoreLayout:
    """The layout, of rows of the shard, as one of their places among `num_rows` rows."""
    apart, columns = layout.apart, layout.columns
    if apart is not None:
        apart = CSRPattern.of(apart.offsets, place.index_select(0, apart.column), num_rows)
    if columns is not None:
        columns = place.index_select(0, columns)
    row, ends = place.index_select(0, layout.row), place.index_select(0, layout.ends)
    return replace(layout, row=row, columns=columns, ends=ends, apart=apart)


def only_for(window: Sequence[MessageGraph], read: Tensor) -> list[MessageGraph]:
    """The window without updates that cannot affect `read`.

    Each snapshot updates `read` and what is active later in the window.

    Args:
        window: Snapshots, in time order.
        read: Rows, ascending, int64 (num_read,).
    """
    found: list[MessageGraph] = []
    for snapshot in reversed(window):
        found.insert(0, snapshot.only(read))
        read = unique(torch.cat([read, snapshot.active]))
    return found


def _block(history: HistoryIndex, joined: Joined, sample: Sample | None, communicator: Communicator) -> QueryBlock:
    queries, partition = joined.found.groups.queries, history.partition
    query, answer = select(partition.owns(queries.answer), queries.answer_query, queries.answer)
    pairs = query * joined.found.num_rows + partition.rows(answer)
    slots = Slots.of(joined, pairs, partition.num_rows, sample)
    log_weight, log_weight_apart, apart = None, None, slots.apart // slots.num_rows
    if sample is not None:
        subject = queries.subject.index_select(0, apart)
        drawn = sample.probability(subject, slots.apart % slots.num_rows)
        log_weight, log_weight_apart = sample.log_weight, -drawn.log()
    targets = Targets(
        slots.num_queries,
        slots.num_columns,
        partition.num_entities,
        query,
        slots.positions(pairs),
        torch.bincount(queries.answer_query, minlength=len(queries)),
        apart,
        log_weight,
        log_weight_apart,
        slots.masked(joined.excluded),
    )
    return QueryBlock(lay_out(history, joined, slots), _gather_plan(queries, partition, communicator), targets)


def _gather_plan(queries: Queries, partition: Partition, communicator: Communicator) -> GatherPlan | None:
    world_size = communicator.world_size
    return GatherPlan.of(partition.owner(queries.subject), world_size) if world_size > 1 else None
