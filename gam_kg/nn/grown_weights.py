"""Weights for a model of a graph to which entities and relations were added after training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gam_kg.nn.model import ENTITY, GAMLSTM
from gam_kg.nn.relation_rows import grown


def grown_weights(weights: Mapping[str, Tensor], num_relations: int, model: GAMLSTM) -> dict[str, Tensor]:
    """Weights with rows for the new entities and relations. These rows are never read: the shared ones are.

    Args:
        weights: The trained weights of the rank.
        num_relations: Relations without inverses that they are of.
        model: The model of the graph as it is now.
    """
    before, after = num_relations, len(model.trained_relations)
    expected, found = model.state_dict(), dict(weights)
    for name, value in weights.items():
        number = len(expected[name]) if name in expected and value.dim() == 2 else 0
        if name == ENTITY and number > len(value):
            found[name] = torch.cat([value, value.new_zeros(number - len(value), value.shape[1])])
        # The sizes of no other table follow the number of relations.
        elif after > before and number == 2 * after + 2 and len(value) == 2 * before + 2:
            found[name] = grown(value, before, after)
    return found
