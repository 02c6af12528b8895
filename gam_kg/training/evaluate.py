"""Rank the answers of a split, or of a share of its queries, among all entities, while scorers advance through time.

Single-step: queries about t see the facts before t, so that their horizon is 1. Multi-step: they see only those
before the split, and the horizon grows. Weights are frozen; memory and history are not. A scorer sees the snapshots
that it has observed and those in the history.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.graph.message_graph import MessageGraph
from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.product_scores import ProductScores
from gam_kg.metrics.ranks import Ranks, Scores, rank_answers
from gam_kg.metrics.strata import Strata
from gam_kg.metrics.summary import RankSummary
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.ops.precision import float32_products
from gam_kg.training.query_block import QueryBlock
from gam_kg.training.step import ShardedModel
from gam_kg.training.step_batch import divide_queries, query_block, to_device

MOST_WRITTEN_OUT = 65_536
"""Candidates of a rank above which the model's scores are ranked without being written out."""

QUERIES_AT_ONCE = 256
"""Queries ranked together above `MOST_WRITTEN_OUT`."""

_GROUP = 8192
"""Vectors made at once, so that what is made on the way stays in the caches."""

Tick = Callable[[], None]


class Scorer(Protocol):
    """What can be evaluated: it scores queries from the past that it has observed."""

    def scores(self, queries: Queries) -> Tensor | Scores:
        """Scores of the rank's candidates, from what was observed: a table (num_queries, num_rows) or `Scores`."""
        ...

    def observe(self, snapshot: Snapshot) -> None:
        """Observe the next snapshot, before it is inserted into the history."""
        ...


