"""Checkpoints: safetensors and JSON, one file of rows per rank; never a pickle.

A training checkpoint is a folder from which trainers on any number of ranks continue:

    model.safetensors                      weights that are the same on all ranks
    optimizer.safetensors                  their optimizer state
    entities-00000-of-00002.safetensors    weights of the entities that rank 0 of 2 owns, with their ids
    training-00000-of-00002.safetensors    their optimizer state and memory
    best-*.safetensors                     the weights of the best epoch so far
    position.json                          where training stands
    words.json                             the words of names that have weights; `train.run` adds it

The `checkpoint/` artifact of a run holds the best weights only, under the names of weights, with the words of names and
the metrics of the epochs.
"""

import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gam_kg.artifacts import Manifest, read_manifest, require_same
from gam_kg.config import ModelConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import ArtifactError
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.partition import Partition
from gam_kg.graph.temporal_graph import TemporalGraph, read_names
from gam_kg.nn.model import ENTITY, GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.train.position import Position
from gam_kg.train.trainer import Trainer

_MOMENTS = ("exp_avg", "exp_avg_sq")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


def save(trainer: Trainer, folder: Path) -> None:
    """Write a rank's part of a training checkpoint."""
    partition, optimizer = trainer.model.partition, trainer.optimizer
    save_weights(trainer.model.state_dict(), folder, partition)
    if trainer.best_weights:
        save_weights(trainer.best_weights, folder, partition, prefix="best-")
    own, shared = dict(vars(trainer.memory)), {}
    for name, parameter in trainer.model.named_parameters():
        for key, value in optimizer.state[parameter].items():  # there is no state before the first step
            if name != ENTITY:
                shared[f"{name}.{key}"] = value
            elif key in _MOMENTS:
                own[f"{name}.{key}"] = value
    save_rows(own, folder, "training", partition)
    if partition.rank == 0:
        save_file(shared, folder / "optimizer.safetensors")
        (folder / "position.json").write_text(json.dumps(asdict(trainer.position), indent=2), encoding="utf-8")


def load(trainer: Trainer, folder: Path) -> None:
    """Continue from a training checkpoint, written by any number of ranks.

    Raises:
        ArtifactError: The checkpoint is of another model or incomplete.
    """
    model, partition, device = trainer.model, trainer.model.partition, trainer.memory.hidden.device
    weights = _weights_for(model, folder)
    own = load_rows(folder, "training", partition, device)
    with _complete(folder):
        shared = load_file(folder / "optimizer.safetensors", device=str(device))
        position = json.loads((folder / "position.json").read_text(encoding="utf-8"))
    model.load_state_dict(weights)
    step = next((value for name, value in shared.items() if name.endswith(".step")), None)
    if step is not None:
        for name, parameter in model.named_parameters():
            found = own if name == ENTITY else shared
            moments = {moment: found[f"{name}.{moment}"] for moment in _MOMENTS}
            trainer.optimizer.state[parameter] = {"step": step.clone(), **moments}
    trainer.memory = Memory(own["hidden"], own["cell"], own["last_seen"])
    trainer.position = Position(**position)
    if trainer.position.best_epoch:
        trainer.best_weights = load_weights(folder, partition, prefix="best-", device=device)


def save_weights(weights: Mapping[str, Tensor], folder: Path, partition: Partition, prefix: str = "") -> None:
    """Write a rank's weights: its rows, and on rank 0 the weights that are the same on all ranks."""
    save_rows({ENTITY: weights[ENTITY]}, folder, f"{prefix}entities", partition)
    if partition.rank == 0:
        shared = {name: value.contiguous() for name, value in weights.items() if name != ENTITY}
        save_file(shared, folder / f"{prefix}model.safetensors")


