"""Training without Ray: `python -m gam_kg.train CONFIG [a.b=value ...]`, alone or under torchrun.

It reads the run's `graph/` and writes its `checkpoint/`, both in a folder that all ranks see:

    torchrun --nproc-per-node 2 --master-addr 127.0.0.1 -m gam_kg.train configs/icews14.yaml
"""

import sys
from contextlib import ExitStack, nullcontext

import torch

from gam_kg.artifacts import Manifest, read_manifest, write_artifact
from gam_kg.config import load_config
from gam_kg.distributed.process_group import process_group
from gam_kg.errors import ConfigError, GamKGError
from gam_kg.progress import Advance, progress_lines
from gam_kg.train.run import (
    LocalCheckpoints,
    checkpoint_settings,
    compute_device,
    describe_checkpoint,
    threads,
    train_graph,
    write_checkpoint,
)
from gam_kg.train.training_log import TrainingLog


def main(arguments: list[str]) -> None:
    """Train; rank 0 shows progress, logs it and writes the artifact.

    Args:
        arguments: The configuration file, then overrides.

    Raises:
        GamKGError: The configuration, the graph or the checkpoint cannot be used, or the loss is not finite.
    """
    if not arguments:
        raise ConfigError("give a configuration file: python -m gam_kg.train CONFIG [a.b=value ...]")
    config = load_config(arguments[0], arguments[1:])
    torch.set_num_threads(threads(config))
    compute_device(config)
    graph_path = config.run_path / "graph"
    manifest = Manifest.of("checkpoint", {"graph": read_manifest(graph_path, "graph").id}, checkpoint_settings(config))
    with process_group(use_gpu=config.train.use_gpu) as (communicator, device), ExitStack() as stack:
        checkpoints = LocalCheckpoints(config.run_path / "training" / manifest.key, communicator)
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
        )
        if communicator.rank == 0:
            path = config.run_path / "checkpoint"
            written = write_artifact(path, manifest, lambda folder: write_checkpoint(folder, checkpoints.path))
            _print(f"checkpoint: {describe_checkpoint(written.content)}")


def _lines(description: str, total: int) -> nullcontext[Advance]:
    return nullcontext(progress_lines(description, total, "snapshots", _print))


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GamKGError as error:
        sys.exit(f"error: {error}")
