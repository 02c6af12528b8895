"""What training steps of a configuration take, somewhere in an epoch, on one rank with one thread.

    python tests/performance/steps.py CONFIG [a.b=value ...] [--first 300] [--snapshots 6]

The run of CONFIG has a prepared `graph/`. Snapshots before the first are inserted into the history, not trained on; two
more are trained on before what is measured.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch

from gam_kg.config import Config, load_config
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.temporal_graph import TemporalGraph, read_names
from gam_kg.training.trainer import Trainer

WARM_UP = 2


def build_trainer(config: Config) -> Trainer:
    """A trainer at the start of the prepared graph of a run, in this process alone."""
    path = config.run_path / "graph"
    graph, _ = TemporalGraph.load(path)
    words = None
    if config.model.name_words:
        words = NameWords.of(read_names(path, "entity").to_pylist(), known=graph.trained.tolist())
    return Trainer(config, graph, words)


def main() -> None:
    """Train some snapshots and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--first", type=int, default=300)
    parser.add_argument("--snapshots", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trainer = build_trainer(load_config(arguments.config, arguments.overrides))
    trainer.position.index = arguments.first
    run = trainer.run()
    for _ in range(WARM_UP):
        next(run)
    started, steps = time.process_time(), []
    for _ in range(arguments.snapshots):
        snapshot = next(run).snapshot
        assert snapshot is not None, "that is the end of the epoch"
        steps.append(snapshot)
    busy = time.process_time() - started
    seconds, answers = (sum(one[name] for one in steps) for name in ("seconds", "answers"))
    phases = {name: sum(one["phases"].get(name, 0.0) for one in steps) / len(steps) for name in steps[0]["phases"]}
    found = {
        "entities": trainer.graph.num_entities,
        "ms_a_snapshot": round(1000 * seconds / len(steps)),
        "cpu_ms_a_snapshot": round(1000 * busy / len(steps)),
        "us_a_fact": round(2e6 * seconds / answers),
        "phases_ms": {name: round(1000 * value) for name, value in phases.items()},
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
