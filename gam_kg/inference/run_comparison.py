"""Runs that ranked the same queries, side by side: their figures, and intervals of the differences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import open_artifact
from gam_kg.errors import EvaluationError
from gam_kg.metrics.bootstrap import Difference, number_rows, paired_difference
from gam_kg.metrics.horizons import HORIZONS, horizon_bin
from gam_kg.metrics.parts import FEWEST_ANSWERS
from gam_kg.parquet import read_table
from gam_kg.schemas import DIRECTIONS, ENTITIES_SEEN, MODEL, SETTINGS, SPLITS, STRATA

_ANSWER = ("split", "timestamp", "direction", "subject", "relation", "object")
_RANK = {setting: "rank" if setting == "single_step" else f"rank_{setting}" for setting in SETTINGS}


@dataclass(frozen=True)
class Ranked:
    """The time-aware ranks of an evaluation.

    Attributes:
        run: Folder of the run, or how several runs together are called.
        table: `evaluation/ranks.parquet`, sorted by answer.
    """

    run: Path | str
    table: pa.Table

    @classmethod
    def read(cls, run: Path) -> "Ranked":
        """Read the ranks of a run.

        Raises:
            ArtifactError: The run has no evaluation, or a damaged one.
        """
        open_artifact(run / "evaluation", "evaluation", part="ranks.parquet")
        return cls.from_table(run, read_table(run / "evaluation" / "ranks.parquet"))

    @classmethod
    def from_table(cls, run: Path | str, table: pa.Table) -> "Ranked":
        """Those of a table as `evaluation/ranks.parquet`, in any order."""
        return cls(run, table.sort_by([(name, "ascending") for name in _ANSWER]))

    @property
    def settings(self) -> list[str]:
        """Names of the evaluated settings."""
        return [setting for setting, column in _RANK.items() if column in self.table.column_names]

    def of(self, split: str) -> "Ranked":
        """Those of a split."""
        return Ranked(self.run, self.table.filter(pa.compute.equal(self.table["split"], split)))

    def ranks(self, setting: str, scorer: str = MODEL) -> np.ndarray:
        """Rank of each answer by the model or a baseline, float64 (num_answers,)."""
        return self.table[_RANK[setting] if scorer == MODEL else f"{scorer}_{_RANK[setting]}"].to_numpy()

    def best_baseline(self, setting: str) -> str | None:
        """The baseline with the highest MRR, on validation where that was ranked; None where none was."""
        valid, suffix = self.of("valid"), f"_{_RANK[setting]}"
        tried = valid if len(valid.table) else self
        names = [name.removesuffix(suffix) for name in self.table.column_names if name.endswith(suffix)]
        return max(names, key=lambda name: (1 / tried.ranks(setting, name)).sum()) if names else None

    def query(self) -> np.ndarray:
        """Number of each answer's query, int64 (num_answers,)."""
        snapshot, relation, subject, other = (
            self.table[name].to_numpy() for name in ("snapshot", "relation_id", "subject_id", "object_id")
        )
        asks_object = np.array(self.table["direction"]) == "object"
        return number_rows(snapshot, relation, asks_object, np.where(asks_object, subject, other))


@dataclass(frozen=True)
class Comparison:
    """Some answers of a split in a setting, as two sides rank them.

    Attributes:
        split, setting: See `gam_kg.schemas`.
        answers: Which: a direction, a stratum, those of entities seen or unseen in training, or a horizon in snapshots.
        count: Number of answers.
        first, second: Mean reciprocal rank of each run of a side.
        difference: Of the second side to the first.
    """

    split: str
    setting: str
    answers: str
    count: int
    first: tuple[float, ...]
    second: tuple[float, ...]
    difference: Difference


def compare(first: Sequence[Ranked], second: Sequence[Ranked], *, by_relation: bool = False) -> list[Comparison]:
    """Compare two sides in the splits and settings that both have, by direction, stratum, entities and horizon.

    Args:
        first: A run; or several that differ in their seed, whose reciprocal ranks are averaged answer by answer.
        second: Likewise.
        by_relation: Compare by direction and relation instead, those of at least `FEWEST_ANSWERS`, most answers first.

    Raises:
        EvaluationError: They have no split or setting in common, or did not rank the same answers in one.
    """
    runs, found = [*first, *second], []
    for split, setting in ranked_by_all(runs):
        ranked = [run.of(split) for run in runs]
        query, reciprocal = ranked[0].query(), np.stack([1 / run.ranks(setting) for run in ranked])
        table = ranked[0].table
        for name, rows in _by_relation(table) if by_relation else _groups(table, setting):
            before, after = np.split(reciprocal[:, rows], [len(first)])
            difference = paired_difference(after.mean(0), before.mean(0), query[rows])
            sides = (tuple(side.mean(1).tolist()) for side in (before, after))
            found.append(Comparison(split, setting, name, int(rows.sum()), *sides, difference))
    return found


def ranked_by_all(runs: Sequence[Ranked]) -> list[tuple[str, str]]:
    """The splits and settings in which all runs have ranked the same answers.

    Raises:
        EvaluationError: There are none, or the answers of a split differ.
    """
    splits = [split for split in SPLITS if all(len(run.of(split).table) for run in runs)]
    settings = [setting for setting in SETTINGS if all(setting in run.settings for run in runs)]
    if not splits or not settings:
        names = ", ".join(str(run.run) for run in runs)
        raise EvaluationError(f"{names}: no split was evaluated in all of them; see evaluate.splits and .settings")
    for split in splits:
        _require_same_answers([run.of(split) for run in runs])
    return list(product(splits, settings))


def _groups(table: pa.Table, setting: str) -> Iterator[tuple[str, np.ndarray]]:
    """Names of directions, strata, entities and, multi-step, bins of horizons that have answers, and which answers."""
    yield DIRECTIONS[0], np.ones(len(table), dtype=bool)
    for column, names in (("direction", DIRECTIONS[1:]), ("stratum", STRATA), ("entities", ENTITIES_SEEN)):
        for name in names:
            if (rows := np.array(table[column]) == name).any():
                yield name, rows
    if setting == "multi_step":
        bins = horizon_bin(table["horizon"].to_numpy())
        for position, name in enumerate(HORIZONS):
            if (rows := bins == position).any():
                yield f"horizon {name}", rows


def _by_relation(table: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
    """`object of` or `subject of` a relation that has enough answers, and which answers, most answers first."""
    columns = (table[name].to_numpy(zero_copy_only=False) for name in ("direction", "relation"))
    part, first = np.unique((keys := number_rows(*columns)), return_index=True)
    count = np.bincount(keys)
    for key in part[np.argsort(-count[part], kind="stable")]:
        if count[key] >= FEWEST_ANSWERS:
            row = table.slice(int(first[key]), 1).to_pylist()[0]
            yield f"{row['direction']} of {row['relation']}", keys == key


def _require_same_answers(ranked: Sequence[Ranked]) -> None:
    first, *others = (run.table.select(_ANSWER) for run in ranked)
    for run, other in zip(ranked[1:], others, strict=True):
        if not other.equals(first):
            keys = list(_ANSWER)
            alone = [a.join(b, keys, join_type="left anti") for a, b in ((first, other), (other, first))]
            example = next((table.slice(0, 1).to_pylist()[0] for table in alone if len(table)), None)
            raise EvaluationError(
                f"{ranked[0].run} and {run.run} did not rank the same answers: {len(alone[0]):,} are in the first "
                f"only, {len(alone[1]):,} in the second only, as {example}. Evaluate both on the same facts with the "
                "same evaluate.facts"
            )
