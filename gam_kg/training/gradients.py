"""Gradients over ranks: those of shared parameters are summed, all are clipped by their global norm."""

from collections.abc import Callable

import torch
from torch import Tensor

from gam_kg.distributed.communicator import Communicator
from gam_kg.nn.model import ENCODING, ENTITY, GAMLSTM


class Gradients:
    """The gradients of a rank's model; those of shared parameters are views into one buffer.

    The buffer has two parts. The first is complete when scores are back-propagated, and is summed over the ranks while
    entity vectors are.

    A parameter that nothing in a step depends on has a zero gradient, on one rank as on several.

    Args:
        model: The model; its gradients are dropped.
        communicator: The ranks.
    """

    def __init__(self, model: GAMLSTM, communicator: Communicator) -> None:
        self._entity, self._communicator = model.entity, communicator
        named = [(name, parameter) for name, parameter in model.named_parameters() if name != ENTITY]
        early = [parameter for name, parameter in named if name.partition(".")[0] not in ENCODING]
        shared = early + [parameter for name, parameter in named if name.partition(".")[0] in ENCODING]
        sizes = [parameter.numel() for parameter in shared]
        # The last element is for the squared norm of the rank's own rows, so that one collective sums both.
        self._buffer = model.entity.new_zeros(sum(sizes) + 1)
        for parameter, view in zip(shared, self._buffer[:-1].split(sizes), strict=True):
            parameter.grad = view.view_as(parameter)
        self._entity.grad = None
        self._early, self._late = self._buffer.tensor_split([sum(sizes[: len(early)])])
        self._finish: Callable[[], None] | None = None

    def begin(self) -> None:
        """Begin to sum what is complete once scores are back-propagated. A collective."""
        self._finish = self._begin()

    def _begin(self) -> Callable[[], None]:
        return self._communicator.begin_sum(self._early, "gradients")

    @torch.no_grad()
    def reduce(self, max_norm: float) -> Tensor:
        """Sum the rest over the ranks and clip the global norm; returns the norm before clipping, (). A collective."""
        if self._entity.grad is None:
            self._entity.grad = torch.zeros_like(self._entity)
        own, self._buffer[-1] = _rows_with_norm(self._entity.grad)
        self._communicator.sum(self._late, "gradients")
        finish, self._finish = self._finish or self._begin(), None
        finish()
        norm = torch.sqrt(torch.linalg.vector_norm(self._buffer[:-1]) ** 2 + self._buffer[-1])
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        self._buffer.mul_(scale)
        own.mul_(scale)
        return norm

    def clear(self) -> None:
        """Set all to zero, for a step."""
        self._buffer.zero_()
        self._entity.grad = None


def _rows_with_norm(grad: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that a gradient has, a view, and their squared norm, ().

    A sparse gradient has rows in ascending order; the last one may be there several times, and counts once.
    """
    if not grad.is_sparse:
        return grad, torch.linalg.vector_norm(grad) ** 2
    row, values = grad._indices()[0], grad._values()
    counts = torch.ones_like(values[:, 0])
    counts[1:] = row[1:] != row[:-1]
    return values, torch.linalg.vecdot(values, values) @ counts
