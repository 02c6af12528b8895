"""Temperatures: what scores are divided by so that their softmax is an honest probability at each horizon.

A temperature is fitted for each bin of the horizon, on validation with the best weights, as training ends: at horizon 1
on single-step queries, beyond on multi-step ones. It is the one that makes the answers most likely.

Source: Guo et al. 2017, "On calibration of modern neural networks", section 4.2.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Queries
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.metrics.horizons import HORIZONS, horizon_bin
from gam_kg.training.evaluate import ModelScorer, draw_queries, roll
from gam_kg.training.step_batch import divide_queries
from gam_kg.training.trainer import Trainer

_TRIED = np.geomspace(0.25, 4, 19)
_MOST_ANSWERS = 2000  # about how many are drawn of a bin; the error of its temperature is then about 2 %
_FEWEST_ANSWERS = 100  # below that a bin has the temperature of the bin before it
_MAX_SCORES = 2_000_000


@dataclass(frozen=True)
class Probabilities:
    """The softmax over all candidates at some temperatures; alike on all ranks.

    Attributes:
        log_answer: Logarithm of each answer's probability, float64 (num_answers, num_temperatures).
        best: Probability of each query's best candidate, float64 (num_queries, num_temperatures).
        is_answer: Whether that candidate is an answer, bool (num_queries,).
    """

    log_answer: Tensor
    best: Tensor
    is_answer: Tensor

    @classmethod
    def of(
        cls,
        scores: Tensor,
        queries: Queries,
        temperatures: np.ndarray,
        partition: Partition,
        communicator: Communicator,
    ) -> "Probabilities":
        """From the scores of the rank's candidates, (num_queries, num_rows). A collective."""
        top = scores.new_full((len(scores),), torch.finfo(scores.dtype).min)
        if scores.shape[1]:
            top = scores.amax(1)
        below = scores - communicator.max(top, "softmax")[:, None]
        room = torch.empty_like(below)
        total = [torch.div(below, temperature, out=room).exp_().sum(1) for temperature in temperatures.tolist()]
        total = communicator.sum(torch.stack(total, 1).double(), "softmax")
        own = torch.nonzero(partition.owns(queries.answer))[:, 0]
        place = queries.answer_query[own], partition.rows(queries.answer[own])
        answer = scores.new_zeros(len(queries.answer))
        answer[own.to(scores.device)] = below[place[0].to(scores.device), place[1].to(scores.device)]
        answer = communicator.sum(answer, "softmax").double().cpu()
        total, is_answer = total.cpu(), torch.zeros(len(queries), dtype=torch.bool)
        is_answer[queries.answer_query[answer >= 0]] = True
        log_answer = answer[:, None] / torch.from_numpy(temperatures) - total.log()[queries.answer_query]
        return cls(log_answer, 1 / total, is_answer)


def temperature_at(temperatures: dict[str, float], horizon: int) -> float:
    """The temperature of a horizon's bin; 1 where none was fitted."""
    return temperatures.get(list(HORIZONS)[int(horizon_bin(horizon))], 1.0)


def calibrate(trainer: Trainer) -> None:
    """Fit the temperatures of the best weights; the trainer's position then has them. A collective."""
    last = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
    trainer.model.load_state_dict(trainer.best_weights)
    scorer = ModelScorer(trainer.sharded, trainer.history)
    trainer.position.temperatures = fit_temperatures(scorer, trainer.graph)
    trainer.model.load_state_dict(last)


def fit_temperatures(scorer: ModelScorer, graph: TemporalGraph) -> dict[str, float]:
    """Walk from the first snapshot through validation and fit the temperature of each bin. A collective.

    Args:
        scorer: The model, which has observed nothing; its history is reset.
        graph: The rank's facts.

    Returns:
        The temperature of each of `HORIZONS`. A bin with too few answers has that of the bin before it, the first 1.
    """
    history, communicator = scorer.history, scorer.sharded.communicator
    history.reset()
    roll([scorer], history, read_snapshots(graph, graph.times_in("train"), communicator))
    first, end = graph.bounds("valid")
    times = graph.times_in("valid")
    in_valid = (graph.snapshots >= first) & (graph.snapshots < end)
    answers = 2 * graph.num_facts[in_valid].numpy()
    of_bin = np.bincount(horizon_bin(np.array(times) - first + 1), answers, minlength=len(HORIZONS))
    of_bin[0] = answers.sum()
    losses, counts = np.zeros((len(HORIZONS), len(_TRIED))), np.zeros(len(HORIZONS))

    def add(queries: Queries) -> None:
        place = int(horizon_bin(queries.horizon))
        drawn = draw_queries(queries, _MOST_ANSWERS / of_bin[place])
        for block in divide_queries(drawn, graph.partition.most_rows, _MAX_SCORES) if len(drawn) else ():
            found = Probabilities.of(scorer.table(block), block, _TRIED, graph.partition, communicator)
            losses[place] -= found.log_answer.sum(0).numpy()
            counts[place] += len(block.answer)

    for snapshot in read_snapshots(graph, [time for time in times if time > first], communicator):
        add(snapshot.queries.seen_from(first))
    for snapshot in read_snapshots(graph, times, communicator):
        add(snapshot.queries)
        roll([scorer], history, [snapshot])
    found, temperature = {}, 1.0
    for name, loss, count in zip(HORIZONS, losses, counts, strict=True):
        if count >= _FEWEST_ANSWERS:
            temperature = _at_lowest(loss)
        found[name] = temperature
    return found


def _at_lowest(loss: np.ndarray) -> float:
    """The temperature with the lowest loss: of `_TRIED`, or between them by a parabola in the logarithm."""
    at, logs = int(loss.argmin()), np.log(_TRIED)
    shift = 0.0
    if 0 < at < len(loss) - 1:
        before, lowest, after = loss[at - 1 : at + 2]
        shift = (before - after) / (2 * (before - 2 * lowest + after))
    return float(np.exp(logs[at] + shift * (logs[1] - logs[0])))
