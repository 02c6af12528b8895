"""Checkpoints: safetensors and JSON, one file of rows per rank; never a pickle.

A training checkpoint is a folder from which trainers on any number of ranks continue:

    model.safetensors                      weights that are the same on all ranks
    optimizer.safetensors                  their optimizer state, twice as large
    entities-00000-of-00002.safetensors    weights of the entities that rank 0 of 2 owns, with their ids
    optimizer-00000-of-00002.safetensors   their optimizer state, twice as large
    training-00000-of-00002.safetensors    their memory
    best-*.safetensors                     weights and optimizer state of the best epoch so far
    position.json                          where training stands
    words.json                             the words of entities that have weights; `train.run` adds it
    digests-00000-of-00002.json            size and digest of the files of rank 0, by which damage is found

The `checkpoint/` artifact of a run has the files of the best epoch, without `best-`, the words of names and the metrics
of the epochs. Fine-tuning starts from its optimizer state.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gam_kg.artifacts import Files, Manifest, changed_files, describe, read_json, read_manifest, redo, require_same
from gam_kg.config import ModelConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import ArtifactError, writing
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.partition import Partition
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.graph.update_chain import Update, sizes
from gam_kg.nn.grown_weights import grown_weights
from gam_kg.nn.model import ENTITY, GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.finite import require_finite
from gam_kg.output import flush
from gam_kg.training.newest_weights import WEIGHTS, newest_weights
from gam_kg.training.optimizer import MOMENTS
from gam_kg.training.position import Position
from gam_kg.training.trainer import Trainer

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.(safetensors|json)$")
_DIGESTS = "digests"


def save(trainer: Trainer, folder: Path) -> None:
    """Write a rank's part of a training checkpoint."""
    trainer.read_losses()
    partition = trainer.model.partition
    save_weights(trainer.model.state_dict(), folder, partition)
    save_optimizer_state(trainer.optimizer_state, folder, partition)
    if trainer.best_weights:
        save_weights(trainer.best_weights, folder, partition, prefix="best-")
        save_optimizer_state(trainer.best_optimizer_state, folder, partition, prefix="best-")
    save_rows(vars(trainer.memory), folder, "training", partition)
    if partition.rank == 0:
        (folder / "position.json").write_text(json.dumps(asdict(trainer.position), indent=2), encoding="utf-8")


def load(trainer: Trainer, folder: Path) -> None:
    """Continue from a training checkpoint, written by any number of ranks.

    Raises:
        ArtifactError: The checkpoint is of another model or incomplete.
        EvaluationError: A weight is NaN or infinite.
    """
    model, partition, device = trainer.model, trainer.model.partition, trainer.memory.hidden.device
    weights = _weights_for(model, folder)
    memory = load_rows(folder, "training", partition, device)
    optimizer_state = load_optimizer_state(folder, partition, device=device)
    position = read_json(folder / "position.json", "training")
    model.load_state_dict(weights)
    trainer.optimizer_state = optimizer_state
    trainer.memory = Memory(memory["hidden"], memory["cell"], memory["last_seen"])
    trainer.position = Position(**position)
    if trainer.position.best_epoch:
        trainer.best_weights = load_weights(folder, partition, prefix="best-")
        trainer.best_optimizer_state = load_optimizer_state(folder, partition, prefix="best-")


def seal(folder: Path, partition: Partition) -> None:
    """Flush the files that a rank has written to disk and write their digests, the last file of the rank's part."""
    mine = f"-{partition.rank:05d}-of-{partition.world_size:05d}"
    shared = [path for path in folder.iterdir() if not _SHARD.search(path.name)] if partition.rank == 0 else []
    files = describe(folder, sorted([*folder.glob(f"*{mine}.safetensors"), *shared]))
    for name in files:
        flush(folder / name)
    path = folder / f"{_DIGESTS}{mine}.json"
    path.write_text(json.dumps(files, indent=2), encoding="utf-8")
    flush(path)
    flush(folder)


