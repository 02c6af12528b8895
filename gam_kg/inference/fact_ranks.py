"""Ranks of facts that are given, under the protocol of the evaluation, from what a run knows before each."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gam_kg.graph.snapshot import Queries, Snapshot, inverse_relation
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import MODEL
from gam_kg.training.evaluate import rank_split

_KEY = ["snapshot", "subject", "relation", "answer"]


def rank_facts(run: TrainedRun, facts: np.ndarray) -> dict[str, np.ndarray]:
    """Rank the object and the subject of facts among all entities, as queries about their snapshots.

    Visible are the facts of the run before a fact's snapshot, and none of the others that are given. Other true answers
    of the same query and snapshot, of the run and of those given, do not count against the target.

    Args:
        run: The run, in a world of one, not taken beyond the first of the snapshots.
        facts: Subject, relation, object and snapshot, int64 (num_facts, 4), in any order.

    Returns:
        "object" and "subject", and both with "_raw" behind: realistic ranks, float64 (num_facts,) each.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    subject, relation, other, time = facts.T
    queries = {"object": (subject, relation, other), "subject": (other, relation + len(run.relations), subject)}
    tables = [pd.DataFrame(zip(time, *columns, strict=True), columns=_KEY) for columns in queries.values()]
    parts = [pd.DataFrame(columns=[*_KEY, "", "_raw"]), *_ranked(run, facts)]
    ranks = pd.concat(parts[1:] or parts).set_index(_KEY)
    found: dict[str, np.ndarray] = {}
    for name, table in zip(queries, tables, strict=True):
        places = pd.MultiIndex.from_frame(table)
        found |= {f"{name}{suffix}": ranks[suffix].reindex(places).to_numpy(float) for suffix in ("", "_raw")}
    return found


def _ranked(run: TrainedRun, facts: np.ndarray) -> Iterator[pd.DataFrame]:
    """Ranks of all answers of the queries of one snapshot after another."""
    for time in np.unique(facts[:, 3]).tolist():
        scorer = run.scorer_before(time)
        queries = _queries(run, torch.from_numpy(facts[facts[:, 3] == time]), time)
        none = torch.zeros(0, dtype=torch.int64)
        snapshot = Snapshot(time, none, none, none, len(run.relations), gathered=queries)
        now = min(time, run.graph.end)
        ranks = rank_split({MODEL: scorer}, run.history, [snapshot], partition=run.graph.partition, now=now)
        yield pd.DataFrame(
            {
                "snapshot": ranks.time,
                "subject": ranks.subject,
                "relation": ranks.relation,
                "answer": ranks.answer,
                "": ranks.time_aware[MODEL],
                "_raw": ranks.raw[MODEL],
            }
        )


def _queries(run: TrainedRun, facts: Tensor, time: int) -> Queries:
    """The queries that facts of a snapshot answer, with all answers that the run has too."""
    subject, relation, other, _ = facts.T
    backward = inverse_relation(relation, len(run.relations))
    given = torch.stack([torch.cat(pair) for pair in ((subject, other), (relation, backward), (other, subject))])
    if time not in run.graph.times:
        return Queries.of(time, given)
    known = run.graph.snapshot(time).queries
    of_known = torch.stack([known.subject[known.answer_query], known.relation[known.answer_query], known.answer])
    together = Queries.of(time, torch.cat([of_known, given], 1))
    width = 2 * len(run.relations)
    is_given = torch.isin(together.subject * width + together.relation, given[0] * width + given[1])
    return together.select(torch.nonzero(is_given)[:, 0])
