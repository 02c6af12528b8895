"""The evaluation protocol: scorers walk through time and every answer is ranked among all entities.

Single-step: the facts before t are visible when t is asked. Multi-step: only those before the split starts are.
Weights are frozen; memory and history are not. What is seen is what scorers and history have been told of.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gam_kg.data.graph import TemporalGraph
from gam_kg.data.history import HistoryIndex
from gam_kg.data.partition import Partition
from gam_kg.data.snapshot import Moment, Queries
from gam_kg.distributed.moments import read_moments
from gam_kg.distributed.neighbourhood import Neighbourhood
from gam_kg.distributed.topology import Topology
from gam_kg.metrics.product_scores import ProductScores
from gam_kg.metrics.ranks import Scores, rank_answers
from gam_kg.metrics.strata import Strata
from gam_kg.metrics.summary import RankSummary
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.noise import Noise
from gam_kg.nn.recurrence import Memory
from gam_kg.train.step import entity_vectors, query_blocks, remember

MOST_WRITTEN_OUT = 65_536
"""Candidates of a rank above which the model's scores are ranked without being written out."""

QUERIES_AT_ONCE = 256
"""Queries that are then ranked together."""

Tick = Callable[[], None]


class Scorer(Protocol):
    """What can be evaluated: it scores queries from the past and is told as the past grows."""

    def scores(self, queries: Queries) -> Tensor | Scores:
        """Scores of the rank's candidates from the past, as a table (num_queries, num_rows) or as `Scores`."""
        ...

    def remember(self, moment: Moment) -> None:
        """The snapshot is in the past now; the history is told of it after the scorers."""
        ...


class ModelScorer:
    """The trained model as a scorer, which starts before the first snapshot. All but `vectors` are collectives.

    Args:
        model: Put into evaluation mode.
        history: The past.
        memory: Memory to start from; None for that before the first snapshot.
    """

    def __init__(self, model: GAMLSTM, history: HistoryIndex, memory: Memory | None = None) -> None:
        self.model, self.history = model.eval(), history
        empty = Memory.empty(model.partition.num_rows, model.config.dim, like=model.entity.detach())
        self.memory = empty if memory is None else memory
        self._vectors: Tensor | None = None

    def scores(self, queries: Queries) -> Tensor | Scores:
        """Scores of the rank's candidates from the past, written out where candidates are not too many."""
        if self.model.partition.most_rows <= MOST_WRITTEN_OUT:
            return self.table(queries)
        return self.products(queries)

    @torch.no_grad()
    def table(self, queries: Queries) -> Tensor:
        """Scores of the rank's candidates from the past, (num_queries, num_rows)."""
        return self.model.scores(self.vectors(), queries, self.history.look_up(queries))

    @torch.no_grad()
    def products(self, queries: Queries) -> ProductScores:
        """The same, to be ranked without being written out; until more is remembered."""
        vectors = self.vectors()
        asked, parts = self.model.scores_in_parts(vectors, queries, self.history.look_up(queries))
        none = torch.zeros(0, dtype=torch.int64, device=vectors.device)
        pairs = [(none, none, vectors.new_zeros(0)), *((part.query, part.other, part.score) for part in parts)]
        return ProductScores(asked, vectors, *(torch.cat(column) for column in zip(*pairs, strict=True)))

    @torch.no_grad()
    def remember(self, moment: Moment) -> None:
        neighbourhood = Neighbourhood.of(moment.snapshot, self.model.partition)
        remember(self.model, self.memory, neighbourhood)
        if self._vectors is not None:
            active = neighbourhood.active
            self._vectors.index_copy_(0, active, entity_vectors(self.model, self.memory, held=active))

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """Vectors of the rank's entities as of now, (num_rows, dim); they change when more is remembered."""
        if self._vectors is None:
            self._vectors = entity_vectors(self.model, self.memory)
        return self._vectors


@dataclass(frozen=True)
class AnswerRanks:
    """Ranks of the answers of a split, one row an answer, in time order.

    Attributes:
        time, subject, relation, answer, stratum: int64 (num_answers,).
        time_aware, raw: Realistic ranks by scorer name, float64 (num_answers,) each.
    """

    time: np.ndarray
    subject: np.ndarray
    relation: np.ndarray
    answer: np.ndarray
    stratum: np.ndarray
    time_aware: dict[str, np.ndarray]
    raw: dict[str, np.ndarray]


