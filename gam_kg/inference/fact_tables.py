"""Tables of facts by name and time: which can be ranked, and their ranks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import DataError
from gam_kg.inference.fact_ranks import rank_facts
from gam_kg.inference.frames import frame
from gam_kg.inference.queries import QUERY_COLUMNS, QueryRows, find_columns, names_beside, read_queries
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.metrics.summary import RankSummary
from gam_kg.schemas import DIRECTIONS, STATUSES

_OURS = ("status", "reason", *(f"{role}_rank{raw}" for role in ("object", "subject") for raw in ("", "_raw")))


@dataclass(frozen=True)
class FactTable:
    """Facts by id.

    Attributes:
        facts: Those that can be ranked: subject, relation, object and snapshot, int64 (num_ranked, 4).
        status: Index into `schemas.STATUSES`, int64 (num_rows,); 0 where a row is among `facts`.
        reason: Why a row is not, large_string (num_rows,); null where it is.
        shown: The table, with our names of the columns; `query_` before others that are names of ranks.
    """

    facts: np.ndarray
    status: np.ndarray
    reason: pa.Array
    shown: pa.Table

    @classmethod
    def of(cls, run: TrainedRun, table: pa.Table, columns: ColumnsConfig) -> "FactTable":
        """Read a table with a subject, a relation, an object and a timestamp in each row.

        Raises:
            DataError: A column is missing, of a wrong type or there twice, or looks like one of ours.
        """
        found = find_columns(table.column_names, columns)
        if missing := [role for role in QUERY_COLUMNS if role not in found]:
            names = ", ".join(map(repr, table.column_names))
            raise DataError(f"no column {missing[0]!r}; facts need {', '.join(QUERY_COLUMNS)}, and there are {names}")
        shown = table.rename_columns({name: role for role, name in found.items()})
        # A fact answers two queries, and can be ranked where both can be answered.
        halves = [
            read_queries(run, shown.select(["relation", role, "timestamp"]), ColumnsConfig())
            for role in ("subject", "object")
        ]
        untimed = np.asarray(shown["timestamp"].combine_chunks().is_null())
        status = np.where(halves[0].status > 0, halves[0].status, halves[1].status)
        status[untimed & (status == 0)] = STATUSES.index("missing")
        reason = pc.coalesce(*(half.reason for half in halves))
        reason = pc.if_else(pa.array((status > 0) & np.asarray(reason.is_null())), "no timestamp is given", reason)
        first, second = (_of_rows(half, status == 0) for half in halves)
        facts = np.stack([first[0], first[1], second[0], first[2]], 1)
        return cls(facts, status, reason, shown.rename_columns(names_beside(shown.column_names, _OURS)))


@dataclass(frozen=True)
class FactRanks:
    """How well a run predicts some facts.

    Attributes:
        metrics: "both", "object" and "subject" → `mrr`, `hits@1`, `hits@3`, `hits@10`, from 0 to 1, and `count`: of the
            time-aware ranks of the facts that were ranked.
        ranks: The table that was given, and `status`, `reason`, and the realistic ranks `object_rank` and
            `subject_rank`, time-aware, with `_raw` behind for all entities; missing where a row has another status than
            "answered".
    """

    metrics: dict[str, dict[str, float]]
    ranks: pd.DataFrame

    def __repr__(self) -> str:
        both = self.metrics["both"]
        left = len(self.ranks) - self.metrics["object"]["count"]
        hits = ", ".join(f"Hits@{k} {100 * both[f'hits@{k}']:.1f}" for k in (1, 3, 10))
        aside = f"; {left:,.0f} others cannot be ranked" if left else ""
        return f"FactRanks(MRR {100 * both['mrr']:.1f}, {hits} of {self.metrics['object']['count']:,} facts{aside})"


def rank_table(run: TrainedRun, table: FactTable) -> FactRanks:
    """Rank the facts of a table; see `rank_facts`."""
    found = rank_facts(run, table.facts)
    parts: dict[str, Any] = {"object": found["object"], "subject": found["subject"]}
    parts["both"] = np.concatenate([*parts.values()])
    columns: dict[str, Any] = {
        "status": pa.array(STATUSES).take(pa.array(table.status)),
        "reason": table.reason,
    }
    place = pa.array(np.cumsum(table.status == 0) - 1, mask=table.status > 0)
    for name, ranks in found.items():
        direction, _, raw = name.partition("_")
        columns[f"{direction}_rank{'_raw' if raw else ''}"] = pa.array(ranks).take(place)
    shown = table.shown
    for name, column in columns.items():
        shown = shown.append_column(name, column)
    return FactRanks({name: RankSummary.of(parts[name]).compute() for name in DIRECTIONS}, frame(shown))


def _of_rows(half: QueryRows, rows: np.ndarray) -> list[np.ndarray]:
    """Entity, relation without inverses and snapshot of the queries of some rows, all of which can be answered."""
    mine = rows[half.answered]
    encoded = half.encoded
    return [column[mine] for column in (encoded.subject, encoded.relation, encoded.snapshot)]
