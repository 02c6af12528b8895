"""Training from artifact to artifact, without Ray: what one process, torchrun's ranks and Ray's workers share.

`train_graph` is the loop over a trainer. It is handed a way to tell of progress and a way to keep checkpoints;
`LocalCheckpoints` keeps them in a folder that all ranks see.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gam_kg.artifacts import Manifest, stage_key, write_manifest, writing
from gam_kg.config import Config
from gam_kg.data.graph import TemporalGraph, read_names
from gam_kg.data.names import NameWords
from gam_kg.distributed.topology import Topology
from gam_kg.train import checkpoint
from gam_kg.train.loop import Progress, Trainer

WORDS = "words.json"
# What changes how training is done but not what comes out.
_OPERATIONAL = {"num_workers", "use_gpu", "threads", "max_failures", "checkpoint_steps", "max_logits"}

Write = Callable[[Path], None]
Keep = Callable[[Write, dict[str, Any]], None]


def train_graph(
    config: Config,
    graph_path: Path,
    *,
    topology: Topology,
    device: torch.device,
    latest: Path | None,
    tell: Callable[[Progress], None],
    keep: Keep,
) -> None:
    """Train on a prepared graph to the end. A collective.

    Args:
        config: The run's configuration.
        graph_path: The `graph/` artifact.
        topology: The ranks.
        device: Where to compute.
        latest: Checkpoint to continue from.
        tell: Told of every snapshot and epoch.
        keep: Given each new checkpoint, as a function that writes this rank's part into a folder, and the metrics if an
            epoch has just ended.

    Raises:
        ArtifactError: The graph or the checkpoint cannot be read.
        GamKGError: The loss is not finite.
    """
    graph, _ = TemporalGraph.load(graph_path, rank=topology.rank, world_size=topology.world_size)
    words = None
    if config.model.name_words:
        words = NameWords.of(read_names(graph_path, "entity").to_pylist(), known=graph.trained.tolist())
    trainer = Trainer(config, graph, words, device=device, topology=topology)
    if latest is not None:
        checkpoint.load(trainer, latest)

    def write(folder: Path) -> None:
        checkpoint.save(trainer, folder)
        if topology.rank == 0:
            (folder / WORDS).write_text(json.dumps(words.words if words else []), encoding="utf-8")

    for told in trainer.run():
        tell(told)
        if told.checkpoint:
            keep(write, told.metrics or {})


class LocalCheckpoints:
    """The last checkpoint, in a folder that all ranks see; a new one replaces it only when all ranks have written.

    Args:
        folder: Where to keep it.
        topology: The ranks.
    """

    def __init__(self, folder: Path, topology: Topology) -> None:
        self._topology = topology
        self.path, self._incoming, self._old = (folder / name for name in ("checkpoint", "incoming", "old"))

    def latest(self) -> Path | None:
        """The last whole checkpoint. A collective."""
        # A process stopped between the two renames has left the last one under its second name.
        if self._topology.rank == 0 and not self.path.exists() and self._old.exists():
            self._old.rename(self.path)
        self._topology.barrier()
        return self.path if self.path.exists() else None

    def keep(self, write: Write, _: dict[str, Any]) -> None:
        """Write a checkpoint. A collective."""
        if self._topology.rank == 0:
            shutil.rmtree(self._incoming, ignore_errors=True)
            self._incoming.mkdir(parents=True)
        self._topology.barrier()
        write(self._incoming)
        self._topology.barrier()
        if self._topology.rank == 0:
            shutil.rmtree(self._old, ignore_errors=True)
            if self.path.exists():
                self.path.rename(self._old)
            self._incoming.rename(self.path)
            shutil.rmtree(self._old, ignore_errors=True)


def checkpoint_manifest(config: Config, graph: Manifest) -> Manifest:
    """The manifest of the `checkpoint/` that a configuration makes of a graph, still without content."""
    inputs = {"graph": graph.id}
    settings = {
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json", exclude=_OPERATIONAL),
    }
    return Manifest("checkpoint", stage_key("checkpoint", inputs, settings), inputs, settings)


def write_checkpoint_artifact(path: Path, trained: Path, manifest: Manifest) -> dict[str, Any]:
    """Make `checkpoint/` of the last training checkpoint: the best weights, one file of rows a worker.

    Args:
        path: The artifact.
        trained: The training checkpoint.
        manifest: `checkpoint_manifest`.

    Returns:
        The content of the manifest.
    """
    position = json.loads((trained / "position.json").read_text(encoding="utf-8"))
    best = position["metrics"][position["best_epoch"] - 1]
    content = {"epochs": position["epoch"], "best_epoch": position["best_epoch"], "valid_mrr": best["valid_mrr"]}
    with writing(path) as staging:
        for weights in trained.glob("best-*.safetensors"):
            shutil.copy(weights, staging / weights.name.removeprefix("best-"))
        shutil.copy(trained / WORDS, staging)
        lines = (json.dumps(metrics) + "\n" for metrics in position["metrics"])
        (staging / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
        write_manifest(staging, Manifest(manifest.kind, manifest.key, manifest.inputs, manifest.config, content))
    return content


def describe(metrics: dict[str, Any]) -> str:
    """An epoch in a line."""
    return (
        f"epoch {metrics['epoch']}: loss {metrics['loss']:.3f}, validation MRR {100 * metrics['valid_mrr']:.2f}, "
        f"{metrics['facts_per_second']:.0f} facts/s, {metrics['seconds']:.0f} s, "
        f"{metrics['peak_memory_bytes'] / 2**30:.1f} GiB"
    )


def threads(config: Config) -> int:
    """CPU threads of a worker: as configured, or its share of half the CPUs this process may run on.

    The other half is often the same cores' second hyperthread, which is worth little, and a thread that waits for one
    held up by a busy neighbour is worth less than none.
    """
    return config.train.threads or max(1, len(os.sched_getaffinity(0)) // 2 // max(1, config.train.most_workers))
