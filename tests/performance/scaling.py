"""Training steps on one rank and on several, with one thread each, measured in turns.

    python tests/performance/scaling.py RUN_FOLDER [--ranks 2] [--rounds 3] [--snapshots 48] [--first 200]

RUN_FOLDER has a prepared `graph/`. Each round trains the same snapshots in fresh processes, on one rank and then on
several, twice: as in a first epoch, in which batches are made, and as in a later one, for which they are cached.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from gam_kg.config import Config
from gam_kg.distributed.process_group import process_group
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.temporal_graph import TemporalGraph, read_names
from gam_kg.nn.model import ENTITY
from gam_kg.training.trainer import Trainer

WARM_UP = 16  # queries of ranks are gathered for this many snapshots at once


def measure(folder: Path, first: int, snapshots: int) -> dict[str, Any]:
    """One rank's part; rank 0's figures are the answer."""
    torch.set_num_threads(1)
    config = Config()
    with process_group(use_gpu=False) as (communicator, device):
        path = folder / "graph"
        graph, _ = TemporalGraph.load(path, rank=communicator.rank, world_size=communicator.world_size)
        words = NameWords.of(read_names(path, "entity").to_pylist(), known=graph.trained.tolist())
        trainer = Trainer(config, graph, words, communicator=communicator, device=device)
        epochs = [_steps(trainer, first, snapshots) for _ in range(2)]
        own = [trainer.model.entity, *trainer.optimizer.state[trainer.model.entity].values()]
        own += [*vars(trainer.memory).values(), trainer.model.trained]
        shared = [value for name, value in trainer.model.named_parameters() if name != ENTITY]
        return {
            "rank": communicator.rank,
            "first_epoch": _summary(epochs[0]),
            "later_epoch": _summary(epochs[1]),
            "entity_mb": sum(value.numel() * value.element_size() for value in own) / 1e6,
            "shared_mb": 3 * sum(value.numel() * value.element_size() for value in shared) / 1e6,
        }


def _steps(trainer: Trainer, first: int, snapshots: int) -> list[dict[str, Any]]:
    trainer.position.index, trainer.memory = first, trainer.model.empty_memory()
    steps = [progress.snapshot for _, progress in zip(range(WARM_UP + snapshots), trainer.run(), strict=False)]
    return [step for step in steps[WARM_UP:] if step is not None]


def _summary(steps: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = sum(step["seconds"] for step in steps)
    return {
        "ms_a_snapshot": 1000 * seconds / len(steps),
        "facts_a_second": sum(step["answers"] for step in steps) / 2 / seconds,
        "phases": _mean([step["phases"] for step in steps], 1000),
        "traffic_ms": _mean([{k: v[2] for k, v in step["traffic"].items()} for step in steps], 1000),
        "traffic_kb": _mean([{k: v[0] for k, v in step["traffic"].items()} for step in steps], 1e-3),
        "collectives": sum(v[1] for step in steps for v in step["traffic"].values()) / len(steps),
        "edges_max_over_mean": statistics.mean(step["edges_max_over_mean"] for step in steps),
    }


def _mean(steps: list[dict[str, float]], scale: float) -> dict[str, float]:
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: round(scale * sum(step.get(name, 0) for step in steps) / len(steps), 1) for name in names}


def _run(arguments: argparse.Namespace, ranks: int) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    own = [
        __file__,
        str(arguments.run),
        "--measure",
        f"--first={arguments.first}",
        f"--snapshots={arguments.snapshots}",
    ]
    command = [sys.executable, *(launcher if ranks > 1 else []), *own]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return next(found for line in done.stdout.splitlines() if (found := json.loads(line))["rank"] == 0)


def main() -> None:
    """Measure in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--snapshots", type=int, default=48)
    parser.add_argument("--first", type=int, default=200)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(arguments.run, arguments.first, arguments.snapshots)) + "\n")
        return
    found = [(_run(arguments, 1), _run(arguments, arguments.ranks)) for _ in range(arguments.rounds)]
    for epoch in ("first_epoch", "later_epoch"):
        facts = [[ranks[epoch]["facts_a_second"] for ranks in pair] for pair in found]
        ratios = [several / one for one, several in facts]
        for (one, several), ratio in zip(facts, ratios, strict=True):
            line = f"{one:.0f} facts/s on one rank, {several:.0f} on {arguments.ranks}: {ratio:.2f} times"
            sys.stdout.write(f"{epoch}: {line}\n")
        sys.stdout.write(f"{epoch}: median {statistics.median(ratios):.2f}\n")
    sys.stdout.write(f"{json.dumps(found[-1][0])}\n{json.dumps(found[-1][1])}\n")


if __name__ == "__main__":
    main()
