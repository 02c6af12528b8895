"""The training loop: epochs of snapshots in time order, as a resumable iterator.

`Trainer.run` yields after every snapshot and epoch and can stop at any yield: `checkpoint.save` then writes all that
the rest depends on, and a trainer that loads it, on any number of ranks, continues with the same numbers. Randomness
is a function of (seed, step) and of what it is for, so that there is no generator state to keep.
"""

import math
import resource
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from gam_kg.config import Config
from gam_kg.data.graph import TemporalGraph
from gam_kg.data.names import NameWords
from gam_kg.data.snapshot import Moment, Queries
from gam_kg.distributed.moments import read_moments
from gam_kg.distributed.neighbourhood import Neighbourhood
from gam_kg.distributed.sharded_history import build_history
from gam_kg.distributed.topology import Topology
from gam_kg.errors import GamKGError
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.noise import Noise
from gam_kg.nn.recurrence import Memory
from gam_kg.train.evaluate import validation_mrr
from gam_kg.train.gradients import Gradients
from gam_kg.train.kept_plans import KeptPlans
from gam_kg.train.optimizer import build_optimizer, learning_rate
from gam_kg.train.step import StepSettings, backward_snapshot, remember, step_queries
from gam_kg.train.stopwatch import Stopwatch


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
        spent: Seconds by phase of the running epoch's steps.
        traffic: Bytes, collectives and seconds by purpose of the running epoch's steps.
        halo_rows: Rows received from other ranks in the running epoch's steps.
    """

    epoch: int = 0
    index: int = 0
    step: int = 0
    loss: float = 0.0
    answers: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    traffic: dict[str, list[float]] = field(default_factory=dict)
    halo_rows: int = 0

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
        snapshot: What the snapshot's steps took of this rank: seconds by phase, communication, balance.
        checkpoint: Whether now is a time to checkpoint.
    """

    phase: str
    epoch: int
    done: int
    total: int
    loss: float
    metrics: dict[str, Any] | None = None
    snapshot: dict[str, Any] | None = None
    checkpoint: bool = False


