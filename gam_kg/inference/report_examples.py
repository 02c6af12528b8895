"""What a report shows of the model itself: some answers with their reasons, neighbours, and a map of the entities."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gam_kg.inference.answers import answer_queries
from gam_kg.inference.explain import explain
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.report import KINDS
from gam_kg.inference.search import nearest_entities
from gam_kg.inference.similarity import SearchSpace, vector_groups
from gam_kg.inference.trained_run import TrainedRun

NUM_EXAMPLES = 3
"""Right ones, and as many wrong ones."""

MOST_FACTS, MOST_ENTITIES = 5_000_000, 200_000
"""Above these, a report does not open the run."""

MOST_REPLAYED = 250_000
"""Facts above which there are no examples: the run would walk through all of them again."""

_SHOWN, _REASONS, _NEAREST, _TRIED = 4, 3, 6, 300
_RECENT = 0.9
_MAPPED, _GROUPS = 600, 5


@dataclass(frozen=True)
class Example:
    """A question of the evaluation and the model's answers.

    Attributes:
        subject, relation, object: Names; None in the place of the answer.
        timestamp: Of the question.
        right: Whether the best answer is true.
        truth: A true answer.
        rank: Of that answer, time-aware.
        answers: Name, probability and whether it is true of each of the best, best first.
        reasons: Why the best answer is the best: what carries it, with the percent that it counts.
    """

    subject: str | None
    relation: str
    object: str | None
    timestamp: str
    right: bool
    truth: str
    rank: float
    answers: list[tuple[str, float, bool]]
    reasons: list[tuple[str, float]]


@dataclass(frozen=True)
class EntityMap:
    """Entities in the plane: the two directions along which their search vectors differ most.

    Attributes:
        names: Of the entities, those with most facts.
        place: float64 (num_shown, 2).
        group: Index into `groups` of each, int64 (num_shown,).
        groups: What the entities of a group mostly are, as "subject of plays_for"; the last may be all others.
        labelled: Positions of entities worth a label, the most worthy first.
        share: The part of all variance that the plane has.
    """

    names: list[str]
    place: np.ndarray
    group: np.ndarray
    groups: list[str]
    labelled: list[int]
    share: float


@dataclass(frozen=True)
class Look:
    """What a report shows of the model itself.

    Attributes:
        examples: Right answers, then wrong ones.
        neighbours: Entity → its nearest ones with their cosines.
        entities: The map; None where there are too few entities.
    """

    examples: list[Example]
    neighbours: dict[str, list[tuple[str, float]]]
    entities: EntityMap | None


def look_at(run: TrainedRun, ranks: pa.Table, split: str, seed: int) -> Look:
    """Look at a run after its last fact, and at its answers in the last snapshot of a split.

    Args:
        run: The run, as it was prepared, in a world of one.
        ranks: `evaluation/ranks.parquet`.
        split: "valid" or "test".
        seed: What examples are drawn by.
    """
    left_out = no_examples(run.graph_manifest.content["num_facts"], ranks)
    examples = [] if left_out else choose_examples(run, ranks, split, seed)
    entities = map_entities(run)
    shown = entities.labelled[:2] if entities else []
    places = dict.fromkeys([*shown, len(run.entities) // 10] if len(run.entities) > 1 else [])
    return Look(examples, {_name(run, at): _nearest(run, at) for at in places}, entities)


def no_examples(num_facts: int, ranks: pa.Table) -> str:
    """Why a report has no examples; empty where it has some.

    Args:
        num_facts: Of the graph.
        ranks: `evaluation/ranks.parquet`.
    """
    if "rank" not in ranks.column_names:
        return "Examples are left out: they take single-step ranks, which evaluate.settings leaves out."
    if num_facts > MOST_REPLAYED:
        return f"Examples are left out, as the graph has more than {MOST_REPLAYED:,} facts."
    return ""


def choose_examples(run: TrainedRun, ranks: pa.Table, split: str, seed: int) -> list[Example]:
    """Some right answers, those that are no mere repetition first, and the wrong ones that the model was surest of."""
    ranks = ranks.filter(pc.equal(ranks["split"], split))
    if not len(ranks):
        return []
    last = pc.max(ranks["snapshot"]).as_py()
    ranks = ranks.filter(pc.equal(ranks["snapshot"], last))
    order = np.random.default_rng(seed).permutation(len(ranks))
    is_first, repeats = ranks["rank"].to_numpy() == 1, pc.equal(ranks["stratum"], "recurrent").to_numpy()
    right = _varied(ranks, [*order[(is_first & ~repeats)[order]], *order[(is_first & repeats)[order]]], NUM_EXAMPLES)
    wrong = order[~is_first[order]][:_TRIED].tolist()
    rows = np.array([*right, *wrong], dtype=np.int64)
    if not len(rows):
        return []
    queries = _queries(run, ranks, rows)
    answers, truth = answer_queries(run, queries, _SHOWN), _true_answers(run, queries)
    misled = [at for at in range(len(right), len(rows)) if int(answers.entity[at, 0]) not in truth[at]]
    misled.sort(key=lambda at: -answers.probability[at, 0])
    misled = [int(at) for at in _varied(ranks.take(pa.array(rows)), misled, NUM_EXAMPLES)]
    shown = [*range(len(right)), *misled]
    reasons = _reasons(run, _at(queries, shown), answers.entity[shown, 0])
    found = []
    for at, found_reasons in zip(shown, reasons, strict=True):
        row = ranks.slice(int(rows[at]), 1).to_pylist()[0]
        place, known = ("object", "subject") if row["direction"] == "object" else ("subject", "object")
        best = zip(answers.entity[at].tolist(), answers.probability[at].tolist(), strict=True)
        found.append(
            Example(
                **{known: row[known], place: None},
                relation=row["relation"],
                timestamp=row["timestamp"],
                right=at < len(right),
                truth=row[place],
                rank=row["rank"],
                answers=[(_name(run, entity), probability, entity in truth[at]) for entity, probability in best],
                reasons=found_reasons,
            )
        )
    return found


def map_entities(run: TrainedRun) -> EntityMap | None:
    """The entities with most facts in the plane; None where they are fewer than three, or all alike."""
    memory = run.memory_before(run.graph.end)
    rows = torch.arange(min(_MAPPED, len(run.entities)), device=run.device)  # ids descend by degree
    space = SearchSpace.after(run, memory)
    vectors = torch.cat([space(found) for _, found in vector_groups(run, memory, rows)]).cpu().double()
    vectors -= vectors.mean(0)
    variance, axes = torch.linalg.eigh(vectors.T @ vectors)
    if len(rows) < 3 or not variance[-1] > 0:
        return None
    axes = axes[:, [-1, -2]]
    place = vectors @ (axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign())  # signs are arbitrary
    group, groups = _groups(run, len(rows))
    recent = memory.last_seen.cpu().numpy()[: len(rows)] >= _RECENT * run.graph.end
    first = [
        np.lexsort((np.arange(len(rows)), ~recent, group != at))[: (group == at).sum()] for at in range(len(groups))
    ]
    labelled = [int(members[turn]) for turn in range(4) for members in first if len(members) > turn]
    share = float(variance[-2:].sum() / variance.sum())
    return EntityMap([_name(run, at) for at in range(len(rows))], place.numpy(), group, groups, labelled, share)


def _groups(run: TrainedRun, number: int) -> tuple[np.ndarray, list[str]]:
    """The group of each of the first entities by the relation and side that it has most facts of, and their names."""
    sides, keys = 2 * len(run.relations), []
    for facts in run.graph.read(run.graph.times):
        mine = facts.anchor < number
        keys.append((facts.anchor[mine] * sides + facts.relation[mine]).numpy())
    values, counts = np.unique(np.concatenate(keys), return_counts=True)
    order = np.lexsort((values, -counts))
    entity, place = np.unique(values[order] // sides, return_index=True)
    most = np.full(number, -1)
    most[entity] = values[order][place] % sides
    kinds, sizes = np.unique(most[most >= 0], return_counts=True)
    common = kinds[np.argsort(-sizes, kind="stable")][:_GROUPS]
    group = np.full(number, len(common))
    for at, kind in enumerate(common):
        group[most == kind] = at
    names = [_side(run, int(kind)) for kind in common]
    return group, [*names, "others"] if (group == len(common)).any() else names


def _side(run: TrainedRun, relation: int) -> str:
    """What an anchor of facts by a relation is; an anchor of an inverse relation is their subject."""
    kind = "inverse_relations" if relation >= len(run.relations) else "relations"
    return f"{KINDS[kind]} {run.relations.names[relation % len(run.relations)].as_py()}"


def _nearest(run: TrainedRun, entity: int) -> list[tuple[str, float]]:
    found = nearest_entities(run, _name(run, entity), top_k=_NEAREST)
    return list(zip(map(str, found["entity"].to_pylist()), found["cosine"].to_pylist(), strict=True))


def _name(run: TrainedRun, entity: int) -> str:
    return run.entities.names[int(entity)].as_py()


def _varied(ranks: pa.Table, rows: Iterable[int], number: int) -> list[int]:
    """The first rows of different relations and directions, then others, in their order."""
    chosen: list[int] = []
    known, rows = set(), [int(row) for row in rows]
    for row in rows:
        kind = ranks["relation_id"][row].as_py(), ranks["direction"][row].as_py()
        if kind not in known:
            known.add(kind)
            chosen.append(row)
        if len(chosen) == number:
            return chosen
    return [*chosen, *(row for row in rows if row not in set(chosen))][:number]


def _queries(run: TrainedRun, ranks: pa.Table, rows: np.ndarray) -> EncodedQueries:
    """The queries that some rows are answers of."""
    taken = ranks.take(pa.array(rows))
    subject, relation, other, snapshot = (
        taken[name].to_numpy() for name in ("subject_id", "relation_id", "object_id", "snapshot")
    )
    inverse = pc.equal(taken["direction"], "subject").to_numpy()
    return EncodedQueries(
        np.where(inverse, other, subject), np.where(inverse, relation + len(run.relations), relation), snapshot
    )


def _true_answers(run: TrainedRun, queries: EncodedQueries) -> list[set[int]]:
    """All true answers of queries of one snapshot."""
    time = int(queries.snapshot[0])
    (snapshot,) = run.graph.read([time])
    found = snapshot.queries
    answers: dict[tuple[int, int], set[int]] = {}
    subject, relation = found.subject[found.answer_query], found.relation[found.answer_query]
    for query, answer in zip(zip(subject.tolist(), relation.tolist(), strict=True), found.answer.tolist(), strict=True):
        answers.setdefault(query, set()).add(answer)
    keys = zip(queries.subject.tolist(), queries.relation.tolist(), strict=True)
    return [answers.get(key, set()) for key in keys]


def _reasons(run: TrainedRun, queries: EncodedQueries, answers: np.ndarray) -> list[list[tuple[str, float]]]:
    explained = explain(run, queries, answers, _REASONS)
    return [[(reason.text, one.percent_of(reason)) for reason in one.reasons] for one in explained]


def _at(queries: EncodedQueries, rows: Sequence[int]) -> EncodedQueries:
    at = np.array(rows, dtype=np.int64)
    return EncodedQueries(queries.subject[at], queries.relation[at], queries.snapshot[at])
