"""Decoders: they map a (subject, relation) to a query vector, whose inner product with a candidate is its score."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from gam_kg.nn.dropout import dropout
from gam_kg.nn.vectors import unit
from gam_kg.ops.counter_rng import RowRNG


class Decoder(nn.Module, ABC):
    """Scores are `query(z_s, x_r) · z_o`, so that serving is maximum-inner-product search over exported vectors z.

    Args:
        dim: Width of entity and relation vectors.
        dropout: Share of values dropped in training.

    Attributes:
        sites: Where it uses random numbers.
    """

    sites: tuple[str, ...] = ("decoder",)

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dim, self.dropout = dim, dropout

    @abstractmethod
    def forward(self, subject: Tensor, relation: Tensor, rng: RowRNG | None = None) -> Tensor:
        """Query vectors, (num_queries, dim).

        Args:
            subject: z of the subjects, (num_queries, dim).
            relation: Relation vectors, (num_queries, dim).
            rng: Random numbers of the queries; None: torch's.
        """

    def _dropout(self, x: Tensor, rng: RowRNG | None, site: str = "decoder") -> Tensor:
        return dropout(x, self.dropout, rng, site, training=self.training)


class MLPDecoder(Decoder):
    """q = LayerNorm(z_s∘x_r·√d + MLP[z_s·√d, unit(x_r)·√d, z_s∘unit(x_r)·d]).

    The factors make each number that the MLP reads about one, so that it is not linear in them.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(dim, dropout)
        self.wide = nn.Linear(3 * dim, 2 * dim)
        self.narrow = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, subject: Tensor, relation: Tensor, rng: RowRNG | None = None) -> Tensor:
        product = subject * relation
        read_subject, read_relation = subject * self.dim**0.5, unit(relation) * self.dim**0.5
        hidden = functional.gelu(self.wide(torch.cat([read_subject, read_relation, read_subject * read_relation], -1)))
        return self.norm(product * self.dim**0.5 + self.narrow(self._dropout(hidden, rng)))


class DistMult(Decoder):
    """q = scale · z_s∘x_r. Source: Yang et al. 2015, eq. 2, with a learned scale since z is of unit length."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(dim, dropout)
        self.scale = nn.Parameter(torch.tensor(float(dim)))

    def forward(self, subject: Tensor, relation: Tensor, rng: RowRNG | None = None) -> Tensor:
        return self.scale * self._dropout(self.product(subject, relation), rng)

    def product(self, subject: Tensor, relation: Tensor) -> Tensor:
        """Products of subjects and relations, (num_queries, dim)."""
        return subject * relation


class ComplEx(DistMult):
    """q = scale · [Re(s r), Im(s r)] for halves read as real and imaginary parts; q · o = Re⟨s, r, conj(o)⟩.

    Source: Trouillon et al. 2016, eq. 11.
    """

    def product(self, subject: Tensor, relation: Tensor) -> Tensor:
        """Complex products, (num_queries, dim)."""
        (left_real, left_imaginary), (right_real, right_imaginary) = subject.chunk(2, -1), relation.chunk(2, -1)
        real = left_real * right_real - left_imaginary * right_imaginary
        imaginary = left_real * right_imaginary + left_imaginary * right_real
        return torch.cat([real, imaginary], -1)


class ConvTransE(Decoder):
    """A 1-D convolution over the stacked (z_s, x_r), then a linear map. Source: Shang et al. 2019, eq. 3 to 5.

    LayerNorm in place of BatchNorm: a query's score must not depend on the other queries.
    """

    sites = ("decoder input", "decoder")
    kernels, width = 50, 3

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(dim, dropout)
        self.scale = dim**0.5
        self.convolution = nn.Conv1d(2, self.kernels, self.width, padding=self.width // 2)
        self.channel_norm = nn.LayerNorm(self.kernels * dim)
        self.linear = nn.Linear(self.kernels * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, subject: Tensor, relation: Tensor, rng: RowRNG | None = None) -> Tensor:
        stacked = torch.cat([subject * self.scale, relation * self.scale], 1)
        stacked = self._dropout(stacked, rng, "decoder input").view(len(subject), 2, self.dim)
        maps = functional.relu(self.channel_norm(self.convolution(stacked).flatten(1)))
        return self.norm(self.linear(self._dropout(maps, rng)))


DECODERS: dict[str, type[Decoder]] = {
    "mlp": MLPDecoder,
    "distmult": DistMult,
    "complex": ComplEx,
    "conv_transe": ConvTransE,
}
