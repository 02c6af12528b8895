"""Training without Ray: `python -m gam_kg.train CONFIG [a.b=value ...]`, alone or under torchrun.

It reads the run's `graph/` and writes its `checkpoint/`, both in a folder that all ranks see:

    torchrun --nproc-per-node 2 --master-addr 127.0.0.1 -m gam_kg.train configs/icews14.yaml
"""

import sys

import torch

from gam_kg.artifacts import read_manifest
from gam_kg.config import load_config
from gam_kg.distributed.process_group import process_group
from gam_kg.errors import ConfigError, GamKGError
from gam_kg.train.loop import Progress
from gam_kg.train.session import (
    LocalCheckpoints,
    checkpoint_manifest,
    describe,
    threads,
    train_graph,
    write_checkpoint_artifact,
)

_SNAPSHOTS_A_LINE = 50


def main(arguments: list[str]) -> None:
    """Train, on rank 0 telling of it.

    Args:
        arguments: The configuration file, then overrides.

    Raises:
        GamKGError: Something that the user can mend.
    """
    if not arguments:
        raise ConfigError("give a configuration file: python -m gam_kg.train CONFIG [a.b=value ...]")
    config = load_config(arguments[0], arguments[1:])
    torch.set_num_threads(threads(config))
    if config.train.use_gpu and not torch.cuda.is_available():
        raise ConfigError("train.use_gpu=true, but torch finds no CUDA device here; set train.use_gpu=false")
    graph_path = config.run_path / "graph"
    manifest = checkpoint_manifest(config, read_manifest(graph_path, "graph"))
    with process_group(use_gpu=config.train.use_gpu) as (topology, device):
        checkpoints = LocalCheckpoints(config.run_path / "training" / manifest.key, topology)
        train_graph(
            config,
            graph_path,
            topology=topology,
            device=device,
            latest=checkpoints.latest(),
            tell=_tell if topology.rank == 0 else lambda _: None,
            keep=checkpoints.keep,
        )
        if topology.rank == 0:
            content = write_checkpoint_artifact(config.run_path / "checkpoint", checkpoints.path, manifest)
            _say(f"checkpoint: best epoch {content['best_epoch']}, validation MRR {100 * content['valid_mrr']:.2f}")


def _tell(told: Progress) -> None:
    if told.metrics is not None:
        _say(describe(told.metrics))
    elif told.phase == "train" and told.done % _SNAPSHOTS_A_LINE == 0:
        _say(f"epoch {told.epoch}: {told.done}/{told.total} snapshots, loss {told.loss:.3f}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GamKGError as error:
        sys.exit(f"error: {error}")
