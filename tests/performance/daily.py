"""What a day of new facts and an answer cost on a finished run, by stage: CPU seconds, memory and bytes written.

    python tests/performance/daily.py icews14 [../shared/data/icews14] [--times 10] [--days 4] [--work FOLDER]
    python tests/performance/daily.py large [--scale 1.0] [--days 2] [--work FOLDER]

`icews14` adds days of the test month to a run of train and valid, and to one with the same history several times over,
one after another, so that the history is as many times as long; then it looks answers up in both, each in a new
process. `large` adds days of 5,000 facts to a run of 1.2 million entities and 10 million facts. Weights are untrained,
which costs the same. The first update of a run also reads its facts from the first on and is left out of the means.

CPU seconds are user and system time of all threads of the process, since the machine may have other work. Runs are
prepared by `gam-kg prepare` and stay in FOLDER. The peak of memory has the pages of mapped files, which the system can
take back; that of anonymous memory has not, and is sampled every 20 ms. Days with other settings, a line of JSON each:

    python tests/performance/daily.py updates RUN DAY.parquet... --set publish.embeddings=delta [--set ...]
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

IMPORTS, DAY, TOTAL = "imports", "update", "a day in all"
NAMED = (("entities.parquet", "entity"), ("relations.parquet", "relation"))
Seconds = dict[str, float]


class Stages:
    """CPU seconds by stage; what a stage calls counts as its own stage only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack, self._last = ["other"], cpu_seconds()

    def _charge(self) -> None:
        now = cpu_seconds()
        self.seconds[self._stack[-1]] += now - self._last
        self._last = now

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Count calls of `owner.name` as a stage."""
        found = vars(owner)[name] if isinstance(owner, type) else getattr(owner, name)
        is_lazy, is_class = isinstance(found, functools.cached_property), isinstance(found, classmethod)
        function: Callable[..., Any] = found.func if is_lazy else found.__func__ if is_class else found

        def timed(*arguments: Any, **options: Any) -> Any:
            self._charge()
            self._stack.append(stage)
            try:
                return function(*arguments, **options)
            finally:
                self._charge()
                self._stack.pop()

        if is_lazy:
            lazy = functools.cached_property(timed)
            lazy.__set_name__(owner, name)
            setattr(owner, name, lazy)
        else:
            setattr(owner, name, classmethod(timed) if is_class else timed)

    def taken(self) -> Seconds:
        """The seconds since this was last called."""
        self._charge()
        found = dict(self.seconds)
        self.seconds.clear()
        return found


def cpu_seconds() -> float:
    return sum(os.times()[:2])


def peak_gib() -> float:
    """The most memory that the process has had since `reset_peak`."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class AnonymousPeak:
    """The most anonymous memory that the process was seen with, GiB."""

    def __init__(self) -> None:
        self.most = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text().partition("RssAnon:")[2]
            self.most = max(self.most, int(status.split()[0]) / 2**20)
            time.sleep(0.02)


def bytes_by_folder(run: Path) -> dict[str, int]:
    """Size of each file of a run, and when it was written."""
    files = [path for path in run.rglob("*") if path.is_file()]
    return {f"{path.relative_to(run)} {path.stat().st_mtime_ns}": path.stat().st_size for path in files}


def measure_updates(run: Path, days: list[Path], overrides: list[str]) -> None:
    """Add days to a run in this process; a line of JSON for the imports and for each day."""
    from gam_kg.inference import update as advancing
    from gam_kg.inference.trained_run import TrainedRun
    from gam_kg.metrics.all_baselines import Baselines
    from gam_kg.run_config import config_of_run
    from pipelines import update as verb

    config = config_of_run(str(run), overrides)
    report({IMPORTS: cpu_seconds()})
    stages, anonymous = Stages(), AnonymousPeak()
    for owner, name, stage in (
        (verb.RunBefore, "of", "open the folder"),
        (verb.RunBefore, "vocabularies", "open the folder"),
        (verb.RunBefore, "facts", "open the folder"),
        (verb, "_read", "read the facts"),
        (verb.RunBefore, "has", "read the facts"),
        (verb, "open_run", "open the run"),
        (TrainedRun, "history", "restore the state"),
        (TrainedRun, "restored_scorer", "restore the state"),
        (Baselines, "restored", "restore the state"),
        (advancing, "roll", "advance"),
        (advancing, "rank_split", "rank and advance"),
        (verb, "write_update", "write the update"),
        (verb, "write_state_part", "write a state"),
        (verb, "publish_state", "write a state"),
        (verb, "embed", "embeddings"),
        (verb, "predict", "predictions"),
    ):
        stages.wrap(owner, name, stage)

    for day in days:
        before = bytes_by_folder(run)
        reset_peak()
        anonymous.most, start = 0.0, time.monotonic()
        stages.taken()
        verb.update(config, str(day))
        seconds, wall = stages.taken(), time.monotonic() - start
        written: dict[str, int] = defaultdict(int)
        for file, size in bytes_by_folder(run).items():
            if file not in before:
                written[file.split("/")[0] if "/" in file else "other"] += size
        peaks = {"peak_gib": peak_gib(), "anonymous_gib": anonymous.most}
        report({DAY: day.stem, "seconds": seconds, "wall": wall, **peaks, "written": dict(written)})


