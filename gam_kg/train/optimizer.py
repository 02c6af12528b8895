"""The optimizer and its learning-rate schedule, a pure function of the step."""

import math

import torch

from gam_kg.config import TrainConfig
from gam_kg.nn.model import GAMLSTM


def build_optimizer(model: GAMLSTM, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all parameters. Source: Loshchilov & Hutter 2019, algorithm 2."""
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: TrainConfig, epochs: float) -> float:
    """Cosine from `learning_rate` to its `final_learning_rate` share over `decay_epochs`, constant after them.

    Args:
        config: The schedule.
        epochs: Epochs done, fractions included.
    """
    low = config.final_learning_rate
    share = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, epochs / config.decay_epochs)))
    return config.learning_rate * share
