"""What `gam-kg plan` predicts against what training takes: peak memory and operations, in processes of one thread.

    python tests/performance/plan_check.py                                      # generated graphs, small and middle
    python tests/performance/plan_check.py CONFIG [a.b=value ...] [--steps-only]   # the prepared graph of a run

Two epochs are cut to their last `--snapshots` snapshots of training, so that the history is full. Memory is measured as
the growth of the process (`VmHWM`), which Linux has. Operations are counted in a third process, in the same snapshots.
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
from torch.utils.flop_counter import FlopCounterMode

from gam_kg.config import Config, load_config
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.temporal_graph import TemporalGraph, read_names
from gam_kg.plan.counts import count_graph
from gam_kg.plan.memory import BATCH_CACHE, BEST, NOT_RETURNED, memory_items, peak_bytes
from gam_kg.plan.operations import IN_PLACE, epoch_operations, unit_operations
from gam_kg.plan.workload import Workload
from gam_kg.training.trainer import Trainer

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


def trainer_of(config: Config) -> Trainer:
    graph, _ = TemporalGraph.load(config.run_path / "graph")
    words = None
    if config.model.name_words:
        names = read_names(config.run_path / "graph", "entity").to_pylist()
        words = NameWords.of(names, known=graph.trained.tolist())
    return Trainer(config, graph, words)


def measure(config: Config, snapshots: int, *, steps_only: bool) -> dict[str, Any]:
    """Bytes that the process has grown by when the steps of an epoch, and when two epochs, are over."""
    before = highest_bytes()
    trainer, found = trainer_of(config), {}
    for _ in range(1 if steps_only else 2):
        trainer.position.index = max(0, len(trainer.times) - snapshots)
        for progress in trainer.run():
            if progress.phase == "validate":
                found.setdefault("steps", highest_bytes() - before)
            if progress.metrics is not None or (steps_only and progress.phase == "validate"):
                break
    return found if steps_only else found | {"epochs": highest_bytes() - before}


def count(config: Config, snapshots: int) -> dict[str, Any]:
    """Operations of the steps of an epoch that is cut."""
    trainer = trainer_of(config)
    trainer.position.index = max(0, len(trainer.times) - snapshots)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        for progress in trainer.run():
            if progress.phase == "validate":
                break
    return {"flops": counter.get_total_flops()}


def predict(config: Config, snapshots: int) -> dict[str, Any]:
    """The same by the plan."""
    started = time.perf_counter()
    counts = count_graph(config.run_path / "graph")
    workload = Workload(config, counts, 1)
    units = unit_operations(config, counts)
    took = time.perf_counter() - started
    share = float(workload.steps[-snapshots:].sum() / workload.steps.sum())
    before = replace(counts, train=slice(0, max(0, counts.train.stop - snapshots)))
    operations = [epoch_operations(one, units) for one in (workload, Workload(config, before, 1))]
    whole, left_out = (sum(one.values()) - one["validation"] for one in operations)
    # The cache holds only the snapshots that are trained on.
    items = [
        item._replace(num_bytes=item.num_bytes * share) if item.name == BATCH_CACHE else item
        for item in memory_items(workload, 0.0)
    ]
    # Before the first epoch ends there is no best epoch and there was no validation.
    later = (BEST, NOT_RETURNED)
    first = [item for item in items if item.phase != "epoch end" and item.name not in later]
    return {"steps": peak_bytes(first), "epochs": peak_bytes(items), "flops": whole - left_out, "plan_took": took}


def compare(name: str, arguments: list[str], options: argparse.Namespace) -> None:
    """Print a line for one configuration."""
    more = [f"--snapshots={options.snapshots}", *(["--steps-only"] if options.steps_only else [])]
    measured, counted, predicted = (
        json.loads(_python([__file__, *arguments, *more, f"--part={part}"]).splitlines()[-1])
        for part in ("measure", "count", "predict")
    )
    line = {"case": name, "plan_took_s": round(predicted["plan_took"], 1)}
    for phase, number in measured.items():
        line[f"{phase}_planned_mib"], line[f"{phase}_measured_mib"] = (
            round(one / 2**20) for one in (predicted[phase], number)
        )
        line[f"{phase}_ratio"] = round(predicted[phase] / number, 2)
    line["flops_ratio"] = round(predicted["flops"] / counted["flops"], 2)
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
    parser.add_argument("--part", choices=["measure", "count", "predict"], help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if options.config is None:
        generated(options)
        return
    if options.part is None:
        compare(options.config, [options.config, *options.overrides], options)
        return
    torch.set_num_threads(1)
    config = load_config(options.config, options.overrides)
    if options.part == "measure":
        found = measure(config, options.snapshots, steps_only=options.steps_only)
    else:
        found = {"count": count, "predict": predict}[options.part](config, options.snapshots)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
