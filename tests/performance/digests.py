"""What digests of files and flushing them to disk cost, alone and as a share of a stage.

    python tests/performance/digests.py [--entities 100000] [--facts 500000]

Hashes of the standard library are compared on memory. Then a generated graph with untrained weights is embedded as the
command does it. Printed are lines of JSON.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from gam_kg.artifacts import Manifest, describe, open_artifact, write_artifact
from gam_kg.config import Config, load_config
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.inference.embed import write_embeddings
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.nn.model import GAMLSTM
from gam_kg.output import flush_all
from gam_kg.training.checkpoint import save_weights

HASHES = ("sha256", "sha1", "blake2b", "blake2s", "sha512", "sha3_256", "md5")


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = perf_counter()
    work()
    return perf_counter() - started


def show(**values: Any) -> None:
    """Print a line."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def hashes() -> None:
    """GB/s of one thread, the best of five."""
    data = os.urandom(2**26)
    for name in HASHES:
        best = min(seconds(lambda name=name: hashlib.new(name, data)) for _ in range(5))
        show(hash=name, gb_per_s=round(len(data) / best / 1e9, 2))


def prepared(folder: Path, entities: int, facts: int) -> Config:
    """A run with a generated graph and untrained weights."""
    overrides = [f"data.facts={folder / 'facts'}", f"run_dir={folder / 'run'}", "data.time_unit=1", "model.dim=200"]
    (folder / "empty.yaml").touch()
    sizes = ["--relations=100", "--snapshots=200", f"--entities={entities}", f"--facts={facts}"]
    for command in (["generate", folder / "facts", *sizes], ["prepare", folder / "empty.yaml", *overrides]):
        subprocess.run([sys.executable, "-m", "pipelines", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    config = load_config(None, [*overrides, "model.name_words=false"])
    graph, manifest = TemporalGraph.load(config.run_path / "graph")
    model = GAMLSTM(config.model, graph.trained_relations, graph.trained, None, partition=graph.partition, seed=0)
    described = Manifest.of("checkpoint", {"graph": manifest.id}, {"model": config.model.model_dump(mode="json")})

    def write(staging: Path) -> dict[str, Any]:
        save_weights(model.state_dict(), staging, graph.partition)
        return {}

    write_artifact(config.run_path / "checkpoint", described, write)
    return config


def embed(run: TrainedRun, staging: Path) -> dict[str, Any]:
    """Write the embeddings after the last fact."""
    write_embeddings(run, run.graph.end - 1, staging)
    return {}


def stage(run_path: Path) -> None:
    """The parts of an embed stage, in seconds."""
    kinds = ("graph", "checkpoint")
    verify = seconds(lambda: [open_artifact(run_path / kind, kind) for kind in kinds])
    loaded: list[TrainedRun] = []
    load = seconds(lambda: loaded.append(TrainedRun.load(run_path, verified=True)))
    whole = seconds(
        lambda: write_artifact(
            run_path / "embeddings", Manifest.of("embeddings", {}, {}), lambda at: embed(*loaded, at)
        )
    )
    staging = run_path / "unflushed"
    staging.mkdir()
    embed(*loaded, staging)
    flush = seconds(lambda: flush_all(staging))
    digest = seconds(lambda: describe(staging, [path for path in staging.iterdir() if path.is_file()]))
    size = sum(path.stat().st_size for kind in (*kinds, "embeddings") for path in (run_path / kind).rglob("*.*"))
    show(
        mb=round(size / 1e6),
        verify_s=verify,
        load_s=load,
        write_s=whole,
        of_that_flush_s=flush,
        of_that_digest_s=digest,
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--facts", type=int, default=500_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hashes()
    with tempfile.TemporaryDirectory() as name:
        stage(prepared(Path(name), arguments.entities, arguments.facts).run_path)


if __name__ == "__main__":
    main()
