"""Which learning rate fine-tuning should have, by facts that validation may see: the test facts are in no file here.

    python tests/performance/rates.py icews14 OUT [--data ../shared/data/icews14] [--seeds 0 1 2] [--every 7] [--last 8]
    python tests/performance/rates.py baseball OUT [--seeds 0 1 2] [--every 1] [--last 3]

A run is trained on ICEWS14's training days (the last 30 choose the epoch), or on baseball from 1995 to 2008 (the last
two years do); then `gam-kg update` adds the validation month day by day, or the years 2009 to 2014. After each
--every-th snapshot it fine-tunes on the newest --last ones, with each of --shares of `train.learning_rate` in a copy of
the run; share 0 does not fine-tune.

Printed is, of each seed and share, the MRR in percent of the facts of the snapshots after the first fine-tuning, each
ranked before it is added, and the difference to share 0; then the means over the seeds. What is in OUT already is not
done again, so seeds may be run beside each other.
"""

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

ONE_THREAD = ["train.num_workers=0", "train.threads=1"]


@dataclass(frozen=True)
class Rates:
    """The experiment on one data set and seed.

    Attributes:
        folder: For the facts and the runs.
        facts: All facts until the end of validation, by name.
        splits: When the facts that choose the epoch begin, and when those that come as updates.
        every, last: See the description of this file.
        seed: That of the run.
    """

    folder: Path
    facts: Path
    splits: tuple[int, int]
    every: int
    last: int
    seed: int

    @cached_property
    def days(self) -> list[Path]:
        """A file for each snapshot that comes as an update."""
        table, found = pq.read_table(self.facts), []
        for time in sorted({time for time in table["timestamp"].to_pylist() if time >= self.splits[1]}):
            found.append(self.facts.parent / f"{time}.parquet")
            pq.write_table(table.filter(pc.equal(table["timestamp"], time)), found[-1])
        return found

    @cached_property
    def trained(self) -> Path:
        """The run, with the first snapshots that come before any fine-tuning."""
        run, config = self.folder / f"seed{self.seed}", self.folder / f"seed{self.seed}.yaml"
        if not (run / "checkpoint").exists():
            table = pq.read_table(self.facts)
            before = self.folder / f"before{self.seed}.parquet"
            pq.write_table(table.filter(pc.less(table["timestamp"], self.splits[1])), before)
            config.write_text(
                f"run_dir: {run}\nseed: {self.seed}\ndata:\n  facts: {before}\n  time_unit: 1\n"
                f"  split: {{valid_start: {self.splits[0]}, test_start: {self.splits[1]}}}\n"
            )
            for verb in ("prepare", "train"):
                command = [sys.executable, "-m", "pipelines", verb, str(config), *ONE_THREAD]
                subprocess.run(command, check=True, stdout=sys.stderr)
        self.add(run, self.days[: self.every - 1])
        return run

    def add(self, run: Path, days: list[Path], fine_tune: int = 0, rate: float | None = None) -> None:
        """Add those of the files that a run does not have yet, and fine-tune after every last one."""
        from gam_kg.artifacts import read_manifest
        from gam_kg.graph.update_chain import read_updates
        from gam_kg.run_config import config_of_run
        from pipelines.update import update

        config = config_of_run(str(run), [f"update.fine_tune_rate={rate or 'null'}", "update.score_facts=1000000"])
        updates = read_updates(run, read_manifest(run / "graph", "graph"))
        done = sum(one.content["num_facts"] > 0 for one in updates)
        for day in days[done:]:
            number = self.days.index(day) + 1
            update(config, str(day), fine_tune_on=fine_tune if number % self.every == 0 else 0)

    def mrr(self, share: float) -> float:
        """MRR in percent, with a share of the learning rate of training."""
        from gam_kg.run_config import config_of_run

        run = self.folder / f"seed{self.seed}-every{self.every}-last{self.last}-share{share:g}"
        if not run.exists():
            unfinished = run.with_name(f".{run.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(self.trained, unfinished)
            rate = share * config_of_run(str(unfinished)).train.learning_rate
            self.add(unfinished, self.days, self.last if share else 0, rate or None)
            unfinished.rename(run)
        table = pq.read_table(run / "evaluation" / "over_time.parquet").to_pandas()
        table = table[table["timestamp"].astype(int) > int(self.days[self.every - 1].stem)]
        return 100 * float(np.average(table["mrr"], weights=table["num_answers"]))


def facts_of(given: argparse.Namespace, out: Path) -> tuple[Path, tuple[int, int]]:
    """A file of all facts until the end of validation, and `Rates.splits`."""
    path = out / "facts" / "facts.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    if given.what == "icews14":
        from runs_to_update import icews14_facts

        if not path.exists():
            pq.write_table(icews14_facts(given.data)[0], path)
        return path, (275, 305)
    if not path.exists():
        every = out / "every.parquet"
        subprocess.run([sys.executable, "-m", "pipelines", "import", "lahman:1995", str(every)], check=True)
        table = pq.read_table(every)
        pq.write_table(table.filter(pc.less(table["timestamp"], 2015)), path)
    return path, (2007, 2009)


def main() -> None:
    """Do what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["icews14", "baseball"])
    parser.add_argument("out", type=Path, help="folder of the facts and runs")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/icews14"), help="ICEWS14")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--every", type=int, help="snapshots from one fine-tuning to the next")
    parser.add_argument("--last", type=int, help="the newest snapshots that fine-tuning trains on")
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.05, 0.1, 0.2, 0.5, 1])
    given = parser.parse_args()
    every, last = (7, 8) if given.what == "icews14" else (1, 3)
    out = given.out.resolve()
    facts, splits = facts_of(given, out)
    found = []
    for seed in given.seeds:
        rates = Rates(out, facts, splits, given.every or every, given.last or last, seed)
        found.append([rates.mrr(share) for share in given.shares])
    rows = np.array(found)
    sys.stdout.write("| seed | " + " | ".join(f"{share:g}" for share in given.shares) + " |\n")
    sys.stdout.write("|---|" + "---|" * len(given.shares) + "\n")
    for name, row in [*zip(map(str, given.seeds), rows, strict=True), ("mean", rows.mean(0))]:
        cells = [f"{value:.2f} ({value - row[0]:+.2f})" for value in row]
        sys.stdout.write(f"| {name} | " + " | ".join(cells) + " |\n")


if __name__ == "__main__":
    main()