def require_undamaged(folder: Path, communicator: Communicator | None = None) -> None:
    """Refuse a training checkpoint whose files are not those that its ranks wrote. A collective; ranks share the files.

    Raises:
        ArtifactError: A file is missing or damaged.
    """
    communicator = communicator or Communicator()

    def look() -> None:
        files: Files = {}
        for path in shards(folder, _DIGESTS, "json"):
            found = read_json(path, "training")
            if not isinstance(found, dict):
                raise _incomplete(path, "it has no digests")
            files |= found
        for path in folder.glob("[!.]*"):
            if path.name not in files and not path.name.startswith(_DIGESTS):
                raise _incomplete(path, "it has no digest")
        mine = sorted(files)[communicator.rank :: communicator.world_size]
        for name in changed_files(folder, {name: files[name] for name in mine}):
            raise ArtifactError(f"{folder / name} was changed or damaged after it was written; {redo('training')}")

    communicator.together(look)


def save_weights(weights: Mapping[str, Tensor], folder: Path, partition: Partition, prefix: str = "") -> None:
    """Write a rank's weights: its rows, and on rank 0 the weights that are the same on all ranks."""
    save_rows({ENTITY: weights[ENTITY]}, folder, f"{prefix}entities", partition)
    if partition.rank == 0:
        shared = {name: value.contiguous() for name, value in weights.items() if name != ENTITY}
        save_tensors(shared, folder / f"{prefix}{WEIGHTS}")