class ModelScorer:
    """The trained model as a scorer. All methods but `vectors` are collectives.

    Args:
        sharded: The model, put into evaluation mode.
        history: The past.
        memory: Memory to start from, which has seen what the history has; None: empty.

    Attributes:
        end: The snapshot after the last one that was observed.
        vectors_made: What `vectors` returns, once it was called.
    """

    def __init__(self, sharded: ShardedModel, history: HistoryIndex, memory: Memory | None = None) -> None:
        self.sharded, self.history = sharded, history
        self.model = sharded.model.eval()
        self.memory = self.model.empty_memory() if memory is None else memory
        self.end = history.end
        self.vectors_made: Tensor | None = None

    def copy(self, history: HistoryIndex) -> "ModelScorer":
        """A scorer that has observed the same and goes on by itself, with a history of its own."""
        scorer = ModelScorer(self.sharded, history, self.memory.copy())
        scorer.end = self.end
        scorer.vectors_made = None if self.vectors_made is None else self.vectors_made.clone()
        return scorer

    def scores(self, queries: Queries) -> Tensor | Scores:
        """Scores of the rank's candidates, from what was observed; a table where candidates are not too many."""
        few = self.model.partition.most_rows <= MOST_WRITTEN_OUT
        return self.table(queries) if few else self.products(queries)

    @torch.no_grad()
    @float32_products()
    def table(self, queries: Queries) -> Tensor:
        """Scores of the rank's candidates, from what was observed, (num_queries, num_rows)."""
        vectors, block = self.vectors(), self._block(queries)
        return self.sharded.scores(vectors, block).view(len(queries), len(vectors))

    @torch.no_grad()
    @float32_products()
    def products(self, queries: Queries) -> ProductScores:
        """The same scores, to be ranked without being written out; valid until the next snapshot is observed."""
        vectors, block = self.vectors(), self._block(queries)
        query, positions, added = self.sharded.score_parts(vectors, block)
        positions, size = positions.long(), max(1, len(vectors))
        return ProductScores(query, vectors, positions // size, positions % size, added)

    @torch.no_grad()
    @float32_products()
    def observe(self, snapshot: Snapshot) -> None:
        self.end = snapshot.time + 1
        message_graph = to_device(MessageGraph.of(snapshot, self.model.partition), self.memory.hidden.device)
        self.sharded.advance(self.memory, message_graph)
        if self.vectors_made is not None:
            active = message_graph.active.long()
            self.vectors_made.index_copy_(0, active, self.sharded.vectors_of(self.memory, active))

    @torch.no_grad()
    @float32_products()
    def vectors(self) -> Tensor:
        """Current vectors of the rank's entities, (num_rows, dim); they change when a snapshot is observed."""
        if self.vectors_made is None:
            # A group at a time, since what is made on the way would take the memory of all vectors several times.
            self.vectors_made = torch.empty_like(self.memory.hidden)
            every = torch.arange(len(self.vectors_made), device=self.vectors_made.device)
            for rows, group in zip(every.split(_GROUP), self.vectors_made.split(_GROUP), strict=True):
                group.copy_(self.sharded.vectors_of(self.memory, rows))
        return self.vectors_made

    def _block(self, queries: Queries) -> QueryBlock:
        block = query_block(self.history, queries, self.sharded.communicator)
        block = to_device(block, self.memory.hidden.device)
        return replace(block, layout=block.layout.with_relation_rows(self.model.relation_rows()))


@dataclass(frozen=True)
class AnswerRanks:
    """Ranks of the answers of a split, one row per answer, in time order.

    Attributes:
        time, horizon, subject, relation, answer, stratum: int64 (num_answers,); horizon: see `Queries`.
        time_aware, raw: Realistic ranks by scorer name, float64 (num_answers,) each.
    """

    time: np.ndarray
    horizon: np.ndarray
    subject: np.ndarray
    relation: np.ndarray
    answer: np.ndarray
    stratum: np.ndarray
    time_aware: dict[str, np.ndarray]
    raw: dict[str, np.ndarray]


def roll(
    scorers: Iterable[Scorer], history: HistoryIndex | None, snapshots: Iterable[Snapshot], tick: Tick = lambda: None
) -> None:
    """Advance scorers and history by snapshots. A collective.

    Args:
        scorers: Observe each snapshot.
        history: Receives it afterwards; None if the snapshots are already in it.
        snapshots: The snapshots, in time order.
        tick: Called after each.
    """
    scorers = list(scorers)
    for snapshot in snapshots:
        for scorer in scorers:
            scorer.observe(snapshot)
        if history is not None:
            history.insert(snapshot)
        tick()


def rank_split(
    scorers: dict[str, Scorer],
    history: HistoryIndex,
    snapshots: Iterable[Snapshot],
    *,
    partition: Partition,
    now: int | None = None,
    strata: Strata | None = None,
    communicator: Communicator | None = None,
    max_scores: int = 32_000_000,
    share: float = 1.0,
    tick: Tick = lambda: None,
) -> AnswerRanks:
    """Rank the answers of a split, or of a share of its queries. A collective, which gives all ranks the same.

    Args:
        scorers: By name; rolled to the start of the split.
        history: Rolled to the start of the split.
        snapshots: Snapshots of the split, in time order.
        partition: The rank's candidates.
        now: Multi-step: only facts before this snapshot, the first of the split, are visible. None: single-step.
        strata: Gives the stratum of each answer; None leaves them zero.
        communicator: The ranks; None for a world of one.
        max_scores: The largest table of scores, where candidates are few enough for scores to be written out.
        share: Share of the queries to rank, drawn by subject and relation, the same on any number of ranks.
        tick: Called after each snapshot.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    total = partial((communicator or Communicator()).sum, purpose="ranks")
    columns: dict[str, list[Tensor]] = {
        name: [] for name in ("time", "horizon", "subject", "relation", "answer", "stratum")
    }
    found: dict[str, list[Ranks]] = {name: [] for name in scorers}
    for snapshot in snapshots:
        queries = draw_queries(snapshot.queries.seen_from(snapshot.time if now is None else now), share)
        for block in _blocks(queries, partition, max_scores):
            columns["time"].append(torch.full_like(block.answer, snapshot.time))
            columns["horizon"].append(torch.full_like(block.answer, block.horizon))
            columns["subject"].append(block.subject[block.answer_query])
            columns["relation"].append(block.relation[block.answer_query])
            columns["answer"].append(block.answer)
            columns["stratum"].append(torch.zeros_like(block.answer) if strata is None else strata.of(block))
            for name, scorer in scorers.items():
                found[name].append(rank_answers(scorer.scores(block), block, partition, total))
        if now is None:
            roll(scorers.values(), history, [snapshot])
        tick()
    return AnswerRanks(
        **{name: _joined(parts) for name, parts in columns.items()},
        time_aware={name: _joined([ranks.time_aware for ranks in parts]) for name, parts in found.items()},
        raw={name: _joined([ranks.raw for ranks in parts]) for name, parts in found.items()},
    )


def validate(
    sharded: ShardedModel,
    graph: TemporalGraph,
    history: HistoryIndex,
    *,
    max_scores: int,
    num_facts: int = 0,
) -> dict[str, float]:
    """Single-step time-aware metrics on validation, memory rolled from the first snapshot. A collective.

    Args:
        sharded: The model, put into evaluation mode.
        graph: The rank's facts.
        history: Has all of train; afterwards also validation.
        max_scores: See `rank_split`.
        num_facts: About how many facts are ranked; 0: all.
    """
    scorer, communicator = ModelScorer(sharded, history), sharded.communicator
    roll([scorer], None, graph.read(graph.times_in("train")))  # observing takes the rank's own facts only
    ranks = rank_split(
        {"model": scorer},
        history,
        read_snapshots(graph, graph.times_in("valid"), communicator),
        partition=graph.partition,
        communicator=communicator,
        max_scores=max_scores,
        share=graph.share_of("valid", num_facts),
    )
    return RankSummary.of(ranks.time_aware["model"]).compute()


def draw_queries(queries: Queries, share: float) -> Queries:
    """A share of queries, drawn by subject and relation, the same on any number of ranks."""
    if share >= 1:
        return queries
    key = queries.subject * 2**31 + queries.relation
    return queries.select(torch.nonzero(CounterRNG(0, queries.time).uniform(key, "asked") < share)[:, 0])


def _blocks(queries: Queries, partition: Partition, max_scores: int) -> Iterator[Queries]:
    """Queries that are scored together."""
    if partition.most_rows > MOST_WRITTEN_OUT:
        max_scores = QUERIES_AT_ONCE * partition.most_rows
    return divide_queries(queries, partition.most_rows, max_scores)


def _joined(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy() if parts else np.zeros(0)
