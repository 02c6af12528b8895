"""Checkpoints: safetensors and JSON, one file of rows a rank; never a pickle.

A training checkpoint is a folder that holds all that trainers on any number of ranks need to go on:

    model.safetensors                      weights that all ranks have alike
    optimizer.safetensors                  their optimizer state
    entities-00000-of-00002.safetensors    weights of the entities that rank 0 of 2 owns, with their ids
    training-00000-of-00002.safetensors    their optimizer state and memory
    best-*.safetensors                     the weights of the best epoch so far
    position.json                          where training stands

The `checkpoint/` artifact of a run holds the best weights only, under the names of weights, with the words of names and
the metrics of the epochs.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gam_kg.artifacts import Manifest, read_manifest, require_same
from gam_kg.config import ModelConfig
from gam_kg.data.graph import TemporalGraph, read_names
from gam_kg.data.names import NameWords
from gam_kg.data.partition import Partition
from gam_kg.distributed.topology import Topology
from gam_kg.errors import ArtifactError
from gam_kg.nn.model import ENTITY, GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.train.loop import Position, Trainer

_MOMENTS = ("exp_avg", "exp_avg_sq")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


def save(trainer: Trainer, folder: Path) -> None:
    """Write a rank's part of a training checkpoint."""
    partition, optimizer = trainer.model.partition, trainer.optimizer
    save_weights(trainer.model.state_dict(), folder, partition)
    if trainer.best_weights:
        save_weights(trainer.best_weights, folder, partition, prefix="best-")
    # There is no state before the first step.
    states = {name: optimizer.state[one] for name, one in trainer.model.named_parameters() if optimizer.state[one]}
    own = {f"{ENTITY}.{moment}": states[ENTITY][moment] for moment in _MOMENTS if states}
    save_rows({**own, **vars(trainer.memory)}, folder, "training", partition)
    if partition.rank == 0:
        shared = {
            f"{name}.{key}": value for name, state in states.items() if name != ENTITY for key, value in state.items()
        }
        save_file(shared, folder / "optimizer.safetensors")
        (folder / "position.json").write_text(json.dumps(trainer.state(), indent=2), encoding="utf-8")


def load(trainer: Trainer, folder: Path) -> None:
    """Continue from a training checkpoint, written by any number of ranks.

    Raises:
        ArtifactError: The checkpoint is of another model or incomplete.
    """
    model, partition, device = trainer.model, trainer.model.partition, trainer.memory.hidden.device
    weights = _weights_for(model, folder)
    own = load_rows(folder, "training", partition, device)
    try:
        shared = load_file(folder / "optimizer.safetensors", device=str(device))
        position = json.loads((folder / "position.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, SafetensorError) as error:
        raise _incomplete(folder, error) from None
    model.load_state_dict(weights)
    step = next((value for name, value in shared.items() if name.endswith(".step")), None)
    for name, parameter in model.named_parameters():
        if step is None:
            break
        found = own if name == ENTITY else shared
        moments = {moment: found[f"{name}.{moment}"] for moment in _MOMENTS}
        trainer.optimizer.state[parameter] = {"step": step.clone(), **moments}
    trainer.memory = Memory(own["hidden"], own["cell"], own["last_seen"])
    trainer.position = Position(**position)
    if trainer.position.best_epoch:
        trainer.best_weights = load_weights(folder, partition, prefix="best-", device=device)


def save_weights(weights: Mapping[str, Tensor], folder: Path, partition: Partition, prefix: str = "") -> None:
    """Write a rank's weights: its rows, and on rank 0 what all ranks have alike."""
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
    try:
        shared = load_file(folder / f"{prefix}model.safetensors", device=str(device))
    except (FileNotFoundError, SafetensorError) as error:
        raise _incomplete(folder, error) from None
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
        try:
            shard = load_file(path)
        except SafetensorError as error:
            raise _incomplete(folder, error) from None
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
    checkpoint: Path, graph_path: Path, topology: Topology | None = None
) -> tuple[GAMLSTM, TemporalGraph, Manifest, Manifest]:
    """The trained model of a run, with its graph, as a rank has them.

    Returns:
        The model in evaluation mode, the graph, the manifests of the graph and of the checkpoint.

    Raises:
        ArtifactError: An artifact is missing or they do not belong together.
    """
    topology = topology or Topology()
    manifest = read_manifest(checkpoint, "checkpoint")
    graph, graph_manifest = TemporalGraph.load(graph_path, rank=topology.rank, world_size=topology.world_size)
    require_same("graph", manifest.inputs["graph"], graph_manifest.id, checkpoint)
    config = ModelConfig.model_validate(manifest.config["model"])
    words = None
    if config.name_words:
        names = read_names(graph_path, "entity").to_pylist()
        words = NameWords.of(names, words=tuple(json.loads((checkpoint / "words.json").read_text(encoding="utf-8"))))
    model = GAMLSTM(
        config, graph.num_relations, graph.trained, words, partition=graph.partition, topology=topology, seed=None
    )
    model.load_state_dict(_weights_for(model, checkpoint))
    return model.eval(), graph, graph_manifest, manifest


def _shards(folder: Path, name: str) -> list[Path]:
    """The files of all ranks; of one number of ranks, or the folder is not what one save has written."""
    found = {path: _SHARD.search(path.name) for path in sorted(folder.glob(f"{name}-*-of-*.safetensors"))}
    numbers = [(int(match[1]), int(match[2])) for match in found.values() if match]
    world_size = numbers[0][1] if numbers else 0
    if not world_size or numbers != [(rank, world_size) for rank in range(world_size)]:
        raise _incomplete(folder, f"{name}: files {', '.join(path.name for path in found) or 'none'}")
    return list(found)


def _incomplete(folder: Path, reason: object) -> ArtifactError:
    return ArtifactError(f"{folder}: the checkpoint is incomplete ({reason}); train again with --force")


def _weights_for(model: GAMLSTM, folder: Path) -> dict[str, Tensor]:
    weights, expected = load_weights(folder, model.partition), model.state_dict()
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    if found != wanted:
        differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise ArtifactError(
            f"{folder}: the checkpoint is of another model; these weights differ: {', '.join(differing)}"
        )
    return weights
