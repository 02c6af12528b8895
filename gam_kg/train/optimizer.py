"""The optimizer and its learning-rate schedule, a pure function of the step."""

import math

import torch

from gam_kg.config import TrainConfig
from gam_kg.nn.model import GAMLSTM


def build_optimizer(model: GAMLSTM, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all parameters. Source: Loshchilov & Hutter 2019, algorithm 2."""
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Cosine from `learning_rate` to its `final_learning_rate` share over all steps; `step` counts from 0."""
    low = config.final_learning_rate
    share = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * step / max(1, total_steps)))
    return config.learning_rate * share
