"""The batches of an epoch's steps, made in time order from data and seed alone: training may be steps behind them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile

import torch

from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.distributed.traffic import PurposeSums
from gam_kg.graph.message_graph import MessageGraph
from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.index import HistoryIndex
from gam_kg.history.sharded import copy_history
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training.batch_cache import BatchCache
from gam_kg.training.draws import Draws, ModelFacts
from gam_kg.training.step_batch import (
    StepBatch,
    full_batch,
    full_blocks,
    leaving_snapshot,
    make_batch,
    num_steps,
    queries_ahead,
    step_queries,
)
from gam_kg.training.stopwatch import Stopwatch


@dataclass(frozen=True)
class SnapshotEnd:
    """What is known of a snapshot once its last batch is made.

    Attributes:
        answers: Answers to its queries.
        edges_max_over_mean: Edges of the rank with the most, by the mean of all ranks.
        phases: Seconds that making its batches took, by phase.
        traffic: Communication that making its batches took, by purpose.
    """

    answers: int
    edges_max_over_mean: float
    phases: dict[str, float]
    traffic: dict[str, PurposeSums]


@dataclass(frozen=True)
class Step:
    """An optimizer step.

    Attributes:
        batch: What it reads.
        time: Its snapshot.
        answers: Answers to its own queries; those ahead are not counted.
        end: None before the last step of the snapshot.
    """

    batch: StepBatch
    time: int
    answers: int
    end: SnapshotEnd | None


@dataclass(frozen=True)
class Share:
    """The snapshots whose batches are made in one place: every `number`-th, from one on.

    Attributes:
        first: Number of the first among the snapshots of the epoch that are left, in `[0, number)`.
        number: How many places there are.
    """

    first: int = 0
    number: int = 1


ALL = Share()


class Batches:
    """Makes the batches of a rank, in lockstep with the other ranks.

    Args:
        config: The run's configuration.
        graph: The rank's facts.
        history: The history index of the graph; afterwards it has the snapshots whose batches are made.
        facts: What is known of the model.
        communicator: The ranks; its traffic is that of these batches alone.
    """

    def __init__(
        self,
        config: Config,
        graph: TemporalGraph,
        history: HistoryIndex,
        facts: ModelFacts,
        communicator: Communicator,
    ) -> None:
        self._config, self._graph, self._history, self._facts = config, graph, history, facts
        self._communicator = communicator
        self._cache = BatchCache(communicator)
        self._watch = Stopwatch()
        # The snapshots just before the next one, whose updates of memory get gradients.
        self._window: deque[MessageGraph] = deque()
        # The snapshots after the next one that training looks ahead to.
        self._following: deque[Snapshot] = deque()

    def steps(self, times: Sequence[int], index: int, step: int, share: Share = ALL) -> Iterator[Step]:
        """The steps of some snapshots. A collective.

        Args:
            times: Snapshots of the epoch, in time order.
            index: The first that steps are made of; those before are inserted into the history.
            step: Number of the first step.
            share: Of which snapshots; the others are inserted into the history too.
        """
        self._watch.take()
        self._communicator.traffic.take()
        snapshots = self._snapshots(times, index)
        for number in count():
            with self._watch.phase("read"):
                snapshot = next(snapshots, None)
            if snapshot is None:
                return
            if number % share.number != share.first:
                step += num_steps(snapshot.queries, self._config.train)
                with self._watch.phase("history"):
                    self._insert(snapshot)
                continue
            parts = step_queries(snapshot.queries, self._config.train, (self._config.seed * 1_000_003 + step) % 2**63)
            for queries in parts:
                with self._watch.phase("batch"):
                    batch = self._batch(queries, self._draws(step), whole=len(parts) == 1)
                step, end = step + 1, None
                if queries is parts[-1]:
                    with self._watch.phase("history"):
                        leaving = self._insert(snapshot)
                    if leaving is not None:
                        batch = replace(batch, leaving=leaving_snapshot(leaving, self._draws(step)))
                    end = self._end(snapshot.queries)
                yield Step(batch, snapshot.time, len(queries.answer), end)

    def history_after(self, times: Sequence[int], is_needed: Callable[[], bool] = lambda: True) -> HistoryIndex:
        """A history that has all of some snapshots, in a world of one; fewer where it is no longer needed."""
        history = copy_history(self._history)
        history.reset()
        for snapshot in takewhile(lambda _: is_needed(), self._graph.read(times)):
            history.insert(snapshot)
        return history

    def _snapshots(self, times: Sequence[int], index: int) -> Iterator[Snapshot]:
        """The snapshots from the first on, each when those that training looks ahead to are read too."""
        self._history.reset()
        self._window.clear()
        for snapshot in read_snapshots(self._graph, times[:index], self._communicator):
            self._insert(snapshot)
        following, most = self._following, self._config.train.max_horizon - 1
        following.clear()
        for snapshot in read_snapshots(self._graph, times[index:], self._communicator):
            following.append(snapshot)
            while following and snapshot.time - following[0].time >= most:
                yield following.popleft()
        while following:
            yield following.popleft()

    def _insert(self, snapshot: Snapshot) -> MessageGraph | None:
        """Insert a snapshot into history and window; returns the one that leaves the window for it.

        The stored memory stays one window behind: the updates inside it are recomputed with gradients.
        """
        self._history.insert(snapshot)
        self._window.append(MessageGraph.of(snapshot, self._graph.partition))
        return self._window.popleft() if len(self._window) > self._config.train.window else None

    def _draws(self, step: int) -> Draws:
        return Draws(self._facts, CounterRNG(self._config.seed, step))

    def _batch(self, queries: Queries, draws: Draws, *, whole: bool) -> StepBatch:
        """The batch of a step; blocks of a `whole` snapshot are cached, those ahead differ from epoch to epoch."""
        config, window, communicator = self._config.train, tuple(self._window), self._communicator
        ahead = queries_ahead(queries, [one.queries for one in self._following], config, draws.rng)
        if not whole or config.candidates == "sampled":
            return make_batch([queries, *ahead], window, self._history, config, draws, communicator)
        # Those ahead first, as inserting reads what was found last.
        blocks_ahead = full_blocks(ahead, self._history, config, communicator)
        blocks = self._cache.find(queries)
        if blocks is None:
            blocks = full_blocks([queries], self._history, config, communicator)
            self._cache.insert(queries, blocks)
        return full_batch([queries, *ahead], window, blocks + blocks_ahead, config, draws)

    def _end(self, queries: Queries) -> SnapshotEnd:
        partition = self._graph.partition
        # The edges of a rank are the answers to queries about its subjects.
        owner = partition.owner(queries.subject[queries.answer_query])
        edges = torch.bincount(owner, minlength=partition.world_size)
        return SnapshotEnd(
            answers=len(queries.answer),
            edges_max_over_mean=float(edges.max()) * partition.world_size / max(1, int(edges.sum())),
            phases=self._watch.take(),
            traffic=self._communicator.traffic.take(),
        )
