"""New facts are added to a run: ranked as queries first, then observed by memory, history and baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gam_kg.graph.update_chain import Update
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.metrics.all_baselines import Baselines
from gam_kg.metrics.summary import RankSummary
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.out_of_memory import naming_knobs
from gam_kg.output import replacing
from gam_kg.parquet import write_table
from gam_kg.schemas import MODEL, OVER_TIME, table_schema
from gam_kg.training.evaluate import AnswerRanks, Scorer, Tick, rank_split, roll

OVER_TIME_FILE = "over_time.parquet"

MOST_RANKED = 250_000_000
"""Scores that are ranked to see how a run does; where entities are many, that is fewer facts than configured."""

_MAX_SCORES = 4_000_000


@dataclass(frozen=True)
class Advanced:
    """A run after its last fact.

    Attributes:
        memory: The rank's memory.
        baselines: The untrained baselines; None where they were left out.
        scores: A row of `schemas.OVER_TIME` for each snapshot that was ranked, without `update`.
    """

    memory: Memory
    baselines: Baselines | None
    scores: list[dict[str, Any]]


@naming_knobs(lambda: "adding new facts", "more workers (train.num_workers)", "update.score_facts=0")
def advance_run(
    run: TrainedRun,
    first: int,
    first_ranked: int,
    num_ranked: int,
    tick: Tick = lambda: None,
    *,
    with_baselines: bool = True,
) -> Advanced:
    """Advance a run from before a snapshot to its last fact, and rank the facts of new snapshots on the way.

    Each is ranked before it is observed, single-step, time-aware, among all entities. A collective.

    Args:
        run: The run, with the new facts.
        first: The first snapshot that has new facts.
        first_ranked: The first snapshot whose facts are all new.
        num_ranked: About how many facts are ranked, at most; fewer where their scores were more than `MOST_RANKED`.
        tick: Called after each snapshot.
        with_baselines: Whether the untrained baselines rank and observe too.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    graph, history = run.graph, run.history
    model, stored = run.restored_scorer(first, with_baselines=with_baselines)
    baselines = None
    if with_baselines:
        baselines = Baselines.of(history) if stored is None else Baselines.restored(history, stored)
    del stored  # its files then need not stay in memory
    scorers: dict[str, Scorer] = {MODEL: model, **(baselines.by_name if baselines else {})}
    roll(scorers.values(), history, run.snapshots(history.end, first_ranked), tick)
    new = graph.num_facts[graph.snapshots >= first_ranked]
    num_ranked = min(num_ranked, MOST_RANKED // (2 * graph.num_entities))
    share = min(1.0, num_ranked / max(1, int(new.sum())))
    if share == 0:
        roll(scorers.values(), history, run.snapshots(history.end, graph.end), tick)
        return Advanced(model.memory, baselines, [])
    ranks = rank_split(
        scorers,
        history,
        run.snapshots(first_ranked, graph.end),
        partition=graph.partition,
        communicator=run.sharded.communicator,
        max_scores=_MAX_SCORES,
        share=share,
        tick=tick,
    )
    return Advanced(model.memory, baselines, _by_snapshot(run, ranks))


def _by_snapshot(run: TrainedRun, ranks: AnswerRanks) -> list[dict[str, Any]]:
    num_facts = dict(zip(run.graph.times, run.graph.num_facts.tolist(), strict=True))
    rows = []
    for snapshot in np.unique(ranks.time).tolist():
        of_each = {
            name: RankSummary.of(found[ranks.time == snapshot]).compute() for name, found in ranks.time_aware.items()
        }
        of_model = of_each.pop(MODEL)
        row = {"snapshot": snapshot, "timestamp": run.axis.label(snapshot), "num_facts": num_facts[snapshot]}
        row |= {"num_answers": of_model.pop("count"), **of_model}
        rows.append(row | {f"{name}_mrr": summary["mrr"] for name, summary in of_each.items()})
    return rows


def write_over_time(run: Path, updates: Sequence[Update]) -> pa.Table:
    """Write `over_time` to the file of that name in `evaluation/`, and return it."""
    table = over_time(updates)
    if len(table):
        with replacing(run / "evaluation" / OVER_TIME_FILE) as staging:
            write_table(table, staging)
    return table


def over_time(updates: Sequence[Update]) -> pa.Table:
    """The scores of all updates, `schemas.OVER_TIME`, with a column `<baseline>_mrr` for each baseline.

    It is null for updates that left the baselines out; there is none where all did.
    """
    rows = [{"update": one.content["number"], **row} for one in updates for row in one.content.get("scores", ())]
    more = dict.fromkeys(name for row in rows for name in row if name not in OVER_TIME.names)
    schema = table_schema({**_types(OVER_TIME), **dict.fromkeys(more, pa.float64())}, nullable=more)
    return pa.Table.from_pylist(rows, schema=schema)


def _types(schema: pa.Schema) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in schema}
