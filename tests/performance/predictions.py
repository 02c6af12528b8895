"""Many queries over a finished run: queries a second, and the most memory that all processes have together.

    python tests/performance/predictions.py RUN OUT [--queries 1000000] [--workers 2] [--times 5] [a.b=value ...]

The queries are random pairs of a subject or an object and a relation that are facts of the run, about the snapshot
after the last one and about --times snapshots drawn from its last half, in random order. OUT gets the queries, and a
run with links to the artifacts of RUN, which `gam-kg predict` answers them from in a process of its own, with --workers
actors of one thread each (0: that process). What OUT has of an interrupted measurement is gone on with, so that its
time is not that of all queries. Memory is proportional set size, so that what processes share counts once.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gam_kg.inference.queries import EncodedQueries, QueryRows
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.run_config import CONFIG
from gam_kg.versions import latest


def queries_of(run: TrainedRun, number: int, num_times: int) -> pa.Table:
    """Random queries of both directions."""
    generator, rows = np.random.default_rng(0), run.graph.rows()
    drawn = generator.integers(0, len(rows.time), number)
    times = np.array([*generator.choice(run.graph.times[len(run.graph.times) // 2 :], num_times, False), run.graph.end])
    pairs = (column.numpy().astype(np.int64)[drawn] for column in (rows.other, rows.relation))
    found = QueryRows.of(run, EncodedQueries(*pairs, times[generator.integers(0, len(times), number)]))
    return pa.table(found.columns)


class Usage:
    """What a process and all that descend from it take.

    Attributes:
        peak: The most proportional set size that they had together, in KiB.
    """

    def __init__(self, process: int) -> None:
        self.process, self.peak, self._ticks = process, 0, dict[int, int]()

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all, as far as they were looked at before they ended."""
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def look(self) -> None:
        """Look at them again."""
        self.peak = max(self.peak, self._look(self.process))

    def _look(self, process: int) -> int:
        total = 0
        try:
            folder = Path(f"/proc/{process}")
            rollup = (folder / "smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
            self._ticks[process] = sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:13]))
            for task in (folder / "task").iterdir():
                total += sum(self._look(int(child)) for child in (task / "children").read_text().split())
        except (OSError, StopIteration):  # it has just ended
            pass
        return total


def main() -> None:
    """Answer, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    run, queries = arguments.out / "run", arguments.out / "queries.parquet"
    if not queries.exists():
        run.mkdir(parents=True)
        for artifact in ("graph", "checkpoint", "state", "updates"):
            if (arguments.run / artifact).exists():
                (run / artifact).symlink_to((arguments.run / artifact).resolve())
        table = queries_of(TrainedRun.load(arguments.run), arguments.queries, arguments.times)
        pq.write_table(table, queries)
    config = yaml.safe_load((arguments.run / CONFIG).read_text())
    (arguments.out / "config.yaml").write_text(yaml.safe_dump(config | {"run_dir": str(run)}))
    settings = [f"predict.queries={queries}", f"predict.num_workers={arguments.workers}", "train.threads=1"]
    command = [sys.executable, "-m", "pipelines", "predict", str(arguments.out / "config.yaml"), *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with subprocess.Popen([*command, *arguments.overrides], env=environment) as process:
        usage = Usage(process.pid)
        while process.poll() is None:
            usage.look()
            time.sleep(0.5)
    seconds = time.monotonic() - started
    if process.returncode:
        sys.exit(process.returncode)
    parts = sorted(latest(run / "predictions").glob("predictions*.parquet"))
    number = pq.read_metadata(queries).num_rows
    figures = {
        "queries": number,
        "workers": arguments.workers,
        "seconds": round(seconds, 1),
        "queries_a_second": round(number / seconds),
        "cpu_seconds": round(usage.cpu_seconds),
        "peak_gib_of_all_processes": round(usage.peak / 2**20, 2),
        "files": len(parts),
        "rows": sum(pq.read_metadata(part).num_rows for part in parts),
        "output_mb": round(sum(part.stat().st_size for part in parts) / 1e6, 1),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
