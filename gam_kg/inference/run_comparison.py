"""Runs that ranked the same queries, side by side: mean reciprocal ranks, and intervals of their differences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import open_artifact
from gam_kg.errors import EvaluationError
from gam_kg.inference.report import Table
from gam_kg.metrics.bootstrap import Difference, number_rows, paired_difference
from gam_kg.metrics.horizons import HORIZONS, horizon_bin
from gam_kg.parquet import read_table
from gam_kg.schemas import DIRECTIONS, ENTITIES_SEEN, SETTINGS, SPLITS, STRATA

_ANSWER = ("split", "timestamp", "direction", "subject", "relation", "object")
_RANK = {setting: "rank" if setting == "single_step" else f"rank_{setting}" for setting in SETTINGS}


@dataclass(frozen=True)
class Ranked:
    """The time-aware ranks of a run's evaluation.

    Attributes:
        run: Folder of the run.
        table: `evaluation/ranks.parquet`, sorted by answer.
    """

    run: Path
    table: pa.Table

    @classmethod
    def read(cls, run: Path) -> "Ranked":
        """Read the ranks of a run.

        Raises:
            ArtifactError: The run has no evaluation, or a damaged one.
        """
        open_artifact(run / "evaluation", "evaluation", part="ranks.parquet")
        table = read_table(run / "evaluation" / "ranks.parquet")
        return cls(run, table.sort_by([(name, "ascending") for name in _ANSWER]))

    @property
    def settings(self) -> list[str]:
        """Names of the evaluated settings."""
        return [setting for setting, column in _RANK.items() if column in self.table.column_names]

    def of(self, split: str) -> "Ranked":
        """Those of a split."""
        return Ranked(self.run, self.table.filter(pa.compute.equal(self.table["split"], split)))

    def reciprocal(self, setting: str) -> np.ndarray:
        """Reciprocal rank of each answer, float64 (num_answers,)."""
        return 1 / self.table[_RANK[setting]].to_numpy()

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


def compare(first: Sequence[Ranked], second: Sequence[Ranked]) -> list[Comparison]:
    """Compare two sides in the splits and settings that both have, by direction, stratum, entities and horizon.

    Args:
        first: A run; or several that differ in their seed, whose reciprocal ranks are averaged answer by answer.
        second: Likewise.

    Raises:
        EvaluationError: They have no split or setting in common, or did not rank the same answers in one.
    """
    runs = [*first, *second]
    found = []
    for split in SPLITS:
        ranked = [run.of(split) for run in runs]
        if min(len(run.table) for run in ranked):
            _require_same_answers(ranked)
            query = ranked[0].query()
            for setting in (one for one in SETTINGS if all(one in run.settings for run in runs)):
                reciprocal = np.stack([run.reciprocal(setting) for run in ranked])
                for name, rows in _groups(ranked[0].table, setting):
                    before, after = np.split(reciprocal[:, rows], [len(first)])
                    difference = paired_difference(after.mean(0), before.mean(0), query[rows])
                    sides = (tuple(side.mean(1).tolist()) for side in (before, after))
                    found.append(Comparison(split, setting, name, int(rows.sum()), *sides, difference))
    if not found:
        names = ", ".join(str(run.run) for run in runs)
        raise EvaluationError(f"{names}: no split was evaluated in all of them; see evaluate.splits and .settings")
    return found


def comparison_tables(found: Sequence[Comparison], names: tuple[str, str]) -> Iterator[Table]:
    """A table for each split and setting, in percent; `names` are those of the two sides."""
    for split, setting in dict.fromkeys((one.split, one.setting) for one in found):
        rows = []
        for one in found:
            if (one.split, one.setting) == (split, setting):
                sides = (f"{100 * np.mean(side):.2f}" for side in (one.first, one.second))
                label = one.answers.replace("_", " ")
                rows.append([label, f"{one.count:,}", *sides, *difference_cells(one.difference)])
        title = f"{split}, {setting.replace('_', '-')}, MRR %"
        yield [title, "answers", *names, "difference", "95 % interval"], rows


def difference_cells(difference: Difference) -> tuple[str, str]:
    """A difference and its interval in percent."""
    return f"{100 * difference.mean:+.2f}", f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"


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
