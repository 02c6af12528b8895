"""Whether runs have come to the same: embeddings, predictions, the figures of each day, ranks."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from gam_kg.inference.embed import read_vectors
from gam_kg.parquet import read_table
from gam_kg.versions import latest

TOLERANCE = 1e-5


@dataclass
class Table:
    """What was compared with what, and whether it is equal.

    Attributes:
        rows: Cells.
        failed: Whether something is not equal that must be.
    """

    rows: list[list[str]] = field(default_factory=lambda: [["", "compared with", "found", "equal"], ["---"] * 4])
    failed: bool = False

    def add(self, what: str, other: str, found: str, is_equal: bool) -> None:
        self.rows.append([what, other, found, "yes" if is_equal else "NO"])
        self.failed |= not is_equal
        sys.stderr.write(" | ".join(self.rows[-1]) + "\n")

    def add_runs(self, one: Path, other: Path, *, scores: bool = True) -> None:
        """Compare embeddings, predictions and the figures of each day of two runs."""
        vectors, others = embeddings(one), embeddings(other)
        most = max(float(np.abs(vectors[name] - others[name]).max()) for name in vectors.keys() & others.keys())
        found = f"{len(vectors):,} vectors, largest difference {most:.1e}"
        self.add(f"{one.name}: embeddings", other.name, found, vectors.keys() == others.keys() and most <= TOLERANCE)
        answers, expected = predictions(one), predictions(other)
        same = answers.index.equals(expected.index)
        changed = int((answers["answer"] != expected["answer"]).sum()) if same else len(answers)
        most = float((answers["score"] - expected["score"]).abs().max()) if same else np.inf
        found = f"{len(answers):,} answers, {changed} other ones, largest difference of a score {most:.1e}"
        self.add(f"{one.name}: predictions", other.name, found, same and changed == 0 and most <= 10 * TOLERANCE)
        if scores:
            mine, theirs = days_of(one), days_of(other)
            most = float((mine - theirs).abs().to_numpy().max()) if mine.index.equals(theirs.index) else np.inf
            found = f"{len(mine)} days, largest difference of MRR or Hits {most:.1e}"
            self.add(f"{one.name}: figures of each day", other.name, found, most <= TOLERANCE)

    def add_ranks(self, what: str, ranks: pd.Series, other: str, others: pd.Series) -> None:
        """Compare ranks of the same answers."""
        ranks, others = ranks.sort_index(), others.sort_index()
        same = ranks.index.equals(others.index)
        places = (ranks - others).abs() if same else pd.Series(np.inf, ranks.index)
        changed = int((places > 0).sum())
        mrrs = " and ".join(f"{100 * float((1 / one).mean()):.4f}" for one in (ranks, others))
        found = f"{len(ranks):,} ranks, {changed} other ones, by at most {places.max():g}; MRR {mrrs}"
        self.add(f"{what}: ranks", other, found, places.max() <= 1 and 1000 * changed <= len(ranks))


def embeddings(run: Path) -> dict[str, np.ndarray]:
    files = sorted(latest(run / "embeddings").glob("entities*.parquet"))
    names = [name for file in files for name in read_table(file, columns=["entity"])["entity"].to_pylist()]
    return dict(zip(names, np.concatenate([read_vectors(file) for file in files]), strict=True))


def predictions(run: Path) -> pd.DataFrame:
    """Answers and scores by query and position."""
    table = pq.read_table(latest(run / "predictions") / "predictions.parquet").to_pandas()
    return table.set_index(["subject", "relation", "position"])[["answer", "score"]].sort_index()


def days_of(run: Path) -> pd.DataFrame:
    table = pq.read_table(run / "evaluation" / "over_time.parquet").to_pandas()
    return table.set_index("snapshot").select_dtypes("number").drop(columns="update")