def load_weights(
    folder: Path, partition: Partition, prefix: str = "", device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Read what `save_weights` wrote, on any number of ranks, as this rank has it.

    Raises:
        ArtifactError: A file is missing or damaged.
    """
    with _complete(folder):
        shared = load_file(folder / f"{prefix}model.safetensors", device=str(device))
    return {**shared, **load_rows(folder, f"{prefix}entities", partition, device)}


def save_rows(rows: Mapping[str, Tensor], folder: Path, name: str, partition: Partition) -> None:
    """Write rows of a rank's entities with their ids, as `<name>-<rank>-of-<world_size>.safetensors`."""
    tensors = {key: value.detach().contiguous() for key, value in rows.items()}
    file = f"{name}-{partition.rank:05d}-of-{partition.world_size:05d}.safetensors"
    save_file({"entity_id": partition.ids, **tensors}, folder / file)


def load_rows(folder: Path, name: str, partition: Partition, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read the rows of a rank's entities from what any number of ranks wrote.

    Raises:
        ArtifactError: A file is missing or damaged, or the files lack an entity.
    """
    rows: dict[str, Tensor] = {}
    found = 0
    for path in _shards(folder, name):
        with _complete(folder):
            shard = load_file(path)
        ids = shard.pop("entity_id")
        if torch.equal(ids, partition.ids):
            # Copies, since what is loaded may be a view of the file, which may be gone before all of it is read.
            return {key: value.to(device, copy=True) for key, value in shard.items()}
        owned = partition.owns(ids)
        place = partition.rows(ids[owned])
        found += len(place)
        for key, value in shard.items():
            if key not in rows:
                rows[key] = value.new_empty(partition.num_rows, *value.shape[1:])
            rows[key][place] = value[owned]
    if found != partition.num_rows:
        raise _incomplete(folder, f"{name}: rows of {found} entities, {partition.num_rows} expected")
    return {key: value.to(device) for key, value in rows.items()}


def load_model(
    checkpoint: Path, graph_path: Path, communicator: Communicator | None = None
) -> tuple[GAMLSTM, TemporalGraph, Manifest, Manifest]:
    """The trained model of a run, with its graph, as a rank has them.

    Returns:
        The model in evaluation mode, the graph, the manifests of the graph and of the checkpoint.

    Raises:
        ArtifactError: An artifact is missing or they do not belong together.
    """
    communicator = communicator or Communicator()
    manifest = read_manifest(checkpoint, "checkpoint")
    graph, graph_manifest = TemporalGraph.load(graph_path, rank=communicator.rank, world_size=communicator.world_size)
    require_same("graph", manifest.inputs["graph"], graph_manifest.id, checkpoint)
    config = ModelConfig.model_validate(manifest.config["model"])
    words = None
    if config.name_words:
        names = read_names(graph_path, "entity").to_pylist()
        words = NameWords.of(names, words=tuple(json.loads((checkpoint / "words.json").read_text(encoding="utf-8"))))
    model = GAMLSTM(config, graph.num_relations, graph.trained, words, partition=graph.partition, seed=None)
    model.load_state_dict(_weights_for(model, checkpoint))
    return model.eval(), graph, graph_manifest, manifest


def _shards(folder: Path, name: str) -> list[Path]:
    """The files of all ranks, which are of one number of ranks."""
    found = {path: _SHARD.search(path.name) for path in sorted(folder.glob(f"{name}-*-of-*.safetensors"))}
    numbers = [(int(match[1]), int(match[2])) for match in found.values() if match]
    if not numbers or numbers != [(rank, numbers[0][1]) for rank in range(numbers[0][1])]:
        raise _incomplete(folder, f"{name}: files {', '.join(path.name for path in found) or 'none'}")
    return list(found)


@contextmanager
def _complete(folder: Path) -> Generator[None]:
    """Report a file that is missing or damaged."""
    try:
        yield
    except (FileNotFoundError, SafetensorError) as error:
        raise _incomplete(folder, error) from None


def _incomplete(folder: Path, reason: object) -> ArtifactError:
    return ArtifactError(f"{folder}: the checkpoint is incomplete ({reason}); train again with --force")


def _weights_for(model: GAMLSTM, folder: Path) -> dict[str, Tensor]:
    weights, expected = load_weights(folder, model.partition), model.state_dict()
    found = {name: tuple(value.shape) for name, value in weights.items()}
    required = {name: tuple(value.shape) for name, value in expected.items()}
    differing = sorted(name for name in found.keys() | required.keys() if found.get(name) != required.get(name))
    if differing:
        raise ArtifactError(
            f"{folder}: the checkpoint is of another model; weights that differ: {', '.join(differing)}"
        )
    return weights
