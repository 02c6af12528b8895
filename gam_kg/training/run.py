"""Training from artifact to artifact, without Ray: what one process, torchrun's ranks and Ray's workers share.

`train_graph` is the loop over a trainer. `LocalCheckpoints` stores checkpoints in a folder that all ranks see.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gam_kg.artifacts import Content, read_json
from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import ConfigError, writing
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.ops.out_of_memory import naming_knobs
from gam_kg.ops.precision import require_precision
from gam_kg.output import flush, remove
from gam_kg.run_lock import require_lock
from gam_kg.training import checkpoint
from gam_kg.training.batch_workers import ended_workers_named
from gam_kg.training.calibration import calibrate
from gam_kg.training.position import Progress
from gam_kg.training.trainer import Trainer

WORDS = "words.json"
BATCHES_AHEAD = 2
"""Measured: 4 are no faster, since a batch is made in less time than its step takes."""

MOST_BATCH_WORKERS = 12
"""Each inserts all snapshots into a history of its own, which takes a tenth of the time of making all batches: by this
12 are about twice as fast as 4, and 24 a quarter faster than 12, for as many histories in memory."""

Write = Callable[[Path], None]
Save = Callable[[Write, dict[str, Any]], None]


def train_graph(
    config: Config,
    graph_path: Path,
    *,
    communicator: Communicator,
    device: torch.device,
    latest: Path | None,
    on_event: Callable[[Progress], None],
    save: Save,
    read_ahead: int | None = None,
) -> None:
    """Train on a prepared graph to the end. A collective.

    Args:
        config: The run's configuration.
        graph_path: The `graph/` artifact.
        communicator: The ranks.
        device: Where to compute.
        latest: Checkpoint to continue from.
        on_event: Receives every snapshot and epoch.
        save: Receives each new checkpoint, as a function that writes this rank's part into a folder, and the metrics
            if an epoch has just ended.
        read_ahead: See `Trainer`.

    Raises:
        ArtifactError: The graph or the checkpoint cannot be read.
        ConfigError: See `require_precision`.
        GamKGError: The loss is not finite.
        OutOfMemoryError: Memory ran out.
    """
    require_precision(config.train.precision, use_gpu=device.type != "cpu")
    knobs = knobs_of_training(config)
    with naming_knobs(lambda: "training, before its first step", *knobs):
        graph, manifest = TemporalGraph.load(graph_path, rank=communicator.rank, world_size=communicator.world_size)
        words = NameWords.stored(graph_path, manifest, of_names=config.model.name_words, known=graph.trained.tolist())
        trainer = Trainer(
            config,
            graph,
            words,
            device=device,
            communicator=communicator,
            read_ahead=read_ahead,
            batch_workers=batch_processes(config),
        )
        if latest is not None:
            checkpoint.require_undamaged(latest, communicator)
            checkpoint.load(trainer, latest)

    def write(folder: Path) -> None:
        with writing(folder):
            checkpoint.save(trainer, folder)
            if communicator.rank == 0:
                (folder / WORDS).write_text(json.dumps(words.words if words else []), encoding="utf-8")
            checkpoint.seal(folder, graph.partition)

    with (
        naming_knobs(lambda: f"training, {trainer.position.text(len(trainer.times))}", *knobs),
        ended_workers_named(),
        closing(trainer.run()) as events,
    ):
        for event in events:
            on_event(event)
            if event.checkpoint:
                if trainer.finished:
                    calibrate(trainer)
                save(write, event.metrics or {})


def knobs_of_training(config: Config) -> tuple[str, ...]:
    """Settings with which a training needs less memory, those that change no result first."""
    train = config.train
    knobs = [f"train.max_logits={max(1, train.max_logits // 4)}", f"train.num_workers={2 * max(1, train.most_workers)}"]
    if train.use_gpu and train.cuda_graphs:
        knobs.append("train.cuda_graphs=false")
    if batch_processes(config):
        knobs.append("train.batch_workers=0")
    if train.candidates == "sampled":
        knobs.append(f"train.num_negatives={max(1, train.num_negatives // 2)}")
    else:
        knobs.append("train.candidates=sampled")
    return *knobs, f"train.answers_per_step={max(1, train.step_answers // 2)}", "a smaller model.dim"


class LocalCheckpoints:
    """The last checkpoint, in a folder that all ranks see; a new one replaces it only when all ranks have written.

    Args:
        folder: Where it is.
        communicator: The ranks.
    """

    def __init__(self, folder: Path, communicator: Communicator) -> None:
        self._communicator = communicator
        self.path, self._incoming, self._old = (folder / name for name in ("checkpoint", "incoming", "old"))

    def latest(self) -> Path | None:
        """The last whole checkpoint. A collective."""
        # A process stopped between the two renames has left the last one under its second name, on whichever machine.
        if self._communicator.rank == 0 and not self.path.exists() and self._old.exists():
            self._old.rename(self.path)
        self._communicator.barrier()
        return self.path if self.path.exists() else None

    def save(self, write: Write, _: dict[str, Any]) -> None:
        """Write a checkpoint. A collective.

        Raises:
            OutputError: It cannot be written.
            RunInUseError: The run's lock is lost.
        """
        together, is_first = self._communicator.together, self._communicator.rank == 0
        together(self._make_room if is_first else lambda: None)
        together(lambda: write(self._incoming))
        together(self._put_in_place if is_first else lambda: None)

    def _make_room(self) -> None:
        with writing(self._incoming):
            remove(self._incoming)
            self._incoming.mkdir(parents=True)

    def _put_in_place(self) -> None:
        with writing(self.path.parent):
            require_lock(self.path)
            remove(self._old)
            if self.path.exists():
                self.path.rename(self._old)
            self._incoming.rename(self.path)
            flush(self.path.parent)
            remove(self._old)


def write_checkpoint(folder: Path, trained: Path) -> Content:
    """Write the files of `checkpoint/`: weights and optimizer state of the best epoch, and the metrics of all epochs.

    Args:
        folder: Where to write.
        trained: The last training checkpoint.

    Raises:
        ArtifactError: The training checkpoint is damaged.
        EvaluationError: A weight is NaN or infinite.
    """
    checkpoint.require_undamaged(trained)
    position = read_json(trained / "position.json", "training")
    best = position["metrics"][position["best_epoch"] - 1]
    for file in trained.glob("best-*.safetensors"):
        checkpoint.require_finite_weights(load_file(file), trained)
        shutil.copy(file, folder / file.name.removeprefix("best-"))
    shutil.copy(trained / WORDS, folder)
    lines = (json.dumps(metrics) + "\n" for metrics in position["metrics"])
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return {
        "epochs": position["epoch"],
        "best_epoch": position["best_epoch"],
        "valid_mrr": best["valid_mrr"],
        "temperatures": position["temperatures"],
    }


def describe(metrics: dict[str, Any]) -> str:
    """An epoch in a line."""
    return (
        f"epoch {metrics['epoch']}: loss {metrics['loss']:.3f}, validation MRR {100 * metrics['valid_mrr']:.2f}, "
        f"{metrics['facts_per_second']:.0f} facts/s, {metrics['seconds']:.0f} s, "
        f"{metrics['peak_memory_bytes'] / 2**30:.1f} GiB"
    )


def describe_checkpoint(content: Content) -> str:
    """`checkpoint/` in a line."""
    return f"best epoch {content['best_epoch']} of {content['epochs']}, validation MRR {100 * content['valid_mrr']:.2f}"


def threads(config: Config) -> int:
    """CPU threads of a worker: as configured, or its share of half the CPUs this process may run on.

    The other half is often the same cores' second hyperthread, which is worth little, and less than nothing when the
    other threads wait for it.
    """
    return config.train.threads or max(1, len(os.sched_getaffinity(0)) // 2 // max(1, config.train.most_workers))


def batches_ahead(config: Config) -> int:
    """Batches that a worker makes ahead of their steps: as configured, or some where another thread can make them.

    Call it before the ranks of this machine are bound to CPUs of their own.
    """
    train = config.train
    if train.read_ahead is not None:
        return train.read_ahead
    workers = max(train.most_workers, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
    spare = len(os.sched_getaffinity(0)) > workers * threads(config)
    return BATCHES_AHEAD if train.use_gpu or spare else 0


def batch_processes(config: Config, trainings: int = 1) -> int:
    """Processes that make batches: as configured, or some where a GPU would wait for one alone.

    Args:
        config: The configuration.
        trainings: How many trainings share the CPUs of this machine.
    """
    if config.train.batch_workers is not None:
        return config.train.batch_workers
    spare = (len(os.sched_getaffinity(0)) - 2) // trainings
    return max(1, min(MOST_BATCH_WORKERS, spare)) if config.train.use_gpu else 0


def compute_device(config: Config) -> str:
    """The configured device.

    Raises:
        ConfigError: A GPU is configured and there is none.
    """
    if not config.train.use_gpu:
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError("train.use_gpu=true, but torch finds no CUDA device here; set train.use_gpu=false")
    return "cuda"
