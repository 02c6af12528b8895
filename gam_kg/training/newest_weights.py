"""Which weights of a run are in use: those of the last update that has some, else those of its checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from gam_kg.artifacts import read_manifest
from gam_kg.graph.stored_update import Update, verified

WEIGHTS = "model.safetensors"
"""The file that a folder with weights has, beside those of the rows of entities."""


def newest_weights(checkpoint: Path, updates: Sequence[Update]) -> tuple[Path, Sequence[Update]]:
    """Where the weights in use are, and the updates whose entities and relations these weights have rows for.

    Args:
        checkpoint: The `checkpoint/` artifact.
        updates: Those of the run, in order; weights of those that are of another checkpoint are not in use.

    Raises:
        ArtifactError: There is no checkpoint, or the update with the weights is damaged.
    """
    trained = read_manifest(checkpoint, "checkpoint").id if updates else ""
    for number in range(len(updates), 0, -1):
        if has_weights(updates[number - 1], trained):
            return verified(updates[number - 1].path).path, updates[:number]
    return checkpoint, ()


def has_weights(update: Update, checkpoint: str) -> bool:
    """Whether an update has weights, as that of a fine-tuning does, which go on from a checkpoint of this id."""
    return WEIGHTS in update.manifest.files and update.manifest.inputs.get("checkpoint") == checkpoint
