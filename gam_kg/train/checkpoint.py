"""Checkpoints: weights in safetensors, the rest loaded with `weights_only=True`; never a pickle.

A training checkpoint is a folder that holds all a resumed trainer needs:

    model.safetensors           weights every rank has alike
    entities-00000-of-00001.safetensors   rows of the entities a rank owns, with their ids
    best-*.safetensors          the same two, of the best epoch so far
    training-00000-of-00001.pt  optimizer state and memory
    position.json               where training stands

The `checkpoint/` artifact of a run holds the best weights only, under the first two names, with the words of names and
the metrics of the epochs.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gam_kg.artifacts import Manifest, read_manifest, require_same
from gam_kg.config import ModelConfig
from gam_kg.data.graph import TemporalGraph, read_names
from gam_kg.data.names import NameWords
from gam_kg.errors import ArtifactError
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.train.loop import Position, Trainer

_SHARD = "00000-of-00001"
_ENTITY_ROWS = ("entity",)


def save(trainer: Trainer, folder: Path) -> None:
    """Write a training checkpoint."""
    save_weights(trainer.model.state_dict(), folder)
    if trainer.best_weights:
        save_weights(trainer.best_weights, folder, prefix="best-")
    state = {"optimizer": trainer.optimizer.state_dict(), "memory": vars(trainer.memory)}
    torch.save(state, folder / f"training-{_SHARD}.pt")
    (folder / "position.json").write_text(json.dumps(trainer.state(), indent=2), encoding="utf-8")


def load(trainer: Trainer, folder: Path) -> None:
    """Continue from a training checkpoint.

    Raises:
        ArtifactError: The checkpoint is of another model or incomplete.
    """
    device = trainer.memory.hidden.device
    weights = _weights_for(trainer.model, folder)
    try:
        state = torch.load(folder / f"training-{_SHARD}.pt", weights_only=True, map_location=device)
        position = json.loads((folder / "position.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: the checkpoint is incomplete ({error}); train again with --force") from None
    trainer.model.load_state_dict(weights)
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.memory = Memory(**state["memory"])
    trainer.position = Position(**position)
    if trainer.position.best_epoch:
        trainer.best_weights = {k: v.to(device) for k, v in load_weights(folder, prefix="best-").items()}


def save_weights(weights: dict[str, Tensor], folder: Path, prefix: str = "") -> None:
    """Write weights as one shared file and one file of entity rows."""
    shared = {name: value.contiguous() for name, value in weights.items() if name not in _ENTITY_ROWS}
    rows = {name: weights[name].contiguous() for name in _ENTITY_ROWS}
    rows["entity_id"] = torch.arange(len(rows["entity"]))
    save_file(shared, folder / f"{prefix}model.safetensors")
    save_file(rows, folder / f"{prefix}entities-{_SHARD}.safetensors")


def load_weights(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read what `save_weights` wrote.

    Raises:
        ArtifactError: A file is missing.
    """
    try:
        shared = load_file(folder / f"{prefix}model.safetensors")
        shards = [load_file(path) for path in sorted(folder.glob(f"{prefix}entities-*.safetensors"))]
    except (FileNotFoundError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: the checkpoint is incomplete ({error}); train again with --force") from None
    if not shards:
        raise ArtifactError(f"{folder}: the checkpoint has no entity rows; train again with --force")
    order = torch.argsort(torch.cat([shard["entity_id"] for shard in shards]))
    return {**shared, **{name: torch.cat([shard[name] for shard in shards])[order] for name in _ENTITY_ROWS}}


def load_model(checkpoint: Path, graph_path: Path) -> tuple[GAMLSTM, TemporalGraph, Manifest, Manifest]:
    """The trained model of a run, with its graph.

    Returns:
        The model in evaluation mode, the graph, the manifests of the graph and of the checkpoint.

    Raises:
        ArtifactError: An artifact is missing or they do not belong together.
    """
    manifest = read_manifest(checkpoint, "checkpoint")
    graph, graph_manifest = TemporalGraph.load(graph_path)
    require_same("graph", manifest.inputs["graph"], graph_manifest.id, checkpoint)
    config = ModelConfig.model_validate(manifest.config["model"])
    names = read_names(graph_path, "entity").to_pylist()
    words = None
    if config.name_words:
        words = NameWords.of(names, words=tuple(json.loads((checkpoint / "words.json").read_text(encoding="utf-8"))))
    model = GAMLSTM(config, graph.num_relations, graph.trained, words)
    model.load_state_dict(_weights_for(model, checkpoint))
    return model.eval(), graph, graph_manifest, manifest


def _weights_for(model: GAMLSTM, folder: Path) -> dict[str, Tensor]:
    weights, expected = load_weights(folder), model.state_dict()
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    if found != wanted:
        differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise ArtifactError(
            f"{folder}: the checkpoint is of another model; these weights differ: {', '.join(differing)}"
        )
    return weights
