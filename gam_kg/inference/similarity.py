"""Vectors made for similarity search: entity vectors without what all have in common, and spread over more directions.

The raw vectors point much the same way and differ along few directions. The search vectors are centred at the mean of
the entities seen so far, then partly whitened: directions in which entities differ little count for a little more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from gam_kg.artifacts import open_artifact
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.nn.recurrence import Memory
from gam_kg.nn.vectors import unit
from gam_kg.ops.finite import require_finite
from gam_kg.ops.precision import float32_products
from gam_kg.training.checkpoint import load_tensors, save_tensors

SHRINKAGE = 0.98
"""How far the variance along each direction is moved to the mean variance: 0 is full whitening, 1 only centres.

Measured by `tests/performance/neighbours.py`: with less, neighbours share fewer of their relations.
"""

SPACE = "search_space.safetensors"
"""The file of a full version of the embeddings that has its map, `mean` and `whitening`."""

_GROUP = 65_536
_BLOCK = 4096  # vectors that are computed with at once, so that what is made on the way stays in the caches
_ROUNDING = 1e-6
"""What vectors of length 1 in single precision may differ by where they should be equal."""


def vector_groups(run: TrainedRun, memory: Memory, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of the rank and their vectors (num_rows, dim), a group at a time, so that there is no copy of all vectors.

    Args:
        run: The run.
        memory: The memory of the rank's entities.
        rows: Which of them, int64 (num_rows,); None: all.

    Raises:
        EvaluationError: A vector is NaN or infinite.
    """
    rows = torch.arange(run.graph.partition.num_rows, device=run.device) if rows is None else rows
    made = run.vectors_made(memory)
    for group in rows.split(_GROUP) if len(rows) else ():
        with torch.no_grad(), float32_products():
            vectors = run.sharded.vectors_of(memory, group) if made is None else made[group]
        require_finite(vectors, "vectors of the entities")
        yield group, vectors


@dataclass(frozen=True)
class SearchSpace:
    """A map from entity vectors to search vectors.

    Attributes:
        mean: Of the vectors of the seen entities, float64 (dim,).
        whitening: The inverse square root of their shrunk covariance, symmetric, float64 (dim, dim).
    """

    mean: Tensor
    whitening: Tensor

    @classmethod
    def after(cls, run: TrainedRun, memory: Memory) -> "SearchSpace":
        """The map after the facts in a memory, the same on any number of ranks. A collective.

        Raises:
            EvaluationError: A vector is NaN or infinite.
        """
        communicator = run.sharded.communicator
        return cls.of(communicator.sum(communicator.together(lambda: _moments(run, memory)), "search vectors"))

    @classmethod
    def of(cls, moments: Tensor, shrinkage: float = SHRINKAGE) -> "SearchSpace":
        """The map of some vectors.

        Args:
            moments: See `moments_of`; sums of these are those of all vectors.
            shrinkage: See `SHRINKAGE`.
        """
        moments, device = moments.cpu(), moments.device
        moments = moments / moments[-1, -1].clamp(min=1)
        mean = moments[-1, :-1]
        variance, axes = torch.linalg.eigh(moments[:-1, :-1] - torch.outer(mean, mean))
        variance = torch.lerp(variance, variance.mean(), shrinkage).clamp(min=_ROUNDING**2)
        # The symmetric root: it is the same whatever signs and order the axes have, and where variances are equal.
        whitening = (axes * variance.rsqrt()) @ axes.T
        return cls(mean.to(device), whitening.to(device))

    @classmethod
    def load(cls, version: Path, device: torch.device) -> "SearchSpace":
        """The map that the search vectors of a full version of the embeddings are by.

        Raises:
            ArtifactError: The file is missing or damaged.
        """
        open_artifact(version, "embeddings", part=SPACE)
        return cls(**load_tensors(version / SPACE, device))

    def save(self, folder: Path) -> None:
        """Write the file that `load` reads."""
        save_tensors(dict(vars(self)), folder / SPACE)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Search vectors of length 1, zero where a vector is the mean, (num_rows, dim)."""
        found = torch.empty_like(vectors)
        for block, into in zip(vectors.split(_BLOCK), found.split(_BLOCK), strict=True):
            centred = block - self.mean  # in double precision
            centred[torch.linalg.vector_norm(centred, dim=1) < _ROUNDING] = 0
            into.copy_(unit(centred @ self.whitening))
        return found


def moments_of(vectors: Tensor) -> Tensor:
    """Sum of x xᵀ over vectors (num_rows, dim), each with a 1 behind it, float64 (dim + 1, dim + 1)."""
    size = vectors.shape[1] + 1
    moments = torch.zeros(size, size, dtype=torch.float64, device=vectors.device)
    for block in vectors.split(_BLOCK):
        with_one = functional.pad(block.double(), (0, 1), value=1.0)
        moments.addmm_(with_one.T, with_one)
    return moments


def _moments(run: TrainedRun, memory: Memory) -> Tensor:
    """The moments of the rank's seen entities."""
    size = run.model.config.dim + 1
    total = torch.zeros(size, size, dtype=torch.float64, device=run.device)
    for rows, vectors in vector_groups(run, memory):
        total += moments_of(vectors[memory.last_seen[rows] >= 0])
    return total
