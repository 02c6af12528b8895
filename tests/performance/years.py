"""What a run loses that is updated year by year instead of trained anew: baseball, with new players every year.

    python tests/performance/years.py OUT [--since 1995] [--first 2008] [--every 3] [--fine-tune 3] [a.b=value ...]

A run is trained on the years before --first, the last two of them for validation, and `gam-kg update` adds the years
after it one by one. Another run is fine-tuned after each year too. For every --every-th year after the first, a third
run is trained anew, with the same settings, on all years before it. Each variant ranks all facts of the year before it
adds them, among all entities up to then, the year's new ones included.

Printed is a Markdown table, a line a year: facts, share of the year's entities that are new, MRR in percent of each
variant and of the best untrained baseline of that year, and CPU seconds of what makes the run ready for the next year:
`gam-kg update`, the same with fine-tuning, or `prepare` (without Ray's own processes) and `train`. Then the means: over
all years, and over those of the third run; and the MRR of the updated run and of each baseline, mean of the years.
Every command is a fresh process of one thread, its start included. What is in OUT already is not done again.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

ONE_THREAD = ["train.num_workers=0", "train.threads=1"]
VALID_YEARS = 2
UPDATED, TUNED = "updated", "fine-tuned"


@dataclass(frozen=True)
class Years:
    """The experiment.

    Attributes:
        out: Folder of the facts and runs.
        facts: All facts; `timestamp` is the year.
        overrides: Settings of all runs, `a.b=value`.
    """

    out: Path
    facts: pd.DataFrame
    overrides: list[str]

    @property
    def seconds(self) -> dict[str, float]:
        """CPU seconds of each step that is done, by its name."""
        path = self.out / "seconds.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def step(self, name: str, *arguments: str | Path) -> None:
        """Call gam-kg in a process of its own, unless that is done already."""
        if name not in self.seconds:
            sys.stderr.write(f"{name}\n")
            seconds = _gam_kg(*arguments, *ONE_THREAD, *self.overrides)
            (self.out / "seconds.json").write_text(json.dumps(self.seconds | {name: seconds}, indent=1))

    def of(self, *, first: int = 0, end: int) -> Path:
        """A file with the facts of the years [first, end)."""
        path = self.out / "facts" / f"{first}-{end}.parquet"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            self.facts[self.facts["timestamp"].between(first, end - 1)].to_parquet(path)
        return path

    def train(self, end: int) -> Path:
        """A run that is trained on all years before one."""
        run = self.out / f"before-{end}"
        config = self.out / f"before-{end}.yaml"
        config.write_text(
            f"run_dir: {run}\ndata:\n  facts: {self.of(end=end)}\n  time_unit: 1\n"
            f"  split: {{valid_start: {end - VALID_YEARS}, test_start: {end}}}\n"
        )
        for verb in ("prepare", "train"):
            self.step(f"{run.name} {verb}", verb, config)
        return run

    def update(self, run: Path, year: int, fine_tune: int = 0) -> None:
        """Add the facts of a year to a run, and rank them all before."""
        settings = ["--facts", self.of(first=year, end=year + 1), "--fine-tune", str(fine_tune)]
        self.step(f"{run.name} update {year}", "update", run, *settings, f"update.score_facts={len(self.facts)}")

    def copy(self, run: Path, name: str) -> Path:
        """A copy of a run, unless it is there."""
        path = self.out / name
        if not path.exists():
            shutil.copytree(run, self.out / f".{name}", dirs_exist_ok=True)
            (self.out / f".{name}").rename(path)
        return path

    def mrr(self, name: str) -> pd.DataFrame:
        """MRR of the model and of the baselines, by the year that a run has added."""
        table = pd.read_parquet(self.out / name / "evaluation" / "over_time.parquet")
        table.index = table["timestamp"].str[:4].astype(int)
        return table.filter(regex="mrr$") * 100

    def new_share(self, year: int) -> float:
        """Share of the entities of a year that no year before has."""
        before, now = (
            np.unique(self.facts.loc[which, ["subject", "object"]])
            for which in (self.facts["timestamp"] < year, self.facts["timestamp"] == year)
        )
        return float(np.isin(now, before, invert=True).mean())

    def table(self, retrained: list[int]) -> pd.DataFrame:
        """A row a year; without a value where a variant has not ranked it."""
        seconds, updated = self.seconds, self.mrr(UPDATED)
        baselines = updated.drop(columns="mrr")
        again = {year: self.mrr(f"before-{year}")["mrr"][year] for year in retrained}
        columns = {
            "facts": self.facts["timestamp"].value_counts(),
            "new entities, %": {year: 100 * self.new_share(year) for year in updated.index},
            "updated": updated["mrr"],
            "fine-tuned": self.mrr(TUNED)["mrr"],
            "trained anew": again,
            "best baseline": baselines.max(axis=1),
            "update, s": {year: seconds[f"{UPDATED} update {year}"] for year in updated.index},
            "fine-tune, s": {year: seconds[f"{TUNED} update {year}"] for year in updated.index},
            "train anew, s": {
                year: sum(seconds[f"before-{year} {verb}"] for verb in ("prepare", "train")) for year in retrained
            },
        }
        return pd.DataFrame({name: pd.Series(values) for name, values in columns.items()}).loc[updated.index]


def _gam_kg(*arguments: str | Path) -> float:
    """Call gam-kg; the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, 2)


def main() -> None:
    """Do what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the facts and runs")
    parser.add_argument("overrides", nargs="*", help="a.b=value, of all runs")
    parser.add_argument("--since", type=int, default=1995, help="the first year of the facts")
    parser.add_argument("--first", type=int, default=2008, help="the first year that comes as an update")
    parser.add_argument("--every", type=int, default=3, help="train anew for each so many years")
    parser.add_argument("--fine-tune", type=int, default=3, help="snapshots")
    given = parser.parse_intermixed_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "facts.parquet").exists():
        _gam_kg("import", f"lahman:{given.since}", out / "facts.parquet")
    facts = pd.read_parquet(out / "facts.parquet")
    years = Years(out, facts, given.overrides)
    first_run = years.train(given.first)
    updated, tuned = years.copy(first_run, UPDATED), years.copy(first_run, TUNED)
    added = range(given.first, int(facts["timestamp"].max()) + 1)
    for year in added:
        years.update(updated, year)
        years.update(tuned, year, given.fine_tune)
    retrained = list(added[given.every :: given.every])
    for year in retrained:
        years.update(years.train(year), year)
    table = years.table(retrained)
    means = {"mean": table.mean(), "mean of the years trained anew": table.loc[retrained].mean()}
    table = pd.concat([table, pd.DataFrame(means).T])
    sys.stdout.write("| " + " | ".join(["year", *table.columns]) + " |\n|" + "---|" * (len(table.columns) + 1) + "\n")
    for year, row in table.iterrows():
        cells = ["" if np.isnan(value) else f"{value:,.2f}".removesuffix(".00") for value in row]
        sys.stdout.write("| " + " | ".join([str(year), *cells]) + " |\n")
    sys.stdout.write(years.mrr(UPDATED).mean().round(2).to_string() + "\n")


if __name__ == "__main__":
    main()
