"""Training without Ray: `python -m gam_kg.training CONFIG [a.b=value ...] [--take-over]`, alone or under torchrun.

It reads the run's `graph/` and writes its `checkpoint/`, both in a folder that all ranks see:

    torchrun --nproc-per-node 2 --master-addr 127.0.0.1 -m gam_kg.training configs/icews14.yaml
"""

import sys
from contextlib import ExitStack, nullcontext

import torch

from gam_kg.artifacts import Manifest, open_artifact, read_manifest, write_artifact
from gam_kg.config import load_config
from gam_kg.distributed.process_group import process_group
from gam_kg.errors import ConfigError, exit_status
from gam_kg.ops.precision import require_precision
from gam_kg.progress import Advance, progress_lines
from gam_kg.run_config import checkpoint_settings, require_same_settings, write_config
from gam_kg.run_folder import graph_to_train, place_to_write, settle
from gam_kg.run_lock import run_lock
from gam_kg.storage import is_remote
from gam_kg.text import printable
from gam_kg.training.run import (
    LocalCheckpoints,
    batches_ahead,
    compute_device,
    describe_checkpoint,
    threads,
    train_graph,
    write_checkpoint,
)
from gam_kg.training.training_log import TrainingLog


def main(arguments: list[str]) -> None:
    """Train; rank 0 shows progress, logs it and writes the artifact.

    Args:
        arguments: The configuration file, then overrides; `--take-over` replaces a stale lock of the run.

    Raises:
        GamKGError: The configuration, the graph or the checkpoint cannot be used, another process writes into the run,
            or the loss is not finite.
    """
    take_over = "--take-over" in arguments
    arguments = [argument for argument in arguments if argument != "--take-over"]
    if not arguments:
        raise ConfigError("give a configuration file: python -m gam_kg.training CONFIG [a.b=value ...]")
    config = load_config(arguments[0], arguments[1:])
    torch.set_num_threads(threads(config))
    read_ahead = batches_ahead(config)
    compute_device(config)
    require_precision(config.train.precision, use_gpu=config.train.use_gpu)
    if is_remote(config.run_dir):
        raise ConfigError(f"run_dir={config.run_dir}: give a folder that all ranks see; `gam-kg train` takes a URI")
    run = config.run_path
    read_manifest(graph_to_train(run), "graph")  # first, since the lock makes the folder of the run
    with process_group(use_gpu=config.train.use_gpu) as (communicator, device), ExitStack() as stack:

        def enter() -> None:
            if communicator.rank == 0:
                stack.enter_context(run_lock(run, "train", take_over=take_over))
                settle(run)

        communicator.together(enter)
        graph_path, share = graph_to_train(run), (communicator.rank, communicator.world_size)
        graph = communicator.together(lambda: open_artifact(graph_path, "graph", share=share))
        require_same_settings("train", config, {graph_path: graph})
        manifest = Manifest.of("checkpoint", {"graph": graph.id}, checkpoint_settings(config))
        checkpoints = LocalCheckpoints(run / "training" / manifest.key, communicator)
        latest, log = checkpoints.latest(), None
        if communicator.rank == 0:
            log = stack.enter_context(TrainingLog(config, anew=latest is None, open_progress=_lines, print_line=_print))
        train_graph(
            config,
            graph_path,
            communicator=communicator,
            device=device,
            latest=latest,
            on_event=log or (lambda _: None),
            save=checkpoints.save,
            read_ahead=read_ahead,
        )
        if communicator.rank == 0:
            path = place_to_write(run, "checkpoint")
            written = write_artifact(path, manifest, lambda folder: write_checkpoint(folder, checkpoints.path))
            settle(run)
            write_config(config)
            _print(f"checkpoint: {describe_checkpoint(written.content)}")


def _lines(description: str, total: int) -> nullcontext[Advance]:
    return nullcontext(progress_lines(description, total, "snapshots", _print))


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    with exit_status(lambda message: _print(f"error: {printable(message)}")):
        main(sys.argv[1:])
