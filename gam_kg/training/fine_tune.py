"""Fine-tuning: a trained model goes on with the newest snapshots only, once and in time order.

It starts from the stored weights and optimizer state. First it trains on all but the last quarter of these snapshots,
and this quarter is ranked with the weights before and after, single-step; then it trains on the quarter too. So the
comparison is of facts that training has not seen, nor an earlier fine-tuning unless it was on the same snapshots, and
the result has seen all.

Entities and relations without a fact in training have the shared rows afterwards, as before: a pass over some snapshots
is too short for rows of their own, and what is new of them is in the memory and in the history.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from gam_kg.artifacts import Manifest
from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.errors import ConfigError
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.graph.update_chain import Update, sizes
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.bootstrap import Difference, number_rows, paired_difference
from gam_kg.nn.grown_weights import grown_weights
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.out_of_memory import naming_knobs
from gam_kg.schemas import FINE_TUNING
from gam_kg.training.checkpoint import load_optimizer_state, require_finite_weights, save_optimizer_state, save_weights
from gam_kg.training.evaluate import AnswerRanks, ModelScorer, Scorer, Tick, rank_split, roll
from gam_kg.training.newest_weights import newest_weights
from gam_kg.training.optimizer import MOMENTS
from gam_kg.training.step import ShardedModel
from gam_kg.training.trainer import Trainer

BEFORE, AFTER = "before", "after"
_PARTS = 4  # one of which is ranked
_RATE_SHARE = 0.2  # measured: that at which the schedule ends learns little of facts that have changed


@dataclass(frozen=True)
class FineTuning:
    """What fine-tuning gives, as a rank has it.

    Attributes:
        model: The fine-tuned model, in evaluation mode.
        optimizer_state: See `Trainer.optimizer_state`.
        num_trained: Snapshots that the model ranked as "after" was trained on.
        ranks: Ranks of the answers of the snapshots after these, with the weights before and after.
    """

    model: GAMLSTM
    optimizer_state: dict[str, Tensor]
    num_trained: int
    ranks: AnswerRanks

    @property
    def table(self) -> pa.Table:
        """MRR of each ranked snapshot with the weights before and after, FINE_TUNING."""
        snapshots, place = np.unique(self.ranks.time, return_inverse=True)
        count = np.bincount(place)
        mrr = [np.bincount(place, weights=1 / self.ranks.time_aware[name]) / count for name in (BEFORE, AFTER)]
        return pa.table([snapshots, count, *mrr], schema=FINE_TUNING)

    def mrr(self, name: str) -> float:
        """MRR of all ranked answers, with the weights `BEFORE` or `AFTER`."""
        return float((1 / self.ranks.time_aware[name]).mean())

    @property
    def gain(self) -> Difference:
        """MRR after minus MRR before, with its interval over queries."""
        ranks = self.ranks
        query = number_rows(ranks.time, ranks.subject, ranks.relation)
        return paired_difference(1 / ranks.time_aware[AFTER], 1 / ranks.time_aware[BEFORE], query)

    @property
    def text(self) -> str:
        """The comparison in two lines."""
        gain, number = self.gain, len(np.unique(self.ranks.time))
        newest = "the newest snapshot" if number == 1 else f"the newest {number} snapshots"
        trained = "the snapshot" if self.num_trained == 1 else f"the {self.num_trained} snapshots"
        return (
            f"MRR of {newest} ({len(self.ranks.time)} answers): {100 * self.mrr(BEFORE):.1f} without, "
            f"{100 * self.mrr(AFTER):.1f} with fine-tuning on {trained} before "
            f"({100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}])\n{_verdict(gain)}"
        )

    def write(self, folder: Path) -> None:
        """Write a rank's part of the weights and of the optimizer state, under the names that `checkpoint/` has.

        Raises:
            EvaluationError: A number is NaN or infinite.
        """
        weights, partition = self.model.state_dict(), self.model.partition
        require_finite_weights({**weights, **self.optimizer_state}, folder)
        save_weights(weights, folder, partition)
        save_optimizer_state(self.optimizer_state, folder, partition)


def _verdict(gain: Difference) -> str:
    if not gain.is_clear:
        return "no clear difference: the weights still fit the newest facts"
    if gain.mean < 0:
        return "fine-tuning makes it worse; train anew if the MRR of new facts falls from update to update"
    return "fine-tuning helps: the newest facts say more than the weights knew; training anew may gain more"


def newest_optimizer_state(
    checkpoint: Path, graph: Manifest, updates: Sequence[Update], model: GAMLSTM
) -> dict[str, Tensor]:
    """The optimizer state of the newest weights, with zeros for entities and relations that are newer, on the CPU.

    Args:
        checkpoint: The `checkpoint/` artifact.
        graph: Manifest of the graph that it was trained on.
        updates: What was added to the graph since.
        model: The model of the graph with all updates.

    Raises:
        ArtifactError: A file is missing or damaged.
    """
    folder, known = newest_weights(checkpoint, updates)
    num_entities, num_relations = sizes(graph, known)
    state = load_optimizer_state(folder, replace(model.partition, num_entities=num_entities))
    names = [name for name, _ in model.named_parameters()]
    for moment in MOMENTS:
        grown = grown_weights({name: state[f"{name}.{moment}"] for name in names}, num_relations, model)
        state |= {f"{name}.{moment}": value for name, value in grown.items()}
    return state


def require_snapshots(number: int, num_snapshots: int) -> None:
    """Raise ConfigError unless a graph with facts in some snapshots can be fine-tuned on a number of them."""
    if not 2 <= number <= num_snapshots:
        raise ConfigError(
            f"--fine-tune {number}: give a number of snapshots from 2, since the newest are ranked before they are "
            f"trained on, to {num_snapshots}, those with facts"
        )


@naming_knobs(lambda: "fine-tuning", "more workers (train.num_workers)")
def fine_tune(
    config: Config,
    graph: TemporalGraph,
    model: GAMLSTM,
    optimizer_state: dict[str, Tensor],
    num_snapshots: int,
    *,
    communicator: Communicator | None = None,
    history: HistoryIndex | None = None,
    memory_before: Callable[[int], Memory] | None = None,
    learning_rate: float | None = None,
    tick: Tick = lambda: None,
) -> FineTuning:
    """Fine-tune a model on the newest snapshots of a graph. A collective; deterministic, the same on any ranks.

    Args:
        config: The run's configuration.
        graph: The rank's facts, those after training included.
        model: The newest weights; they stay as they are.
        optimizer_state: That which belongs to them; taken over.
        num_snapshots: How many of the newest snapshots with facts to train on, at least 2.
        communicator: The ranks; None for a world of one.
        history: The history index of the graph, which is reset; None: a new one.
        memory_before: Gives the memory of `model` before a snapshot, a new one at each call; None: it is computed from
            the first fact.
        learning_rate: The same at each step; None: a fifth of `train.learning_rate`.
        tick: Called after each snapshot that is trained on or ranked.

    Raises:
        ConfigError: There are fewer snapshots, or `num_snapshots` is less than 2.
        GamKGError: The loss is not finite.
        EvaluationError: A score is NaN or infinite.
    """
    require_snapshots(num_snapshots, len(graph.times))
    communicator, times = communicator or Communicator(), graph.times
    first, boundary = len(times) - num_snapshots, len(times) - max(1, num_snapshots // _PARTS)
    rate = learning_rate or config.train.learning_rate * _RATE_SHARE
    constant: dict[str, Any] = {"learning_rate": rate, "final_learning_rate": 1.0}
    if config.train.precision == "tf32" and model.entity.device.type == "cpu":
        constant["precision"] = "float32"  # a CPU has no TF32, and a run of a GPU is updated there too
    tuned = config.model_copy(update={"train": config.train.model_copy(update=constant)})
    trainer = Trainer(
        tuned,
        graph,
        device=model.entity.device,
        communicator=communicator,
        model=deepcopy(model),
        history=history,
        batch_workers=0,  # training alone fills the history that is read below
    )
    steps = [int(value) for name, value in optimizer_state.items() if name.endswith(".step")]
    trainer.optimizer_state = optimizer_state
    trainer.position.step = max(steps, default=0)  # so that no random numbers are those of training
    before = ShardedModel(model.eval(), communicator)

    def old_memory(index: int) -> Memory:
        if memory_before is not None:
            return memory_before(times[index])
        return _scorer(before, trainer, times[:index]).memory

    # The memory of a trainer stays one window behind.
    trainer.memory = old_memory(max(0, first - config.train.window))
    _train(trainer, times[:boundary], first, tick)
    scorers: dict[str, Scorer] = {
        BEFORE: ModelScorer(before, trainer.history, old_memory(boundary)),
        AFTER: _scorer(trainer.sharded, trainer, times[:boundary]),
    }
    ranks = rank_split(
        scorers,
        trainer.history,
        read_snapshots(graph, times[boundary:], communicator),
        partition=graph.partition,
        communicator=communicator,
        max_scores=config.train.max_logits,
        tick=tick,
    )
    _train(trainer, times, boundary, tick)
    return FineTuning(trainer.model.eval(), trainer.optimizer_state, boundary - first, ranks)


def _train(trainer: Trainer, times: list[int], first: int, tick: Tick) -> None:
    """Train on some snapshots from the one at a position on; the history then has all of them."""
    trainer.times, trainer.position.index = times, first
    with closing(trainer.rest_of_epoch()) as events:
        for _ in events:
            tick()


def _scorer(sharded: ShardedModel, trainer: Trainer, times: list[int]) -> ModelScorer:
    """A scorer that has observed the first snapshots."""
    scorer = ModelScorer(sharded, trainer.history)
    roll([scorer], None, trainer.graph.read(times))  # observing takes the rank's own facts only
    return scorer
