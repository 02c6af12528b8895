"""The training loop: epochs of snapshots in time order, as a resumable iterator.

`Trainer.run` yields after every snapshot and epoch and can stop at any yield: `checkpoint.save` then writes all that
training needs to continue, and a trainer that loads it, on any number of ranks, continues with the same numbers.
Randomness is a function of seed, step and purpose, so that there is no generator state to save.
"""

import math
import resource
import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.errors import GamKGError
from gam_kg.graph.message_graph import MessageGraph
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.graph.word_agreement import word_agreement
from gam_kg.history.index import HistoryIndex
from gam_kg.history.sharded import build_history
from gam_kg.nn.model import GAMLSTM
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training.draws import Draws, ModelFacts
from gam_kg.training.evaluate import validate
from gam_kg.training.gradients import Gradients
from gam_kg.training.optimizer import MOMENTS, RowAdamW, learning_rate
from gam_kg.training.position import Position, Progress
from gam_kg.training.step import ShardedModel, backward_step
from gam_kg.training.step_batch import (
    BatchCache,
    StepBatch,
    full_batch,
    full_blocks,
    leaving_snapshot,
    make_batch,
    queries_ahead,
    step_queries,
    to_device,
)
from gam_kg.training.stopwatch import Stopwatch


class Trainer:
    """Trains GAM_LSTM on a graph, in lockstep with the trainers of the other ranks.

    Args:
        config: The run's configuration.
        graph: The rank's facts.
        words: Shared words of entity names; None for none.
        device: Where to compute.
        communicator: The ranks.
        model: A trained model to go on from, which training changes; None: a new one, of `config` and `words`.
        history: The history index of the graph; None: a new one.
    """

    def __init__(
        self,
        config: Config,
        graph: TemporalGraph,
        words: NameWords | None = None,
        *,
        device: torch.device | str = "cpu",
        communicator: Communicator | None = None,
        model: GAMLSTM | None = None,
        history: HistoryIndex | None = None,
    ) -> None:
        self.config, self.communicator = config, communicator or Communicator()
        partition = graph.partition
        if (partition.rank, partition.world_size) != (self.communicator.rank, self.communicator.world_size):
            raise ValueError(f"the graph is of another shard than {self.communicator}: {partition}")
        self.graph, self._device = graph, torch.device(device)
        self.history = history or build_history(self.graph, config.model.history, self.communicator)
        self.model = (model or self._new_model(words)).to(device)
        self.sharded = ShardedModel(self.model, self.communicator)
        self._model_facts = ModelFacts.of(self.model)
        self.optimizer = RowAdamW(self.model.parameters(), weight_decay=config.train.weight_decay, fused=True)
        self._gradients = Gradients(self.model, self.communicator)
        self._cache = BatchCache(self.communicator)
        self._watch = Stopwatch()
        # The snapshots just before the next one, whose updates of memory get gradients.
        self._window: deque[MessageGraph] = deque()
        # The snapshots after the next one that training looks ahead to.
        self._following: deque[Snapshot] = deque()
        self.times = self.graph.times_in("train")
        self.position = Position()
        self.memory = self.model.empty_memory()
        # On the CPU; empty before the first epoch ends.
        self.best_weights: dict[str, Tensor] = {}
        self.best_optimizer_state: dict[str, Tensor] = {}

    def _new_model(self, words: NameWords | None) -> GAMLSTM:
        config, graph = self.config, self.graph
        torch.manual_seed(config.seed)
        model = GAMLSTM(
            config.model, graph.trained_relations, graph.trained, words, partition=graph.partition, seed=config.seed
        )
        if model.word is not None and words is not None and config.model.word_agreement:
            total = partial(self.communicator.sum, purpose="words")
            model.word_agreement.copy_(word_agreement(words, graph, total))
        return model

    @property
    def optimizer_state(self) -> dict[str, Tensor]:
        """Moments and number of steps of each parameter, as `<parameter>.exp_avg`; empty before the first step."""
        state = self.optimizer.state
        named = self.model.named_parameters()
        return {f"{name}.{key}": value for name, parameter in named for key, value in state[parameter].items()}

    @optimizer_state.setter
    def optimizer_state(self, values: Mapping[str, Tensor]) -> None:
        step = next((value for name, value in values.items() if name.endswith(".step")), None)
        if step is not None:
            for name, parameter in self.model.named_parameters():
                moments = {moment: values[f"{name}.{moment}"].to(self._device) for moment in MOMENTS}
                self.optimizer.state[parameter] = {"step": step.to(self._device, copy=True), **moments}

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or validation has stopped getting better."""
        position, config = self.position, self.config.train
        waited = position.epoch - position.best_epoch
        return position.epoch >= config.epochs or (position.epoch > 0 and waited >= config.patience)

    def run(self) -> Iterator[Progress]:
        """Train until finished, from wherever the position is."""
        while not self.finished:
            yield from self.rest_of_epoch()
            yield self._progress("validate", 0)
            metrics = self._end_epoch()
            yield self._progress("validate", 1, metrics=metrics, checkpoint=True)

    def rest_of_epoch(self) -> Iterator[Progress]:
        """Train on the snapshots of `times` from the position on."""
        position, every = self.position, self.config.train.checkpoint_steps
        snapshots = self._snapshots()
        while True:
            started = time.perf_counter()
            self.communicator.traffic.take()
            with self._watch.phase("read"):
                snapshot = next(snapshots, None)
            if snapshot is None:
                return
            steps_before = position.step
            self._train_snapshot(snapshot)
            took = self._took(snapshot.queries, time.perf_counter() - started)
            due = every > 0 and position.index < len(self.times)
            due = due and position.step // every > steps_before // every
            yield self._progress("train", position.index, checkpoint=due, snapshot=took)

    def _snapshots(self) -> Iterator[Snapshot]:
        """The rest of the epoch; what came before is inserted into the history. A collective."""
        self.history.reset()
        self._window.clear()
        past, rest = self.times[: self.position.index], self.times[self.position.index :]
        for snapshot in read_snapshots(self.graph, past, self.communicator):
            self._insert(snapshot)
        following, most = self._following, self.config.train.max_horizon - 1
        following.clear()
        for snapshot in read_snapshots(self.graph, rest, self.communicator):
            following.append(snapshot)
            while following and snapshot.time - following[0].time >= most:
                yield following.popleft()
        while following:
            yield following.popleft()

    def _insert(self, snapshot: Snapshot) -> MessageGraph | None:
        """Insert a snapshot into history and window; returns the one that leaves the window for it."""
        self.history.insert(snapshot)
        self._window.append(MessageGraph.of(snapshot, self.graph.partition))
        return self._window.popleft() if len(self._window) > self.config.train.window else None

    def _train_snapshot(self, snapshot: Snapshot) -> None:
        position, config, watch = self.position, self.config.train, self._watch
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, position.epoch + position.index / len(self.times))
        steps = step_queries(snapshot.queries, config, (self.config.seed * 1_000_003 + position.step) % 2**63)
        for queries in steps:
            with watch.phase("batch"):
                batch = self._batch(queries, whole=len(steps) == 1)
            loss = backward_step(self.sharded, self.memory, batch, config, watch, self._gradients.begin)
            with watch.phase("gradients"):
                self._gradients.reduce(config.gradient_norm)
            with watch.phase("optimizer"):
                self.optimizer.step()
                self._gradients.clear()
            position.step += 1
            position.loss += float(loss) * len(queries.answer)
            position.answers += len(queries.answer)
        if not math.isfinite(position.loss):
            raise GamKGError(
                f"the loss is {position.loss} at epoch {position.epoch + 1}, snapshot {snapshot.time}; "
                f"lower train.learning_rate (found {config.learning_rate})"
            )
        with watch.phase("advance"):
            # The stored memory stays one window behind: the updates inside it are recomputed with gradients.
            leaving = self._insert(snapshot)
            if leaving is not None:
                update = to_device(leaving_snapshot(leaving, self._draws()), self._device)
                self.sharded.update(self.memory, update.snapshot, update.rows)
        position.index += 1

    def _batch(self, queries: Queries, *, whole: bool) -> StepBatch:
        """The batch of a step; blocks of a `whole` snapshot are cached, those ahead differ from epoch to epoch."""
        config, draws, window = self.config.train, self._draws(), tuple(self._window)
        ahead = queries_ahead(queries, [one.queries for one in self._following], config, draws.rng)
        if not whole or config.candidates == "sampled":
            return make_batch([queries, *ahead], window, self.history, config, draws, self.communicator)
        # Those ahead first, as inserting reads what was found last.
        blocks_ahead = full_blocks(ahead, self.history, config, self.communicator)
        blocks = self._cache.find(queries)
        if blocks is None:
            blocks = full_blocks([queries], self.history, config, self.communicator)
            self._cache.insert(queries, blocks)
        return full_batch([queries, *ahead], window, blocks + blocks_ahead, draws)

    def _took(self, queries: Queries, seconds: float) -> dict[str, Any]:
        traffic, partition = self.communicator.traffic, self.graph.partition
        # The edges of a rank are the answers to queries about its subjects.
        owner = partition.owner(queries.subject[queries.answer_query])
        edges = torch.bincount(owner, minlength=partition.world_size)
        halo_rows = traffic.halo_rows  # `take` resets it
        took = {
            "step": self.position.step,
            "snapshot": queries.time,
            "answers": len(queries.answer),
            "seconds": seconds,
            "phases": self._watch.take(),
            "traffic": {name: list(vars(found).values()) for name, found in traffic.take().items()},
            "halo_rows": halo_rows,
            "edges_max_over_mean": float(edges.max()) * partition.world_size / max(1, int(edges.sum())),
        }
        self.position.count(took)
        return took

    def _end_epoch(self) -> dict[str, Any]:
        position, config = self.position, self.config.train
        valid = validate(
            self.sharded, self.graph, self.history, max_scores=config.max_logits, num_facts=config.valid_facts
        )
        found: dict[str, Any] = {f"valid_{name}": value for name, value in valid.items() if name != "count"}
        found |= {"peak_memory_bytes": _peak_memory(self._device), "world_size": self.communicator.world_size}
        metrics = position.end_epoch(found)
        if position.best_epoch == position.epoch:
            self.best_weights, self.best_optimizer_state = {}, {}  # freed before the new ones are made
            self.best_weights = _copies(self.model.state_dict())
            self.best_optimizer_state = _copies(self.optimizer_state)
        self.memory = self.model.empty_memory()
        return metrics

    def _progress(self, phase: str, done: int, **more: Any) -> Progress:
        position, total = self.position, len(self.times) if phase == "train" else 1
        epoch = position.epoch + (0 if more.get("metrics") else 1)
        return Progress(phase, epoch, done, total, position.loss / max(1, position.answers), **more)

    def _draws(self) -> Draws:
        return Draws(self._model_facts, CounterRNG(self.config.seed, self.position.step))


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