def measure_answers(run: Path, count: int) -> None:
    """Look up answers in a run that was just opened; a line of JSON."""
    from gam_kg.inference.search import query_answers
    from gam_kg.run_config import config_of_run
    from pipelines.ranks import open_run

    config = config_of_run(str(run))
    names = [pq.read_table(run / "graph" / file)[kind].to_pylist()[:10] for file, kind in NAMED]
    report({IMPORTS: cpu_seconds()})
    first = cpu_seconds()
    opened = open_run(config)
    seconds = [cpu_seconds() - first]
    for number in range(1 + count):
        first = cpu_seconds()
        query_answers(opened, names[0][number % 10], names[1][number % 7])
        seconds.append(cpu_seconds() - first)
    found = {"open": seconds[0], "first": seconds[1], "next": float(np.mean(seconds[2:])), "most": max(seconds[2:])}
    report({"answers": found, "peak_gib": peak_gib(), "snapshots": len(opened.graph.times)})


def report(found: dict[str, Any]) -> None:
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    sys.stdout.flush()


def children(*arguments: str) -> list[dict[str, Any]]:
    """Lines of JSON of this script in another process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *arguments]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def mean_of(days: list[dict[str, Any]]) -> Seconds:
    """CPU seconds of a day by stage, and `TOTAL`."""
    stages = dict.fromkeys(stage for day in days for stage in day["seconds"])
    found = {stage: float(np.mean([day["seconds"].get(stage, 0.0) for day in days])) for stage in stages}
    return {**found, TOTAL: sum(found.values())}


def show_updates(names: list[str], found: list[list[dict[str, Any]]]) -> None:
    """A column for each run: its first update has one of its own."""
    imports, first = ([lines[at] for lines in found] for at in (0, 1))
    means = [mean_of(lines[2:]) for lines in found]
    rows: list[list[str]] = [
        ["CPU seconds", *names],
        ["imports and settings", *(f"{one[IMPORTS]:.2f}" for one in imports)],
    ]
    rows += [[stage, *(f"{mean.get(stage, 0.0):.2f}" for mean in means)] for stage in means[0]]
    rows += [["the first update", *(f"{sum(one['seconds'].values()):.1f}" for one in first)]]
    for name, what in (("peak_gib", "peak of memory, GiB"), ("anonymous_gib", "peak of anonymous memory, GiB")):
        rows += [[what, *(f"{max(day[name] for day in lines[2:]):.2f}" for lines in found)]]
    rows += [["elapsed seconds", *(f"{np.mean([day['wall'] for day in lines[2:]]):.1f}" for lines in found)]]
    for folder in sorted({folder for lines in found for day in lines[2:] for folder in day["written"]}):
        sizes = [np.mean([day["written"].get(folder, 0) for day in lines[2:]]) for lines in found]
        rows.append([f"bytes written, {folder}", *(f"{size:,.0f}" for size in sizes)])
    show(rows)
    if len(means) > 1:
        sys.stdout.write(f"a day, {names[1]} by {names[0]}: {means[1][TOTAL] / means[0][TOTAL]:.2f} times the time\n")


def show_answers(names: list[str], found: list[dict[str, Any]]) -> None:
    rows = [["CPU seconds", *names]]
    rows += [[what, *(f"{one['answers'][what]:.3f}" for one in found)] for what in ("open", "first", "next", "most")]
    show([*rows, ["snapshots", *(str(one["snapshots"]) for one in found)]])


def show(rows: list[list[str]]) -> None:
    sys.stdout.write("\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n")
    sys.stdout.flush()


def compare_histories(arguments: argparse.Namespace, folder: Path) -> None:
    """ICEWS14, with its history once and several times over."""
    from runs_to_update import icews14_facts, icews14_run

    facts, test = icews14_facts(arguments.place[0])
    names, updates, answers = [], [], []
    for times in (1, arguments.times):
        run, days = icews14_run(facts, test, times, arguments.days, folder)
        names.append("the history" if times == 1 else f"{times} times the history")
        updates.append(children("updates", str(run), *map(str, days)))
        answers.append(children("answers", str(run))[-1])
    show_updates(names, updates)
    show_answers(names, answers)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["icews14", "large", "updates", "answers"])
    parser.add_argument("place", type=Path, nargs="*", default=[Path("../shared/data/icews14")])
    parser.add_argument("--times", type=int, default=10, help="how long the longer history is")
    parser.add_argument("--scale", type=float, default=1.0, help="of entities, facts and snapshots of the large run")
    parser.add_argument("--days", type=int, default=4, help="of which the first is shown by itself")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, a setting of `updates`")
    parser.add_argument("--work", type=Path, help="where runs are made; none: a temporary folder")
    arguments = parser.parse_args()
    if arguments.what == "updates":
        measure_updates(arguments.place[0], arguments.place[1:], arguments.set)
        return
    if arguments.what == "answers":
        measure_answers(arguments.place[0], 20)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        if arguments.what == "icews14":
            compare_histories(arguments, folder)
        else:
            from runs_to_update import large_run

            run, days = large_run(arguments.scale, arguments.days, folder)
            show_updates(["a large run"], [children("updates", str(run), *map(str, days))])


if __name__ == "__main__":
    main()
