"""How training time grows with entities, facts and the length of the history: whole epochs over generated graphs.

    python tests/performance/growth.py [--scale 1.0] [a.b=value ...]

Ten times the facts in as many snapshots; ten times the entities at the same facts; ten times the snapshots of as many
facts each. One epoch over sampled candidates each, in fresh processes of one thread, one after another; the smallest
graph comes first and again last, which tells how much the machine has changed meanwhile. Printed is a line of JSON a
graph, and the ratios.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from gam_kg.config import load_config
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.training.trainer import Trainer

SETTINGS = ["data.time_unit=1", "model.dim=100", "train.candidates=sampled", "train.valid_facts=100"]


@dataclass(frozen=True)
class Size:
    """Of a generated graph."""

    entities: int
    facts: int
    snapshots: int

    def times(self, entities: int = 1, facts: int = 1, snapshots: int = 1) -> "Size":
        return Size(self.entities * entities, self.facts * facts, self.snapshots * snapshots)


def measure(config_path: Path, overrides: list[str]) -> dict[str, float]:
    """Train an epoch of a prepared graph."""
    torch.set_num_threads(1)
    config = load_config(config_path, overrides)
    graph, _ = TemporalGraph.load(config.run_path / "graph")
    trainer = Trainer(config, graph)
    seconds, answers = 0.0, 0
    for progress in trainer.run():
        if progress.snapshot is None:
            break
        seconds, answers = seconds + progress.snapshot["seconds"], answers + progress.snapshot["answers"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"train_s": round(seconds, 1), "us_a_fact": round(2e6 * seconds / answers, 1), "peak_gib": round(peak, 2)}


def epoch_of(size: Size, folder: Path, overrides: list[str]) -> dict[str, float]:
    """Generate and prepare a graph where that is not done, then train an epoch in a process of its own."""
    name = "-".join(str(number) for number in asdict(size).values())
    facts, config = folder / f"facts-{name}", folder / f"{name}.yaml"
    if not config.exists():
        sizes = [f"--{key}={value}" for key, value in asdict(size).items()]
        _python(["-m", "pipelines", "generate", str(facts), "--relations=100", *sizes])
        config.write_text(f"run_dir: {folder}/run-{name}\ndata:\n  facts: {facts}\n")
        _python(["-m", "pipelines", "prepare", str(config), *SETTINGS])
    found = json.loads(_python([__file__, "--measure", str(config), *SETTINGS, *overrides]).splitlines()[-1])
    sys.stdout.write(json.dumps({**asdict(size), **found}) + "\n")
    sys.stdout.flush()
    return found


def _python(arguments: list[str]) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Print a line a graph, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--scale", type=float, default=1.0, help="of the entities and facts of all graphs")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        sys.stdout.write(json.dumps(measure(arguments.measure, arguments.overrides)) + "\n")
        return
    small = Size(round(20_000 * arguments.scale), round(100_000 * arguments.scale), 100)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dense = small.times(facts=10)
        sizes = [small, dense, dense.times(entities=10), dense.times(snapshots=10), small]
        first, facts, entities, history, again = (epoch_of(size, folder, arguments.overrides) for size in sizes)
    base = (first["us_a_fact"] + again["us_a_fact"]) / 2
    ratios = {
        "the smallest graph again, time a fact": again["us_a_fact"] / first["us_a_fact"],
        "10 x the facts in as many snapshots, time": 10 * facts["us_a_fact"] / base,
        "10 x the entities at the same facts, time a fact": entities["us_a_fact"] / facts["us_a_fact"],
        "10 x the snapshots of as many facts, time a fact": history["us_a_fact"] / base,
    }
    sys.stdout.write(json.dumps({name: round(ratio, 2) for name, ratio in ratios.items()}) + "\n")


if __name__ == "__main__":
    main()
