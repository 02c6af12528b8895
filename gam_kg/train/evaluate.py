"""The evaluation protocol: scorers walk through time and every answer is ranked among all entities.

Single-step: the facts before t are visible when t is asked. Multi-step: only those before the split starts are.
Weights are frozen; memory and history are not.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gam_kg.data.graph import Queries, Snapshot, TemporalGraph
from gam_kg.data.history import HistoryIndex
from gam_kg.distributed.neighbourhood import Neighbourhood
from gam_kg.distributed.queries import all_queries
from gam_kg.distributed.topology import Topology
from gam_kg.metrics.ranks import rank_answers
from gam_kg.metrics.strata import Strata
from gam_kg.metrics.summary import RankSummary
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.train.step import entity_vectors, query_blocks, remember

Tick = Callable[[], None]


class Scorer(Protocol):
    """What can be evaluated: it scores queries from the past and is told as the past grows."""

    def scores(self, queries: Queries, as_of: int) -> Tensor:
        """Scores of the rank's candidates from facts before `as_of`, (num_queries, num_rows)."""
        ...

    def remember(self, snapshot: Snapshot) -> None:
        """The snapshot is in the past now."""
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

    @torch.no_grad()
    def scores(self, queries: Queries, as_of: int) -> Tensor:
        return self.model.scores(self.vectors(), queries, self.history.look_up(queries, as_of))

    def remember(self, snapshot: Snapshot) -> None:
        remember(self.model, self.memory, Neighbourhood.of(snapshot, self.model.partition))
        self._vectors = None

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """Vectors of the rank's entities as of now, (num_rows, dim)."""
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


def roll(scorers: Iterable[Scorer], graph: TemporalGraph, times: Iterable[int], tick: Tick = lambda: None) -> None:
    """Tell scorers of the snapshots of some times."""
    scorers = list(scorers)
    for time in times:
        snapshot = graph.snapshot(time)
        for scorer in scorers:
            scorer.remember(snapshot)
        tick()


def rank_split(
    scorers: dict[str, Scorer],
    graph: TemporalGraph,
    times: list[int],
    *,
    frozen_at: int | None = None,
    strata: Strata | None = None,
    topology: Topology | None = None,
    max_scores: int = 32_000_000,
    tick: Tick = lambda: None,
) -> AnswerRanks:
    """Rank all answers of a split. A collective, that gives all ranks the same.

    Args:
        scorers: By name; rolled to the start of the split.
        graph: The rank's facts.
        times: Snapshots of the split.
        frozen_at: Multi-step: no fact at or after it is seen and nothing is remembered. None for single-step.
        strata: Tells the stratum of each answer; None leaves them zero.
        topology: The ranks; None for a world of one.
        max_scores: Scores held at once.
        tick: Called after each snapshot.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    topology = topology or Topology()
    columns: dict[str, list[Tensor]] = {name: [] for name in ("time", "subject", "relation", "answer", "stratum")}
    time_aware: dict[str, list[Tensor]] = {name: [] for name in scorers}
    raw: dict[str, list[Tensor]] = {name: [] for name in scorers}
    for time in times:
        snapshot = graph.snapshot(time)
        as_of = time if frozen_at is None else frozen_at
        for block in query_blocks(all_queries(snapshot, topology), graph.partition.most_rows, max_scores):
            columns["time"].append(torch.full_like(block.answer, time))
            columns["subject"].append(block.subject[block.answer_query])
            columns["relation"].append(block.relation[block.answer_query])
            columns["answer"].append(block.answer)
            columns["stratum"].append(torch.zeros_like(block.answer) if strata is None else strata.of(block))
            for name, scorer in scorers.items():
                ranks = rank_answers(scorer.scores(block, as_of), block, graph.partition, topology)
                time_aware[name].append(ranks.time_aware)
                raw[name].append(ranks.raw)
        if frozen_at is None:
            for scorer in scorers.values():
                scorer.remember(snapshot)
        tick()
    return AnswerRanks(
        **{name: _joined(parts) for name, parts in columns.items()},
        time_aware={name: _joined(parts) for name, parts in time_aware.items()},
        raw={name: _joined(parts) for name, parts in raw.items()},
    )


def validation_mrr(
    model: GAMLSTM, graph: TemporalGraph, history: HistoryIndex, *, max_scores: int, tick: Tick = lambda: None
) -> dict[str, float]:
    """Single-step time-aware metrics on validation, memory rolled from the first snapshot. A collective."""
    scorer = ModelScorer(model, history)
    roll([scorer], graph, graph.times_in("train"), tick)
    ranks = rank_split(
        {"model": scorer}, graph, graph.times_in("valid"), topology=model.topology, max_scores=max_scores, tick=tick
    )
    return RankSummary.of(ranks.time_aware["model"]).compute()


def _joined(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy() if parts else np.zeros(0)
