"""Exact nearest neighbours among entity vectors."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Neighbours:
    """The nearest entities of one entity, nearest first, itself left out.

    Attributes:
        entity: Ids, int64 (top_k,).
        similarity: Cosine in [-1, 1], float32 (top_k,).
    """

    entity: np.ndarray
    similarity: np.ndarray


def nearest(vectors: torch.Tensor, entity: int, top_k: int) -> Neighbours:
    """Exact search by cosine over all entities.

    Args:
        vectors: Unit vectors z, (num_entities, dim).
        entity: Whose neighbours.
        top_k: How many; fewer where there are fewer entities.
    """
    similarity = vectors @ vectors[entity]
    similarity[entity] = -torch.inf
    best = torch.topk(similarity, min(top_k, len(vectors) - 1))
    return Neighbours(best.indices.cpu().numpy(), best.values.cpu().numpy())
