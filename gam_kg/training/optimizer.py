"""The optimizer and its learning-rate schedule, a pure function of the epochs done."""

import math
from typing import Any

import torch
from torch import Tensor

from gam_kg.config import TrainConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of what AdamW has for each weight."""


class RowAdamW(torch.optim.AdamW):
    """AdamW that changes only the rows that a sparse gradient has, at a cost that does not depend on the others.

    Moments and weights of the other rows stay as they are; they decay when they have a gradient again. Where no
    gradient is sparse it is AdamW.

    Source: Loshchilov & Hutter 2019, algorithm 2, made lazy as `torch.optim.SparseAdam` is.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # ty: ignore[incompatible-method-override] -- without closures
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._step_rows(parameter, group)
                    parameter.grad = None
        super().step()

    def _step_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, grad, (low, high) = self.state[parameter], parameter.grad, group["betas"]
        assert grad is not None
        # A row that is there several times has the same values each time, so that what is written is the same.
        rows, values = grad._indices()[0], grad._values()
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        # Tensors, and not numbers of the program: a recorded step does this again at later steps.
        step, rate = state["step"].double(), torch.as_tensor(group["lr"], dtype=torch.float64)
        mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - low)
        square = state["exp_avg_sq"].index_select(0, rows).mul_(high).addcmul_(values, values, value=1 - high)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        scale = square.sqrt_().mul_((1 - high**step).rsqrt()).add_(group["eps"])
        own = parameter.index_select(0, rows).mul_(1 - rate * group["weight_decay"])
        parameter.index_copy_(0, rows, own.sub_(mean.div_(scale).mul_(rate / (1 - low**step))))


def learning_rate(config: TrainConfig, epochs: float) -> float:
    """Cosine from `learning_rate` to its `final_learning_rate` share over `decay_epochs`, constant after them.

    Args:
        config: The schedule.
        epochs: Epochs done, fractions included.
    """
    low = config.final_learning_rate
    share = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, epochs / config.decay_epochs)))
    return config.learning_rate * share