def roll(
    scorers: Iterable[Scorer], history: HistoryIndex | None, moments: Iterable[Moment], tick: Tick = lambda: None
) -> None:
    """Have snapshots in the past. A collective.

    Args:
        scorers: What is told of them.
        history: Told as well; None where it knows them already.
        moments: The snapshots, in time order.
        tick: Called after each.
    """
    scorers = list(scorers)
    for moment in moments:
        for scorer in scorers:
            scorer.remember(moment)
        if history is not None:
            history.remember(moment)
        tick()


def rank_split(
    scorers: dict[str, Scorer],
    history: HistoryIndex,
    moments: Iterable[Moment],
    *,
    partition: Partition,
    frozen: bool = False,
    strata: Strata | None = None,
    topology: Topology | None = None,
    max_scores: int = 32_000_000,
    share: float = 1.0,
    tick: Tick = lambda: None,
) -> AnswerRanks:
    """Rank all answers of a split. A collective, that gives all ranks the same.

    Args:
        scorers: By name; rolled to the start of the split.
        history: Rolled to the start of the split.
        moments: Snapshots of the split, in time order.
        partition: The rank's candidates.
        frozen: Multi-step: nothing of the split is remembered.
        strata: Tells the stratum of each answer; None leaves them zero.
        topology: The ranks; None for a world of one.
        max_scores: Scores held at once, where candidates are few enough for scores to be written out.
        share: Of the queries that are ranked, drawn by what they ask, alike for all scorers and numbers of ranks.
        tick: Called after each snapshot.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    topology = topology or Topology()
    columns: dict[str, list[Tensor]] = {name: [] for name in ("time", "subject", "relation", "answer", "stratum")}
    time_aware: dict[str, list[Tensor]] = {name: [] for name in scorers}
    raw: dict[str, list[Tensor]] = {name: [] for name in scorers}
    for moment in moments:
        for block in _blocks(_drawn(moment.queries, share), partition, max_scores):
            columns["time"].append(torch.full_like(block.answer, moment.time))
            columns["subject"].append(block.subject[block.answer_query])
            columns["relation"].append(block.relation[block.answer_query])
            columns["answer"].append(block.answer)
            columns["stratum"].append(torch.zeros_like(block.answer) if strata is None else strata.of(block))
            for name, scorer in scorers.items():
                ranks = rank_answers(scorer.scores(block), block, partition, topology)
                time_aware[name].append(ranks.time_aware)
                raw[name].append(ranks.raw)
        if not frozen:
            roll(scorers.values(), history, [moment])
        tick()
    return AnswerRanks(
        **{name: _joined(parts) for name, parts in columns.items()},
        time_aware={name: _joined(parts) for name, parts in time_aware.items()},
        raw={name: _joined(parts) for name, parts in raw.items()},
    )


def validation_mrr(
    model: GAMLSTM,
    graph: TemporalGraph,
    history: HistoryIndex,
    *,
    max_scores: int,
    num_facts: int = 0,
    tick: Tick = lambda: None,
) -> dict[str, float]:
    """Single-step time-aware metrics on validation, memory rolled from the first snapshot. A collective.

    Args:
        model: Put into evaluation mode.
        graph: The rank's facts.
        history: Told of train; afterwards also of validation.
        max_scores: As of `rank_split`.
        num_facts: About how many facts are ranked; 0: all.
        tick: Called after each snapshot.
    """
    scorer, topology = ModelScorer(model, history), model.topology
    roll([scorer], None, map(Moment, graph.read(graph.times_in("train"))), tick)  # of its own facts alone
    ranks = rank_split(
        {"model": scorer},
        history,
        read_moments(graph, graph.times_in("valid"), topology, history.plan),
        partition=graph.partition,
        topology=topology,
        max_scores=max_scores,
        share=graph.share_of("valid", num_facts),
        tick=tick,
    )
    return RankSummary.of(ranks.time_aware["model"]).compute()


def _drawn(queries: Queries, share: float) -> Queries:
    if share >= 1:
        return queries
    key = queries.subject * 2**31 + queries.relation
    return queries.select(torch.nonzero(Noise(0, queries.time).uniform(key, "asked") < share)[:, 0])


def _blocks(queries: Queries, partition: Partition, max_scores: int) -> Iterator[Queries]:
    """Queries that are scored together."""
    if partition.most_rows > MOST_WRITTEN_OUT:
        max_scores = QUERIES_AT_ONCE * partition.most_rows
    return query_blocks(queries, partition.most_rows, max_scores)


def _joined(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy() if parts else np.zeros(0)
