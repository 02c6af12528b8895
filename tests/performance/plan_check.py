"""What `gam-kg plan` foretells against what training takes: peak memory and time, in fresh processes of one thread.

    python tests/performance/plan_check.py                                      # generated graphs, small and middle
    python tests/performance/plan_check.py CONFIG [a.b=value ...] [--steps-only]   # the prepared graph of a run

Two epochs are cut to their last `--snapshots` snapshots of training, so that the history is full. Measured is what the
process grows by (`VmHWM`), which is Linux's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gam_kg.config import Config, load_config
from gam_kg.data.graph import TemporalGraph, read_names
from gam_kg.data.names import NameWords
from gam_kg.train.loop import Trainer
from gam_kg.train.plan_cost import calibrate, epoch_seconds
from gam_kg.train.plan_counts import count_graph
from gam_kg.train.plan_memory import BEST_WEIGHTS, KEPT_WALKS, NOT_GIVEN_BACK, Item, memory_items, peak_bytes
from gam_kg.train.plan_sizes import WorkerSizes

GRAPHS = {
    "small": ["--entities=2000", "--relations=30", "--facts=40000", "--snapshots=100"],
    "middle": ["--entities=100000", "--relations=200", "--facts=500000", "--snapshots=100"],
}
CANDIDATES = ("one_vs_all", "sampled")
SETTINGS = ["data.time_unit=1", "model.dim=100", "train.valid_facts=1000", "train.num_negatives=1000"]


def highest_bytes() -> int:
    """The most memory this process has had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def measure(config: Config, snapshots: int, *, steps_only: bool) -> dict[str, Any]:
    """Train a little; bytes that the process has grown by when the steps and when two epochs are over."""
    torch.set_num_threads(1)
    before = highest_bytes()
    graph, _ = TemporalGraph.load(config.run_path / "graph")
    words = None
    if config.model.name_words:
        names = read_names(config.run_path / "graph", "entity").to_pylist()
        words = NameWords.of(names, known=graph.trained.tolist())
    trainer = Trainer(config, graph, words)
    found: dict[str, Any] = {"start": highest_bytes() - before}
    for epoch in ("steps", "epochs")[: 1 if steps_only else 2]:
        trainer.position.index = max(0, len(trainer.times) - snapshots)
        seconds, ended = [], epoch == "epochs"
        for told in trainer.run():
            if told.snapshot is not None:
                seconds.append(told.snapshot["seconds"])
            if told.phase == "validate" and epoch not in found:
                found.setdefault("steps", highest_bytes() - before)
                # The first goes through all snapshots that were left out.
                found.setdefault("seconds", sum(seconds[1:]) / max(1, len(seconds) - 1))
                if steps_only:
                    return found
            if told.metrics is not None:
                break
        if ended:
            found["epochs"] = highest_bytes() - before
    return found


def foretell(config: Config, snapshots: int) -> dict[str, Any]:
    """The same by the plan."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    sizes = WorkerSizes(config, count_graph(config.run_path / "graph", config), 1)
    share = snapshots_share(sizes, snapshots)
    # Of the snapshots that are left out no walks are kept.
    items = [
        replace(item, num_bytes=item.num_bytes * share) if item.name == KEPT_WALKS else item
        for item in memory_items(sizes, 0.0)
    ]
    rates = calibrate(sizes, "cpu")
    took = time.perf_counter() - started
    in_train = epoch_seconds(sizes, rates)
    return {
        "steps": peak_bytes(_first_epoch(items)),
        "epochs": peak_bytes(items),
        "seconds": sum(in_train.values()) * share / snapshots,
        "plan_took": took,
    }


def _first_epoch(items: list[Item]) -> list[Item]:
    """Before the first epoch ends there are no best weights and no validation."""
    later = (BEST_WEIGHTS, NOT_GIVEN_BACK)
    return [item for item in items if item.phase != "epoch end" and item.name not in later]


def snapshots_share(sizes: WorkerSizes, snapshots: int) -> float:
    """Steps of the last snapshots of training among those of all."""
    return float(sizes.steps[-snapshots:].sum() / sizes.steps.sum())


def compare(name: str, arguments: list[str], options: argparse.Namespace) -> None:
    """Print a line for one configuration."""
    more = [f"--snapshots={options.snapshots}", *(["--steps-only"] if options.steps_only else [])]
    found, told = (
        json.loads(_python([__file__, *arguments, *more, f"--part={part}"]).splitlines()[-1])
        for part in ("measure", "foretell")
    )
    line = {"case": name, "plan_took_s": round(told["plan_took"], 1)}
    for phase in ("steps", "epochs"):
        if phase in found:
            line[f"{phase}_planned_mib"], line[f"{phase}_measured_mib"] = (
                round(one[phase] / 2**20) for one in (told, found)
            )
            line[f"{phase}_ratio"] = round(told[phase] / found[phase], 2)
    line |= {"snapshot_planned_s": round(told["seconds"], 2), "snapshot_measured_s": round(found["seconds"], 2)}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _python(arguments: list[str]) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def generated(options: argparse.Namespace) -> None:
    """Compare on graphs made for it."""
    with tempfile.TemporaryDirectory() as folder:
        for name, sizes in GRAPHS.items():
            facts, config = Path(folder) / name, Path(folder) / f"{name}.yaml"
            config.write_text(f"run_dir: {folder}/run-{name}\ndata:\n  facts: {facts}\n")
            _python(["-m", "pipelines", "generate", str(facts), *sizes])
            _python(["-m", "pipelines", "prepare", str(config), *SETTINGS])
            for candidates in CANDIDATES:
                arguments = [str(config), *SETTINGS, f"train.candidates={candidates}"]
                compare(f"{name}, {candidates}", arguments, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--snapshots", type=int, default=3)
    parser.add_argument("--steps-only", action="store_true", help="no validation")
    parser.add_argument("--part", choices=["measure", "foretell"], help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if options.config is None:
        generated(options)
    elif options.part is None:
        compare(options.config, [options.config, *options.overrides], options)
    else:
        config = load_config(options.config, options.overrides)
        found = (
            measure(config, options.snapshots, steps_only=options.steps_only)
            if options.part == "measure"
            else foretell(config, options.snapshots)
        )
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
