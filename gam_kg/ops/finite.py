"""Refusal of numbers that are not finite, wherever scores and vectors are made."""

import numpy as np
import torch
from torch import Tensor

from gam_kg.errors import EvaluationError


def require_finite(values: Tensor | np.ndarray, what: str) -> None:
    """Refuse numbers of which one is NaN or infinite.

    Args:
        values: Floating-point numbers of any shape.
        what: What they are, for the message.

    Raises:
        EvaluationError: One is not finite.
    """
    values = torch.as_tensor(values)
    if values.numel() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(values.detach())):
        raise EvaluationError(
            f"{what}: a number is NaN or infinite; weights, memory or settings are at fault: train again, and with a "
            "lower train.learning_rate if that happens again"
        )
