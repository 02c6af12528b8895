"""The training loop: epochs of snapshots in time order, as a resumable iterator.

`Trainer.run` yields after every snapshot and epoch and can stop at any yield: `checkpoint.save` then writes all that
training needs to continue, and a trainer that loads it, on any number of ranks, continues with the same numbers.
Randomness is a function of seed, step and purpose, so that there is no generator state to save.
"""

import math
import resource
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import GamKGError
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.graph.word_agreement import word_agreement
from gam_kg.history.index import HistoryIndex
from gam_kg.history.sharded import build_history
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.precision import float32_products
from gam_kg.ops.read_ahead import read_ahead
from gam_kg.training.batch_workers import SNAPSHOTS_AHEAD, BatchWorkers, ended_workers_named
from gam_kg.training.batches import Batches, SnapshotEnd, Step
from gam_kg.training.draws import ModelFacts
from gam_kg.training.evaluate import validate
from gam_kg.training.optimizer import MOMENTS, learning_rate
from gam_kg.training.optimizer_step import OptimizerStep
from gam_kg.training.position import Position, Progress
from gam_kg.training.step import ShardedModel
from gam_kg.training.step_graph import CUDARecorder, Recorder, StepGraphs
from gam_kg.training.stopwatch import Stopwatch

LOSSES_AT_ONCE = 16
"""Losses that are read from a GPU together: each time the program waits for it. On a CPU each is read at once."""


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
        read_ahead: How many batches a thread makes ahead of their steps, at most; None: `train.read_ahead`, none where
            it is automatic. On several ranks none is with a `history`, whose collectives are those of training.
        batch_workers: How many processes make batches, in a world of one; None: `train.batch_workers`, none where it is
            automatic.
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
        read_ahead: int | None = None,
        batch_workers: int | None = None,
    ) -> None:
        self.config, self.communicator = config, communicator or Communicator()
        partition = graph.partition
        if (partition.rank, partition.world_size) != (self.communicator.rank, self.communicator.world_size):
            raise ValueError(f"the graph is of another shard than {self.communicator}: {partition}")
        self.graph, self._device = graph, torch.device(device)
        apart = self.communicator.apart()
        self.history = history or build_history(self.graph, config.model.history, apart)
        ahead = (config.train.read_ahead or 0) if read_ahead is None else read_ahead
        self._ahead = ahead if history is None or self.communicator.world_size == 1 else 0
        workers = (config.train.batch_workers or 0) if batch_workers is None else batch_workers
        self._num_workers = workers if self.communicator.world_size == 1 else 0
        self._workers: BatchWorkers | None = None
        self._is_cut_off = False  # ranks may differ in the collectives that they have entered
        self.model = (model or self._new_model(words)).to(device)
        self.sharded = ShardedModel(self.model, self.communicator)
        self._batches = Batches(config, graph, self.history, ModelFacts.of(self.model), apart)
        self._step = OptimizerStep(self.sharded, config.train)
        self._watch = Stopwatch(self._device)
        self._graphs = StepGraphs(self._step, self._device, self._watch, self._recorder())
        # Losses that are still on the device, with the snapshot and the answers of each.
        self._losses: list[tuple[Tensor, int, int]] = []
        self._losses_at_once = 1 if self._device.type == "cpu" else LOSSES_AT_ONCE
        self.times = self.graph.times_in("train")
        self.position = Position()
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

    def _recorder(self) -> Recorder | None:
        """Collectives are not recorded: ranks may have batches of different sizes."""
        is_used = self._device.type == "cuda" and self.config.train.cuda_graphs and self.communicator.world_size == 1
        return CUDARecorder(self._device) if is_used else None

    @property
    def memory(self) -> Memory:
        """The memory of all rows, one window behind the next step."""
        return self._step.memory

    @memory.setter
    def memory(self, value: Memory) -> None:
        self._step.memory = value
        self._graphs.forget()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return self._step.optimizer

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
            self._graphs.forget()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or validation has stopped getting better."""
        position, config = self.position, self.config.train
        waited = position.epoch - position.best_epoch
        return position.epoch >= config.epochs or (position.epoch > 0 and waited >= config.patience)

    def run(self) -> Generator[Progress]:
        """Train until finished, from wherever the position is; close it to stop before.

        Raises:
            GamKGError: The loss is not finite, or a process that makes batches has ended; or the trainer, of several
                ranks, was stopped in the middle of an epoch whose batches were made ahead.
        """
        try:
            while not self.finished:
                with ended_workers_named():
                    yield from self.rest_of_epoch()
                yield self._progress("validate", 0)
                with ended_workers_named():
                    metrics = self._end_epoch()
                yield self._progress("validate", 1, metrics=metrics, checkpoint=True)
        finally:
            if self._workers is not None:
                self._workers.close()
                self._workers = None

    def rest_of_epoch(self) -> Generator[Progress]:
        """Train on the snapshots of `times` from the position on.

        Raises:
            GamKGError: The loss is not finite.
        """
        position, every = self.position, self.config.train.checkpoint_steps
        if self._is_cut_off:
            raise GamKGError(
                "this trainer was stopped in the middle of an epoch, in which other ranks may have made other batches "
                "ahead; make a new one, which goes on from a checkpoint"
            )
        self._is_cut_off = self.communicator.world_size > 1 and self._ahead > 0
        steps_before, started = position.step, time.perf_counter()
        self.communicator.traffic.take()
        with closing(self._steps()) as steps:
            while (step := self._next(steps)) is not None:
                with float32_products(tf32=self.config.train.precision == "tf32"):
                    self._train_step(step)
                if step.end is None:
                    continue
                position.index += 1
                took = self._took(step.time, step.end, time.perf_counter() - started)
                due = every > 0 and position.index < len(self.times)
                due = due and position.step // every > steps_before // every
                if due:
                    self.read_losses()
                yield self._progress("train", position.index, checkpoint=due, snapshot=took)
                steps_before, started = position.step, time.perf_counter()
                self.communicator.traffic.take()
        self._is_cut_off = False
        self.read_losses()

    def _steps(self) -> Generator[Step]:
        """The steps from the position on."""
        position = self.position
        if not self._num_workers:
            return read_ahead(self._batches.steps(self.times, position.index, position.step), self._ahead)
        if self._workers is None:
            self._workers = BatchWorkers(
                self._batches, self.times, self._num_workers, max(SNAPSHOTS_AHEAD, self._ahead)
            )
        return self._workers.steps(position.index, position.step)

    def _next(self, steps: Iterator[Step]) -> Step | None:
        with self._watch.phase("wait") if self._ahead or self._num_workers else nullcontext():
            return next(steps, None)

    def _train_step(self, step: Step) -> None:
        position = self.position
        self.model.train()
        epochs = position.epoch + position.index / len(self.times)
        self._step.learning_rate.fill_(learning_rate(self.config.train, epochs))
        self._graphs(step.batch)
        position.step += 1
        self._losses.append((self._step.loss.clone(), step.time, step.answers))
        if len(self._losses) >= self._losses_at_once:
            self.read_losses()

    def read_losses(self) -> None:
        """Add the losses of the last steps, which are still on the device, to the position.

        Raises:
            GamKGError: One of them is not finite.
        """
        if not self._losses:
            return
        losses, times, answers = zip(*self._losses, strict=True)
        self._losses.clear()
        position = self.position
        for loss, number in zip(torch.stack(losses).tolist(), answers, strict=True):
            position.loss += loss * number
            position.answers += number
        if not math.isfinite(position.loss):
            span = f"snapshot {times[0]}" if times[0] == times[-1] else f"snapshots {times[0]} to {times[-1]}"
            raise GamKGError(
                f"the loss is {position.loss} at epoch {position.epoch + 1}, {span}; "
                f"lower train.learning_rate (found {self.config.train.learning_rate})"
            )

    def _took(self, snapshot: int, end: SnapshotEnd, seconds: float) -> dict[str, Any]:
        traffic, watch = self.communicator.traffic, self._watch
        watch.add(end.phases, "ahead: " if self._ahead or self._num_workers else "")
        traffic.add(end.traffic)
        halo_rows = traffic.halo_rows  # `take` resets it
        took = {
            "step": self.position.step,
            "snapshot": snapshot,
            "answers": end.answers,
            "seconds": seconds,
            "phases": watch.take(),
            "traffic": {name: list(vars(found).values()) for name, found in traffic.take().items()},
            "halo_rows": halo_rows,
            "edges_max_over_mean": end.edges_max_over_mean,
        }
        self.position.count(took)
        return took

    def _end_epoch(self) -> dict[str, Any]:
        position, config = self.position, self.config.train
        history = self.history if self._workers is None else self._workers.history()
        valid = validate(self.sharded, self.graph, history, max_scores=config.max_logits, num_facts=config.valid_facts)
        found: dict[str, Any] = {f"valid_{name}": value for name, value in valid.items() if name != "count"}
        position.count_phases(self._watch.take())  # what a GPU had not finished after the last step
        found |= {"peak_memory_bytes": _peak_memory(self._device), "world_size": self.communicator.world_size}
        metrics = position.end_epoch(found)
        if position.best_epoch == position.epoch:
            self.best_weights, self.best_optimizer_state = {}, {}  # freed before the new ones are made
            self.best_weights = _copies(self.model.state_dict())
            self.best_optimizer_state = _copies(self.optimizer_state)
        self.memory.clear()
        return metrics

    def _progress(self, phase: str, done: int, **more: Any) -> Progress:
        position, total = self.position, len(self.times) if phase == "train" else 1
        epoch = position.epoch + (0 if more.get("metrics") else 1)
        return Progress(phase, epoch, done, total, position.loss / max(1, position.answers), **more)


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