def load_weights(
    folder: Path, partition: Partition, prefix: str = "", device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Read what `save_weights` wrote, on any number of ranks, as this rank has it.

    Raises:
        ArtifactError: A file is missing or damaged.
    """
    shared = load_tensors(folder / f"{prefix}{WEIGHTS}", device)
    return {**shared, **load_rows(folder, f"{prefix}entities", partition, device)}


def save_optimizer_state(values: Mapping[str, Tensor], folder: Path, partition: Partition, prefix: str = "") -> None:
    """Write a rank's `Trainer.optimizer_state`: that of its rows, and on rank 0 that which is the same on all ranks."""
    own = {f"{ENTITY}.{moment}" for moment in MOMENTS}
    save_rows({name: value for name, value in values.items() if name in own}, folder, f"{prefix}optimizer", partition)
    if partition.rank == 0:
        shared = {name: value.contiguous() for name, value in values.items() if name not in own}
        save_tensors(shared, folder / f"{prefix}optimizer.safetensors")


def load_optimizer_state(
    folder: Path, partition: Partition, prefix: str = "", device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Read what `save_optimizer_state` wrote, on any number of ranks, as this rank has it.

    Raises:
        ArtifactError: A file is missing or damaged.
    """
    shared = load_tensors(folder / f"{prefix}optimizer.safetensors", device)
    return {**shared, **load_rows(folder, f"{prefix}optimizer", partition, device)}


def save_rows(rows: Mapping[str, Tensor], folder: Path, name: str, partition: Partition) -> None:
    """Write rows of a rank's entities with their ids, as `<name>-<rank>-of-<world_size>.safetensors`."""
    tensors = {key: value.detach().contiguous() for key, value in rows.items()}
    file = f"{name}-{partition.rank:05d}-of-{partition.world_size:05d}.safetensors"
    save_tensors({"entity_id": partition.ids, **tensors}, folder / file)


def load_rows(
    folder: Path, name: str, partition: Partition, device: torch.device | str = "cpu", *, copy: bool = True
) -> dict[str, Tensor]:
    """Read the rows of a rank's entities from what any number of ranks wrote.

    Args:
        folder: Where the files are.
        name: How their names begin.
        partition: The entities.
        device: Where to put the rows.
        copy: Whether to copy rows that could stay in a mapped file; changing them there does not change the file.

    Raises:
        ArtifactError: A file is missing or damaged, or the files lack an entity.
    """
    rows: dict[str, Tensor] = {}
    missing, found = torch.ones(partition.num_rows, dtype=torch.bool), 0
    for path in shards(folder, name):
        shard = load_tensors(path)
        ids = shard.pop("entity_id", torch.zeros(0))
        if any(value.shape[:1] != ids.shape for value in shard.values()) or not _are_ids(ids, partition.num_entities):
            raise _incomplete(path, "it has no rows by entity id")
        if torch.equal(ids, partition.ids):
            return {key: value.to(device, copy=copy) for key, value in shard.items()}
        owned = partition.owns(ids)
        place = partition.rows(ids[owned])
        missing[place], found = False, found + len(place)
        for key, value in shard.items():
            if key not in rows:
                rows[key] = value.new_empty(partition.num_rows, *value.shape[1:])
            rows[key][place] = value[owned]
    if missing.any() or found != partition.num_rows:
        raise _incomplete(folder, f"{name}: rows of {found} entities, {partition.num_rows} expected")
    return {key: value.to(device) for key, value in rows.items()}


def load_model(
    checkpoint: Path, graph_path: Path, communicator: Communicator | None = None, updates: Sequence[Update] = ()
) -> tuple[GAMLSTM, TemporalGraph, Manifest, Manifest]:
    """The trained model of a run, with its graph, as a rank has them.

    Args:
        checkpoint: The `checkpoint/` artifact.
        graph_path: The `graph/` artifact.
        communicator: The ranks; None for a world of one.
        updates: What was added to the graph since, with newer weights where they were fine-tuned. New entities and
            relations have the shared rows.

    Returns:
        The model in evaluation mode, the graph, the manifests of the graph and of the checkpoint.

    Raises:
        ArtifactError: An artifact is missing or they do not belong together.
    """
    manifest = read_manifest(checkpoint, "checkpoint")
    share = {"rank": communicator.rank, "world_size": communicator.world_size} if communicator else {}
    graph, graph_manifest = TemporalGraph.load(graph_path, **share, updates=updates)
    require_same("graph", manifest.inputs["graph"], graph_manifest.id, checkpoint)
    config = ModelConfig.model_validate(manifest.config["model"])
    found = read_json(checkpoint / "words.json", "checkpoint")
    words = NameWords.stored(graph_path, graph_manifest, of_names=config.name_words, words=found, updates=updates)
    model = GAMLSTM(config, graph.trained_relations, graph.trained, words, partition=graph.partition, seed=None)
    folder, known = newest_weights(checkpoint, updates)
    model.load_state_dict(_weights_for(model, folder, sizes(graph_manifest, known)))
    return model.eval(), graph, graph_manifest, manifest


def shards(folder: Path, name: str, ending: str = "safetensors") -> list[Path]:
    """The files of all ranks, which are of one number of ranks.

    Raises:
        ArtifactError: One is missing.
    """
    found = {path: _SHARD.search(path.name) for path in sorted(folder.glob(f"{name}-*-of-*.{ending}"))}
    numbers = [(int(match[1]), int(match[2])) for match in found.values() if match]
    if not numbers or numbers != [(rank, numbers[0][1]) for rank in range(numbers[0][1])]:
        raise _incomplete(folder, f"{name}: files {', '.join(path.name for path in found) or 'none'}")
    return list(found)


def _are_ids(ids: Tensor, num_entities: int) -> bool:
    return ids.dtype == torch.int64 and bool(((ids >= 0) & (ids < num_entities)).all())


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors by name, or raise OutputError."""
    with writing(path):
        try:
            save_file(tensors, path)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read what `save_tensors` wrote, or raise ArtifactError."""
    try:
        return load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise _incomplete(path, error) from None


def _incomplete(path: Path, reason: object) -> ArtifactError:
    return ArtifactError(f"{path}: the checkpoint is incomplete or damaged ({reason}); {redo('checkpoint')}")


def _weights_for(model: GAMLSTM, folder: Path, trained: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """The weights in a folder; `trained` are the entities and relations that they are of. None: those of the model."""
    num_entities, num_relations = trained or (model.partition.num_entities, len(model.trained_relations))
    weights = load_weights(folder, replace(model.partition, num_entities=num_entities))
    weights, expected = grown_weights(weights, num_relations, model), model.state_dict()
    found, required = ({name: value.shape for name, value in one.items()} for one in (weights, expected))
    differing = sorted(name for name in found.keys() | required.keys() if found.get(name) != required.get(name))
    if names := ", ".join(differing):
        raise ArtifactError(f"{folder}: the checkpoint is of another model; weights that differ: {names}")
    require_finite_weights(weights, folder)
    return weights


def require_finite_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse weights of which one is NaN or infinite, with an EvaluationError."""
    for name, value in weights.items():
        if value.is_floating_point():
            require_finite(value, f"{folder}: weights {name}")