class Trainer:
    """Trains GAM_LSTM on a graph, in lockstep with the trainers of the other ranks.

    Args:
        config: The run's configuration.
        graph: The rank's facts.
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
        partition = graph.partition
        if (partition.rank, partition.world_size) != (self.topology.rank, self.topology.world_size):
            raise ValueError(f"the graph is of another shard than {self.topology}: {partition}")
        self.graph = graph.to(device)
        self.history = build_history(self.graph, config.model.history, self.topology)
        self.words = words
        torch.manual_seed(config.seed)
        self.model = GAMLSTM(
            config.model,
            graph.num_relations,
            graph.trained,
            words,
            partition=partition,
            topology=self.topology,
            seed=config.seed,
        ).to(device)
        self.optimizer = build_optimizer(self.model, config.train)
        self._gradients = Gradients(self.model)
        self._kept_plans = KeptPlans()
        self._watch = Stopwatch()
        # The snapshots just before the next one, whose updates of memory get gradients.
        self._window: deque[Neighbourhood] = deque()
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
            moments = self._moments()
            while True:
                started = time.perf_counter()
                self.topology.traffic.take()
                with self._watch.phase("read and plan"):
                    moment = next(moments, None)
                if moment is None:
                    break
                steps_before = position.step
                self._train_snapshot(moment)
                took = self._took(moment.queries, time.perf_counter() - started)
                due = every > 0 and position.step // every > steps_before // every
                due = due and position.index < len(self.times)
                yield self._progress("train", position.index, checkpoint=due, snapshot=took)
            yield self._progress("validate", 0)
            metrics = self._end_epoch()
            yield self._progress("validate", 1, metrics=metrics, checkpoint=True)

    def _moments(self) -> Iterator[Moment]:
        """What is left of the epoch; what came before is in the past already. A collective."""
        self.history.reset()
        self._window.clear()
        past, left = self.times[: self.position.index], self.times[self.position.index :]
        for moment in read_moments(self.graph, past, self.topology):
            self._pass(moment)
        yield from read_moments(self.graph, left, self.topology, self.history.plan)

    def _pass(self, moment: Moment) -> Neighbourhood | None:
        """Have a snapshot in the past; gives the one that leaves the window for it."""
        self.history.remember(moment)
        self._window.append(Neighbourhood.of(moment.snapshot, self.graph.partition))
        return self._window.popleft() if len(self._window) > self.config.train.window else None

    def _train_snapshot(self, moment: Moment) -> None:
        position, config, watch = self.position, self.config.train, self._watch
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, position.epoch + position.index / len(self.times))
        num_negatives = config.num_negatives if config.candidates == "sampled" else None
        settings = StepSettings(
            config.label_smoothing,
            config.max_logits,
            config.precision == "bf16",
            num_negatives,
            config.history_links,
        )
        steps, window = step_queries(moment.queries, config, self._seed()), list(self._window)
        kept = self._kept_plans if len(steps) == 1 else None
        for asked in steps:
            loss = backward_snapshot(
                self.model, self.memory, window, asked, self.history, self._noise(), settings, watch, kept
            )
            with watch.phase("gradients"):
                self._gradients.reduce(config.gradient_norm)
            with watch.phase("optimizer"):
                self.optimizer.step()
                self._gradients.clear()
            position.step += 1
            position.loss += float(loss) * len(asked.answer)
            position.answers += len(asked.answer)
        if not math.isfinite(position.loss):
            raise GamKGError(
                f"the loss is {position.loss} at epoch {position.epoch + 1}, snapshot {moment.time}; "
                f"lower train.learning_rate (found {config.learning_rate})"
            )
        with watch.phase("remember"):
            # The stored memory stays one window behind: the updates inside it are recomputed with gradients.
            leaving = self._pass(moment)
            if leaving is not None:
                remember(self.model, self.memory, leaving, self._noise())
        position.index += 1

    def _took(self, queries: Queries, seconds: float) -> dict[str, Any]:
        traffic, partition = self.topology.traffic, self.graph.partition
        # A rank's edges are the rows that its queries are read off, so all ranks know those of each.
        owner = partition.owner(queries.subject[queries.answer_query])
        edges = torch.bincount(owner, minlength=partition.world_size)
        halo_rows = traffic.halo_rows
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
        self._count(took)
        return took

    def _count(self, took: dict[str, Any]) -> None:
        position = self.position
        position.seconds += took["seconds"]
        position.halo_rows += took["halo_rows"]
        for name, seconds in took["phases"].items():
            position.spent[name] = position.spent.get(name, 0.0) + seconds
        for name, values in took["traffic"].items():
            before = position.traffic.get(name, [0.0] * len(values))
            position.traffic[name] = [old + new for old, new in zip(before, values, strict=True)]

    def _end_epoch(self) -> dict[str, Any]:
        position = self.position
        config = self.config.train
        valid = validation_mrr(
            self.model, self.graph, self.history, max_scores=config.max_logits, num_facts=config.valid_facts
        )
        metrics = {
            "epoch": position.epoch + 1,
            "step": position.step,
            "loss": position.loss / position.answers,
            "valid_mrr": valid["mrr"],
            **{f"valid_hits@{limit}": valid[f"hits@{limit}"] for limit in (1, 3, 10)},
            "seconds": position.seconds,
            "facts_per_second": position.answers / 2 / position.seconds,
            "peak_memory_bytes": _peak_memory(self.memory.hidden.device),
            "world_size": self.topology.world_size,
            "phases": position.spent,
            "traffic": {
                name: dict(zip(("bytes", "collectives", "seconds"), values, strict=True))
                for name, values in position.traffic.items()
            },
            "halo_rows": position.halo_rows,
        }
        position.metrics.append(metrics)
        position.epoch += 1
        if not position.best_epoch or valid["mrr"] > position.best_mrr:
            position.best_epoch = position.epoch
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        position.index, position.loss, position.answers, position.seconds = 0, 0.0, 0, 0.0
        position.spent, position.traffic, position.halo_rows = {}, {}, 0
        self.memory = self._empty_memory()
        return metrics

    def _progress(self, phase: str, done: int, **more: Any) -> Progress:
        position = self.position
        epoch = position.epoch + (0 if more.get("metrics") else 1)
        total = len(self.times) if phase == "train" else 1
        return Progress(phase, epoch, done, total, position.loss / max(1, position.answers), **more)

    def _seed(self) -> int:
        return (self.config.seed * 1_000_003 + self.position.step) % 2**63

    def _noise(self) -> Noise:
        return Noise(self.config.seed, self.position.step)

    def _empty_memory(self) -> Memory:
        return Memory.empty(self.graph.partition.num_rows, self.config.model.dim, like=self.model.entity.detach())

    def state(self) -> dict[str, Any]:
        """Position as plain values."""
        return asdict(self.position)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
