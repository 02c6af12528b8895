"""The training loop: epochs of snapshots in time order, as a resumable iterator.

`Trainer.run` yields after every snapshot and epoch and can stop at any yield: `checkpoint.save` then writes all that
the rest depends on, and a trainer that loads it continues with the same numbers. Randomness is drawn anew from
(seed, step) at every step, so that there is no generator state to keep.
"""

import math
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from gam_kg.config import Config
from gam_kg.data.graph import TemporalGraph
from gam_kg.data.history import HistoryIndex
from gam_kg.data.names import NameWords
from gam_kg.distributed.topology import Topology
from gam_kg.errors import GamKGError
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.train.evaluate import validation_mrr
from gam_kg.train.optimizer import build_optimizer, learning_rate
from gam_kg.train.step import backward_snapshot, remember, step_queries


@dataclass
class Position:
    """Where training stands; all of it is in a checkpoint.

    Attributes:
        epoch: Epochs finished.
        index: Snapshots done in the running epoch.
        step: Optimizer steps done in all.
        loss: Sum of the running epoch's losses over answers.
        answers: Number of answers behind `loss`.
        seconds: Time spent on the running epoch's steps.
        best_epoch: Epoch with the best validation MRR so far, from 1; 0 before the first.
        metrics: One entry a finished epoch.
    """

    epoch: int = 0
    index: int = 0
    step: int = 0
    loss: float = 0.0
    answers: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best_mrr(self) -> float:
        """Best validation MRR so far; 0 before the first epoch ends."""
        return self.metrics[self.best_epoch - 1]["valid_mrr"] if self.best_epoch else 0.0


@dataclass(frozen=True)
class Progress:
    """What `Trainer.run` tells.

    Attributes:
        phase: "train" or "validate".
        epoch: The running epoch, from 1.
        done, total: Snapshots of the phase.
        loss: Mean loss of the epoch so far.
        metrics: The epoch's metrics, when it has just ended.
        checkpoint: Whether now is a time to checkpoint.
    """

    phase: str
    epoch: int
    done: int
    total: int
    loss: float
    metrics: dict[str, Any] | None = None
    checkpoint: bool = False


class Trainer:
    """Trains GAM_LSTM on a graph.

    Args:
        config: The run's configuration.
        graph: The facts.
        words: Shared words of entity names; None for none.
        device: Where to compute.
        topology: The ranks.
    """

    def __init__(
        self,
        config: Config,
        graph: TemporalGraph,
        words: NameWords | None = None,
        *,
        device: torch.device | str = "cpu",
        topology: Topology | None = None,
    ) -> None:
        self.config, self.topology = config, topology or Topology()
        if self.topology.world_size > 1:
            raise ValueError(f"world_size={self.topology.world_size}: training over several ranks is not there yet")
        self.graph = graph.to(device)
        self.history = HistoryIndex(self.graph, config.model.history)
        self.words = words
        torch.manual_seed(config.seed)
        self.model = GAMLSTM(config.model, graph.num_relations, graph.trained, words).to(device)
        self.optimizer = build_optimizer(self.model, config.train)
        self.times = self.graph.times_in("train")
        self.position = Position()
        self.memory = self._empty_memory()
        self.best_weights: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or validation has stopped getting better."""
        position, config = self.position, self.config.train
        waited = position.epoch - position.best_epoch
        return position.epoch >= config.epochs or (position.epoch > 0 and waited >= config.patience)

    def run(self) -> Iterator[Progress]:
        """Train until finished, from wherever the position is."""
        position, every = self.position, self.config.train.checkpoint_steps
        while not self.finished:
            while position.index < len(self.times):
                steps_before = position.step
                self._train_snapshot()
                due = every > 0 and position.step // every > steps_before // every
                yield self._progress("train", position.index, checkpoint=due and position.index < len(self.times))
            yield self._progress("validate", 0)
            metrics = self._end_epoch()
            yield self._progress("validate", 1, metrics=metrics, checkpoint=True)

    def _train_snapshot(self) -> None:
        position, config = self.position, self.config.train
        started = time.perf_counter()
        self.model.train()
        snapshot = self.graph.snapshot(self.times[position.index])
        first = max(0, position.index - config.window)
        window = [self.graph.snapshot(at) for at in self.times[first : position.index]]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, position.epoch + position.index / len(self.times))
        self._seed()
        for queries in step_queries(snapshot.queries, config):
            self._seed()
            loss = backward_snapshot(
                self.model,
                self.memory,
                window,
                queries,
                self.history,
                smoothing=config.label_smoothing,
                max_scores=config.max_logits,
                topology=self.topology,
            )
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            position.step += 1
            position.loss += float(loss) * len(queries.answer)
            position.answers += len(queries.answer)
        if not math.isfinite(position.loss):
            raise GamKGError(
                f"the loss is {position.loss} at epoch {position.epoch + 1}, snapshot {snapshot.time}; "
                f"lower train.learning_rate (found {config.learning_rate})"
            )
        # The stored memory stays one window behind: the updates inside it are recomputed with gradients.
        oldest = window[0] if len(window) == config.window > 0 else snapshot if config.window == 0 else None
        if oldest is not None:
            self._seed()
            remember(self.model, self.memory, oldest)
        position.index += 1
        position.seconds += time.perf_counter() - started

    def _end_epoch(self) -> dict[str, Any]:
        position = self.position
        valid = validation_mrr(self.model, self.graph, self.history, max_scores=self.config.train.max_logits)
        metrics = {
            "epoch": position.epoch + 1,
            "step": position.step,
            "loss": position.loss / position.answers,
            "valid_mrr": valid["mrr"],
            **{f"valid_hits@{limit}": valid[f"hits@{limit}"] for limit in (1, 3, 10)},
            "seconds": position.seconds,
            "facts_per_second": position.answers / 2 / position.seconds,
            "peak_memory_bytes": _peak_memory(self.memory.hidden.device),
        }
        position.metrics.append(metrics)
        position.epoch += 1
        if not position.best_epoch or valid["mrr"] > position.best_mrr:
            position.best_epoch = position.epoch
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        position.index, position.loss, position.answers, position.seconds = 0, 0.0, 0, 0.0
        self.memory = self._empty_memory()
        return metrics

    def _progress(self, phase: str, done: int, **more: Any) -> Progress:
        position = self.position
        epoch = position.epoch + (0 if more.get("metrics") else 1)
        total = len(self.times) if phase == "train" else 1
        return Progress(phase, epoch, done, total, position.loss / max(1, position.answers), **more)

    def _seed(self) -> None:
        torch.manual_seed((self.config.seed * 1_000_003 + self.position.step) % 2**63)

    def _empty_memory(self) -> Memory:
        return Memory.empty(self.graph.num_entities, self.config.model.dim, like=self.model.entity.detach())

    def state(self) -> dict[str, Any]:
        """Position as plain values."""
        return asdict(self.position)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
