"""Answers to "(subject, relation, ?) at a time": the best candidates with scores, from the facts before it."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gam_kg.errors import DataError
from gam_kg.history.novelty import novelty_of
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.query_blocks import query_blocks
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.ops.out_of_memory import naming_knobs
from gam_kg.text import quoted
from gam_kg.training.evaluate import Tick

logger = logging.getLogger("gam_kg")


@dataclass(frozen=True)
class Answers:
    """The best answers to queries, best first; all of shape (num_queries, num_answers).

    Attributes:
        entity: int64.
        score, probability: float32; the probability is a softmax over all candidates, calibrated by horizon.
        times_seen: In how many snapshots before the query the answer was a fact, int64.
        last_seen: In which of them last, int64; -1: never.
        novelty: Index into `schemas.STRATA`, int64.
    """

    entity: np.ndarray
    score: np.ndarray
    probability: np.ndarray
    times_seen: np.ndarray
    last_seen: np.ndarray
    novelty: np.ndarray

    def slice(self, start: int, stop: int) -> "Answers":
        """The answers to the queries in `[start, stop)`."""
        return Answers(*(column[start:stop] for column in vars(self).values()))


@naming_knobs(lambda: "answering queries", "fewer processes at once (predict.num_workers)")
def answer_queries(
    run: TrainedRun,
    queries: EncodedQueries,
    top_k: int,
    *,
    among: np.ndarray | None = None,
    tick: Tick = lambda: None,
    warn: bool = True,
) -> Answers:
    """Score all candidates of each query and return the best.

    A score may differ in its last digits with the other queries that are given: so does the vector of a query, which
    is computed in float32 for many queries together.

    Args:
        run: The run that answers.
        queries: The queries, of any times; each sees only the facts before its own time.
        top_k: Answers to each query; fewer where there are fewer candidates.
        among: The candidates, ascending distinct entity ids, int64 (num_candidates,); None: all entities.
        tick: Called after each snapshot.
        warn: Whether to `warn_beyond_training`.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    if warn:
        warn_beyond_training(run, *np.unique(queries.snapshot, return_counts=True))
    candidates = None if among is None else torch.from_numpy(among).to(run.device)
    shape = len(queries), min(top_k, len(run.entities) if among is None else len(among))
    answers = Answers(
        *(np.zeros(shape, kind) for kind in (np.int64, np.float32, np.float32, np.int64, np.int64, np.int64))
    )
    for rows, block, scorer in query_blocks(run, queries, tick):
        scores = scorer.products(block)
        scores = scores if candidates is None else scores.among(candidates)
        total = _LogSumExp(run.temperature(block.horizon))
        found, score = scores.best(shape[1], look=total.add)
        probability = (score / total.temperature - total.value[:, None]).exp().clamp(max=1)  # rounding may exceed 1
        entity = (found if candidates is None else candidates[found]).cpu()
        known = [column.repeat_interleave(shape[1]) for column in (block.subject, block.relation)]
        row = run.graph.partition.rows(entity.flatten())
        seen = run.history.times_seen(*known, row)
        seen = *seen, novelty_of(run.history, known[0], row, seen[0])
        columns = entity, score, probability, *(column.view(-1, shape[1]) for column in seen)
        for column, values in zip(vars(answers).values(), columns, strict=True):
            column[rows] = values.cpu().numpy()
    return answers


def encode_query(
    run: TrainedRun,
    subject: str | int | None,
    relation: str | int,
    object: str | int | None,
    at: str | int | date | None,
) -> EncodedQueries:
    """One query by name: exactly one of subject and object is given, and the other is to be found.

    Args:
        run: The run that answers.
        subject: Name of the known subject, see `find_name`; None where the subject is to be found.
        relation: Name of the relation.
        object: Name of the known object; None where the object is to be found.
        at: The timestamp of the query; None: that of the snapshot after the last fact.

    Raises:
        DataError: A name is unknown, or both or none of subject and object are given.
        ConfigError: `at` is no timestamp of the graph, or before the first fact.
    """
    known = object if subject is None else subject
    if known is None or (subject is not None and object is not None):
        raise DataError("a query has a subject or an object, and the other one is to be found; give exactly one")
    to_subject = 0 if object is None else len(run.relations)
    ids = find_name(run, run.entities, known), find_name(run, run.relations, relation) + to_subject
    return EncodedQueries(*(np.array([one]) for one in (*ids, run.axis.snapshot_at(at, run.graph.end))))


def find_name(run: TrainedRun, vocabulary: Vocabulary, name: str | int) -> int:
    """The id of one name; see `find_names`."""
    return int(find_names(run, vocabulary, [name])[0])


def find_names(run: TrainedRun, vocabulary: Vocabulary, names: Iterable[str | int]) -> np.ndarray:
    """Ids of names that a user gives; where one is unknown, of the one that differs in case and "_" for " " only.

    Returns:
        int64 (num_names,).

    Raises:
        DataError: A name is unknown; the message has the closest names.
    """
    given = pa.array(map(str, names), pa.large_string())
    spelt = run.spelt(given)
    found = vocabulary.find(spelt)
    places = np.flatnonzero(found < 0)
    alike = vocabulary.alike(spelt.take(pa.array(places)))
    unlike = [place for place, ids in zip(places.tolist(), alike, strict=True) if not ids]
    vocabulary.encode(spelt.take(pa.array(unlike, pa.int64())))  # says what is unknown
    for place, ids in zip(places.tolist(), alike, strict=True):
        name, known = quoted(given[place].as_py()), ", ".join(map(quoted, vocabulary.decode(ids).to_pylist()))
        if len(ids) > 1:
            raise DataError(f"{name} may be any of these {vocabulary.kind} names: {known}; write it as one of them")
        logger.info("%s is read as %s", name, known)
        found[place] = ids[0]
    return found


class _LogSumExp:
    """The logarithm of the sum of exponentials of scores divided by a temperature; `value`, (num_queries,)."""

    def __init__(self, temperature: float) -> None:
        self.temperature, self.value = temperature, torch.tensor(-torch.inf, dtype=torch.float64)

    def add(self, tile: Tensor) -> None:
        """Add the scores of some candidates, (num_queries, num_candidates), which this overwrites."""
        of_tile = torch.logsumexp(tile.div_(self.temperature), 1).double()
        self.value = torch.logaddexp(self.value.to(of_tile.device), of_tile)


def warn_beyond_training(run: TrainedRun, snapshots: np.ndarray, counts: np.ndarray) -> None:
    """Say in the log how many queries are farther ahead than training looked.

    Args:
        run: The run that answers.
        snapshots: Snapshots of the queries, int64 (num_snapshots,).
        counts: Queries of each, int64 (num_snapshots,).
    """
    horizon = snapshots - (run.graph.end - 1)
    far, last = counts[horizon > run.trained_horizon].sum(), run.axis.label(run.graph.end - 1)
    if far:
        logger.warning(
            "warning: training looked ahead %s snapshots at most (train.max_horizon); answers to %s of %s queries lie "
            "beyond that, up to %s snapshots after the last fact (%s), and extrapolate",
            *(f"{run.trained_horizon:,}", f"{far:,}", f"{counts.sum():,}", f"{horizon.max():,}", last),
        )
