"""The test month of ICEWS14 as 31 daily updates, and everything that must come to the same.

    python tests/performance/month.py OUT [--data ../shared/data/icews14] [--run RUN] [--days 31] [--parts once ...]

A run is trained on train and valid (--run: one that is, which is copied), and `gam-kg update` adds the days of the test
month one by one. Then, each from the same trained run:

once      all days in one update; each rank is that of the daily update where entities that come later are no candidates
evaluate  `gam-kg evaluate` of a graph prepared with everything, with the same weights: each rank is that of `once`
killed    daily updates as processes, which are killed at random moments and given again
workers   daily updates by two Ray workers
late      days in another order under each rule of --late: with `replay` the run ends as the daily one; with `refuse`
          and `quarantine` as one that was given only the days which are not late

Printed is a Markdown table; the exit status is 1 where something that must be equal is not. Embeddings are equal where
they differ by at most 1e-5 and scores by 1e-4, and the answers of predictions must be the same. As two candidates may
score the same up to rounding, one rank in a thousand may be another one, by one place. What is in OUT already is not
done again. The training takes about 10 minutes; the parts took 63 s (once) to
an hour (workers) beside much other work.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from runs_to_update import icews14_facts, with_all_facts, write_days
from same_runs import Table
from torch import Tensor

from gam_kg.artifacts import read_manifest
from gam_kg.errors import DataError
from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.graph.update_chain import Update, read_updates
from gam_kg.inference import update as advancing
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.run_config import config_of_run
from gam_kg.schemas import MODEL
from gam_kg.training.evaluate import AnswerRanks, ModelScorer
from pipelines import update as verb
from pipelines.ray_session import ray_session

PARTS = ("once", "evaluate", "killed", "workers", "late")
ONE_THREAD = ["train.num_workers=0", "train.threads=1"]
SETTINGS = [*ONE_THREAD, "update.score_facts=1000000"]
SPLITS = ["data.time_unit=1", "data.split.valid_start=305", "data.split.test_start=335"]
KEYS = ["snapshot", "direction", "subject", "relation", "object"]
KNOWN = "known"


def updates_of(run: Path) -> tuple[Update, ...]:
    return read_updates(run, read_manifest(run / "graph", "graph"))


class Known:
    """The model as a scorer for which entities that come after a query are no candidates."""

    def __init__(self, model: ModelScorer, first_snapshot: Tensor) -> None:
        self.model, self.first_snapshot = model, first_snapshot

    def scores(self, queries: Queries) -> Tensor:
        """Those of the model, and the lowest number for who comes later."""
        lowest = torch.finfo(torch.float32).min
        return self.model.table(queries).masked_fill(self.first_snapshot > queries.time, lowest)

    def observe(self, snapshot: Snapshot) -> None:
        """The model does."""


def named(run: TrainedRun, ranks: AnswerRanks) -> pd.DataFrame:
    """Ranks by name, as in `ranks.parquet`."""
    is_inverse = ranks.relation >= len(run.relations)
    ends = ranks.subject, ranks.answer
    columns = {
        "snapshot": ranks.time,
        "direction": np.where(is_inverse, "subject", "object"),
        "subject": run.entities.decode(np.where(is_inverse, *ends[::-1])).to_pylist(),
        "relation": run.relations.decode(ranks.relation % len(run.relations)).to_pylist(),
        "object": run.entities.decode(np.where(is_inverse, *ends)).to_pylist(),
    }
    return pd.DataFrame(columns | ranks.time_aware).set_index(KEYS)


@contextmanager
def recorded() -> Generator[list[pd.DataFrame]]:
    """The ranks of all answers that updates of this process rank while the block runs."""
    advance_run, rank_split, found, runs = advancing.advance_run, advancing.rank_split, [], []

    def advance(run: TrainedRun, *arguments: Any) -> Any:
        runs[:] = [run]
        return advance_run(run, *arguments)

    def rank(scorers: dict[str, Any], *arguments: Any, **options: Any) -> AnswerRanks:
        known = torch.zeros(runs[-1].graph.num_entities, dtype=torch.int64)
        new = runs[-1].updates[-1].entities()
        known[new["entity_id"].to_numpy()] = torch.from_numpy(new["first_snapshot"].to_numpy().copy())
        ranks = rank_split({**scorers, KNOWN: Known(scorers[MODEL], known)}, *arguments, **options)
        if len(ranks.answer):
            found.append(named(runs[-1], ranks)[[MODEL, KNOWN]])
        del ranks.time_aware[KNOWN], ranks.raw[KNOWN]
        return ranks

    verb.advance_run, advancing.rank_split = advance, rank
    try:
        yield found
    finally:
        verb.advance_run, advancing.rank_split = advance_run, rank_split


@dataclass(frozen=True)
class Month:
    """The experiment.

    Attributes:
        out: Folder of all files and runs.
        days: A file for each day.
        table: What was found.
    """

    out: Path
    days: list[Path]
    table: Table

    def copy(self, name: str, work: Callable[[Path], None], *, goes_on: bool = False) -> Path:
        """A copy of the trained run with which something was done, unless it is there.

        Args:
            name: Of its folder.
            work: Does it.
            goes_on: Whether `work` may go on with what a process that was stopped has left.
        """
        run, done = self.out / name, self.out / f"{name}.done"
        if not done.exists():
            if not (goes_on and run.exists()):
                shutil.rmtree(run, ignore_errors=True)
                shutil.copytree(self.out / "trained", run)
            first = time.monotonic()
            work(run)
            done.write_text(f"{time.monotonic() - first:.0f} s\n")
        sys.stderr.write(f"{name}: {done.read_text()}")
        return run

    def ranks(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.out / f"{name}-ranks.parquet")

    def add(self, *days: Path, late: str | None = None) -> Callable[[Path], None]:
        """Adds days to a run, and writes their ranks."""

        def work(run: Path) -> None:
            config = config_of_run(str(run), SETTINGS)
            with recorded() as found:
                for day in days:
                    verb.update(config, str(day), late=late)
            pd.concat(found or [pd.DataFrame()]).to_parquet(self.out / f"{run.name}-ranks.parquet")

        return work

    def at_once(self) -> Path:
        """The run that has added all days in one update."""
        every = self.out / "days.parquet"
        pq.write_table(pa.concat_tables([pq.read_table(day) for day in self.days]), every)
        return self.copy("once", self.add(every))

    def once(self, daily: Path) -> None:
        self.table.add_runs(self.at_once(), daily, scores=False)
        ranks, of_daily = self.ranks("once"), self.ranks("daily")
        self.table.add_ranks("once, among known entities", ranks[KNOWN], "daily", of_daily[MODEL])

    def evaluate(self, _daily: Path) -> None:
        self.at_once()
        run = self.out / "whole"
        if not (run / "evaluation").exists():
            with_all_facts(self.out / "trained", self.out / "facts.parquet", run, [*ONE_THREAD, *SPLITS])
            settings = ["evaluate.splits=[test]", "evaluate.settings=[single_step]", *ONE_THREAD]
            gam_kg("evaluate", run / "config.yaml", f"run_dir={run}", *settings)
        found = pd.read_parquet(run / "evaluation" / "ranks.parquet").set_index(KEYS)["rank"]
        self.table.add_ranks("evaluate", found, "once", self.ranks("once")[MODEL])

    def killed(self, daily: Path) -> None:
        kills = self.out / "kills.txt"

        def work(run: Path) -> None:
            generator, seconds, number = random.Random(0), 10.0, 0
            for day in self.days:
                for _ in range(generator.choice([0, 1, 1, 2])):
                    process = subprocess.Popen(command("update", run, "--facts", day, *SETTINGS), env=environment())
                    try:
                        process.wait(generator.uniform(0.2 * seconds, seconds))
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                        number += process.wait() == -signal.SIGKILL
                first = time.monotonic()
                gam_kg("update", run, "--facts", day, *SETTINGS)
                seconds = time.monotonic() - first
            kills.write_text(str(number))

        run = self.copy("killed", work)
        self.table.add("killed: number of kills", "", kills.read_text(), int(kills.read_text()) > 0)
        self.table.add_runs(run, daily)

    def workers(self, daily: Path) -> None:
        def work(run: Path) -> None:
            config = config_of_run(str(run), [*SETTINGS, "train.num_workers=2"])
            with ray_session():
                for day in self.days[len(updates_of(run)) :]:
                    verb.update(config, str(day))

        self.table.add_runs(self.copy("workers", work, goes_on=True), daily)

    def late(self, daily: Path) -> None:
        generator = random.Random(0)
        order = [day for _, day in sorted((at + generator.uniform(0, 4), day) for at, day in enumerate(self.days))]
        in_time = [day for at, day in enumerate(order) if day == max(order[: at + 1], key=self.days.index)]
        expected = self.copy("in-time", self.add(*in_time))

        def refused(run: Path) -> None:
            for day in order:
                before = updates_of(run)
                try:
                    self.add(day, late="refuse")(run)
                    assert day in in_time, f"{day} was added"
                except DataError:
                    assert day not in in_time, f"{day} was refused"
                    assert updates_of(run) == before, f"{day} was refused, and something was added"

        self.table.add_runs(self.copy("refuse", refused), expected)
        self.table.add_runs(self.copy("quarantine", self.add(*order, late="quarantine")), expected)
        run = self.copy("replay", self.add(*order, late="replay"))
        self.table.add(f"late: {len(order) - len(in_time)} of {len(order)} days", "", "", len(order) > len(in_time))
        self.table.add_runs(run, daily, scores=False)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "pipelines", *map(str, arguments)]


def gam_kg(*arguments: str | Path) -> None:
    subprocess.run(command(*arguments), check=True, stdout=sys.stderr, env=environment())


def main() -> None:
    """Do what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the facts and runs")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/icews14"), help="ICEWS14")
    parser.add_argument("--run", type=Path, help="a run that was trained on train and valid alone")
    parser.add_argument("--days", type=int, default=31)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    given = parser.parse_args()
    out, trained = given.out.resolve(), given.out.resolve() / "trained"
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    facts, test = icews14_facts(given.data)
    days = write_days(test, given.days, 0, out)
    pq.write_table(facts, out / "before.parquet")
    pq.write_table(pa.concat_tables([facts, *map(pq.read_table, days)]), out / "facts.parquet")
    if given.run is not None and not trained.exists():
        shutil.copytree(given.run, trained)
    elif not (trained / "checkpoint").exists():
        (out / "trained.yaml").write_text(f"run_dir: {trained}\ndata: {{facts: {out / 'before.parquet'}}}\n")
        for stage in ("prepare", "train", "evaluate"):
            gam_kg(stage, out / "trained.yaml", *ONE_THREAD, *SPLITS)
    month = Month(out, days, Table())
    daily = month.copy("daily", month.add(*days))
    for part in given.parts:
        getattr(month, part)(daily)
    sys.stdout.write("\n".join("| " + " | ".join(row) + " |" for row in month.table.rows) + "\n")
    sys.exit(month.table.failed)


if __name__ == "__main__":
    main()
