"""Why a run gives an answer the score that it has: the parts of the score, and the past facts that carry them.

A score is a sum of `PARTS`, and what each part adds is exact. Scores have no zero point, since the softmax compares
candidates: so each part also has its mean over all candidates, and its percent is of the differences to that. Facts,
paths and rules have the share of their part that `gam_kg.inference.contributions` attributes to them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries
from gam_kg.inference.contributions import ANYONE, PARTS, Carriers, Contributions, FactColumns, contributions
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.query_blocks import query_blocks
from gam_kg.inference.reason_text import Ago, PastFact, reason_text
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ops.ragged import ragged_ranges, unique
from gam_kg.schemas import EXPLANATION
from gam_kg.training.evaluate import ModelScorer, Tick

__all__ = ["PARTS", "Explanation", "PastFact", "Reason", "explain", "explain_block", "explanation_column"]

_SHOWN = 3
_AT_ONCE = 5_000


@dataclass(frozen=True)
class Reason:
    """Something of the past that carries a score.

    Attributes:
        kind: The part of the score that it belongs to, one of `PARTS`.
        text: What it is, in words.
        facts: The past facts that it consists of: one, or the two of a path; none for "pattern" and "confidence".
        weight: Attention weight, in (0, 1), those of all facts (of all paths, rules) of the answer and of "nothing"
            summing to one; None for parts that are not attended to.
        share: What it adds to the score, in units of the score.
    """

    kind: str
    text: str
    facts: tuple[PastFact, ...]
    weight: float | None
    share: float


@dataclass(frozen=True)
class Explanation:
    """Why an answer has its score.

    Attributes:
        subject, relation, object: The query by name, as the facts have it; None in the place of the answer.
        timestamp: The time of the query; only facts before it were read.
        answer: The answer by name.
        score: The score, the sum of `parts`.
        parts: What each of `PARTS` adds to the score.
        mean: What each adds on average over all candidates.
        reasons: What carries the parts, the largest share first, for or against the answer.
    """

    subject: str | int | None
    relation: str | int
    object: str | int | None
    timestamp: str
    answer: str | int
    score: float
    parts: dict[str, float]
    mean: dict[str, float]
    reasons: list[Reason]

    @property
    def percent(self) -> dict[str, float]:
        """What each part counts for the answer (positive) or against it, beside the mean candidate, in percent.

        The absolute values sum to 100, or all are 0 where the answer is as the mean candidate.
        """
        difference = {part: value - self.mean[part] for part, value in self.parts.items()}
        total = sum(map(abs, difference.values()))
        return {part: 100 * value / total if total else 0.0 for part, value in difference.items()}

    def percent_of(self, reason: Reason) -> float:
        """What a reason counts: as much of the percent of its part as its share is of what the part adds."""
        whole = self.parts[reason.kind]
        return self.percent[reason.kind] * reason.share / whole if whole else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return asdict(self) | {"percent": self.percent}

    def summary(self) -> str:
        """The strongest reasons in one line."""
        reasons = [f"{reason.text} ({reason.share:+.2f})" for reason in self.reasons[:_SHOWN]]
        return "; ".join(reasons) or "nothing of the past; the vectors alone"


def explain(
    run: TrainedRun, queries: EncodedQueries, answers: np.ndarray, top: int | None = 5, tick: Tick = lambda: None
) -> list[Explanation]:
    """Explain the score of one answer to each query; of many it is about the work of scoring each distinct query once.

    Args:
        run: The run that answers.
        queries: The queries, of any times.
        answers: Entity id of each answer, int64 (num_queries,); any entity is allowed.
        top: Reasons of each answer; None: all.
        tick: Called after each snapshot.
    """
    found: list[Explanation | None] = [None] * len(queries)
    for places, explanations in _in_blocks(run, queries, answers, top, tick):
        for place, explanation in zip(places.tolist(), explanations, strict=True):
            found[place] = explanation
    return [one for one in found if one is not None]


def explanation_column(
    run: TrainedRun, queries: EncodedQueries, answers: np.ndarray, top: int, tick: Tick = lambda: None
) -> pa.Array:
    """What carries several answers to each query, as `schemas.EXPLANATION`, (num_queries * num_answers,).

    Args:
        run: The run that answers.
        queries: The queries.
        answers: Entity ids, int64 (num_queries, num_answers).
        top: Reasons of each answer.
        tick: Called after each snapshot.
    """
    repeated = EncodedQueries(*(column.repeat(answers.shape[1]) for column in vars(queries).values()))
    places, columns = [np.zeros(0, np.int64)], [pa.array([], EXPLANATION)]
    for some, explanations in _in_blocks(run, repeated, answers.ravel(), top, tick):
        rows = [[{**vars(reason), "percent": one.percent_of(reason)} for reason in one.reasons] for one in explanations]
        places.append(some)
        columns.append(pa.array(rows, EXPLANATION))
    return pa.concat_arrays(columns).take(pa.array(np.argsort(np.concatenate(places))))


def _in_blocks(
    run: TrainedRun, queries: EncodedQueries, answers: np.ndarray, top: int | None, tick: Tick
) -> Iterator[tuple[np.ndarray, list[Explanation]]]:
    """Places of some answers, and their explanations, until there were all; a query is scored once."""
    columns = np.stack([queries.subject, queries.relation, queries.snapshot])
    distinct, query = np.unique(columns, axis=1, return_inverse=True)
    order, length = torch.from_numpy(np.argsort(query, kind="stable")), torch.from_numpy(np.bincount(query))
    start = torch.cumsum(length, 0) - length
    at_once = max(1, _AT_ONCE * len(length) // max(1, len(answers)))
    for rows, block, scorer in query_blocks(run, EncodedQueries(*distinct), tick):
        for some in torch.arange(len(block)).split(at_once):
            here = torch.from_numpy(rows)[some]
            of_query, place = ragged_ranges(start[here], length[here])
            places = order[place].numpy()
            yield places, explain_block(run, scorer, block.select(some), of_query.numpy(), answers[places], top)


def explain_block(
    run: TrainedRun, scorer: ModelScorer, queries: Queries, query: np.ndarray, answers: np.ndarray, top: int | None
) -> list[Explanation]:
    """Explain answers to queries that are scored together, of one time.

    Args:
        run: The run that answers.
        scorer: Has observed what the queries may see; see `query_blocks`.
        queries: The queries.
        query: Which of them each answer is to, int64 (num_answers,).
        answers: Entity ids, int64 (num_answers,).
        top: See `explain`.
    """
    pairs, place = np.unique(np.stack([query, answers]), axis=1, return_inverse=True)
    of_query, entity = torch.from_numpy(pairs)
    found = contributions(scorer, queries, of_query, entity, top)
    names = _Names(run, found, queries, entity)
    reasons = _reasons(names, found, top)
    explained = []
    for number, (position, answer) in enumerate(pairs.T.tolist()):
        known, relation = names.entity[int(queries.subject[position])], int(queries.relation[position])
        backwards = relation >= names.num_relations
        parts, mean = (dict(zip(PARTS, value[number].tolist(), strict=True)) for value in (found.parts, found.mean))
        explained.append(
            Explanation(
                None if backwards else known,
                names.relation[relation % names.num_relations],
                known if backwards else None,
                names.label[queries.time],
                names.entity[answer],
                sum(parts.values()),
                parts,
                mean,
                reasons[number],
            )
        )
    return [explained[number] for number in place.tolist()]


class _Names:
    """Names and timestamps of what contributions to scores consist of."""

    def __init__(self, run: TrainedRun, found: Contributions, queries: Queries, answers: Tensor) -> None:
        self.num_relations, facts = len(run.relations), [one for part in found.carriers for one in part.facts]
        ends = [column for one in facts for column in (one.subject, one.object)]
        ids = unique(torch.cat([queries.subject, answers, *ends, torch.tensor([ANYONE])])).numpy()[1:]
        given = run.given_names["entity"].take(pa.array(ids)).to_pylist()
        self.entity: dict[int, Any] = dict(zip(ids.tolist(), given, strict=True)) | {ANYONE: None}
        self.relation = run.given_names["relation"].to_pylist()
        statistics = [values for part in found.carriers for name, values in part.statistics.items() if "last" in name]
        times = unique(torch.cat([torch.tensor([queries.time]), *(one.last for one in facts), *statistics])).numpy()
        self.label = dict(zip(times.tolist(), run.labels(times).to_pylist(), strict=True))
        self.ago = Ago(queries.time, run.axis.unit if isinstance(run.axis.unit, str) else "snapshot", self.label)

    def facts(self, columns: FactColumns) -> list[PastFact]:
        """The facts in the direction in which they are stored."""
        facts = []
        for subject, relation, object_, last, count in zip(*_lists(vars(columns)).values(), strict=True):
            ends = self.entity[subject], self.entity[object_]
            first, second = ends if relation < self.num_relations else ends[::-1]
            name = self.relation[relation % self.num_relations]
            facts.append(PastFact(first, name, second, self.label[last], count))
        return facts

    def reasons(self, carriers: Carriers) -> list[Reason]:
        """What carries a part, as reasons."""
        facts = list(zip(*map(self.facts, carriers.facts), strict=True)) or [()] * len(carriers.pair)
        last = list(zip(*(one.last.tolist() for one in carriers.facts), strict=True)) or facts
        share = carriers.share.tolist()
        weight = [None] * len(share) if carriers.weight is None else carriers.weight.tolist()
        statistics = _lists(carriers.statistics)
        rows = [dict(zip(statistics, row, strict=True)) for row in zip(*statistics.values(), strict=True)]
        return [
            Reason(carriers.part, reason_text(carriers.part, some, at, row, self.ago), some, its, part)
            for some, at, row, its, part in zip(facts, last, rows or [{}] * len(share), weight, share, strict=True)
        ]


def _lists(columns: dict[str, Tensor]) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in columns.items()}


def _reasons(names: _Names, found: Contributions, top: int | None) -> list[list[Reason]]:
    """The reasons of each pair, the largest share first, for or against it."""
    reasons: list[list[Reason]] = [[] for _ in found.parts]
    for carriers in found.carriers:
        for pair, reason in zip(carriers.pair.tolist(), names.reasons(carriers), strict=True):
            reasons[pair].append(reason)
    return [sorted(some, key=lambda reason: -abs(reason.share))[:top] for some in reasons]
