"""Decoders: how a (subject, relation) becomes a query vector that is matched with every candidate by inner product."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from gam_kg.nn.noise import RowNoise, dropout


class Decoder(nn.Module, ABC):
    """Scores are `query(z_s, x_r) · candidate`, so that serving is maximum-inner-product search.

    Candidates are the entity vectors z themselves, as they are exported.

    Args:
        dim: Width of entity and relation vectors.
        dropout: Share of values dropped in training.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dim, self.dropout = dim, dropout

    @abstractmethod
    def forward(self, subject: Tensor, relation: Tensor, noise: RowNoise | None = None) -> Tensor:
        """Query vectors.

        Args:
            subject: z of the subjects, (num_queries, dim).
            relation: Relation vectors, (num_queries, dim).
            noise: Noise of the queries; None: torch's.

        Returns:
            (num_queries, dim).
        """

    def _dropout(self, x: Tensor, noise: RowNoise | None, site: str = "decoder") -> Tensor:
        return dropout(x, self.dropout, noise, site, training=self.training)


class MLPDecoder(Decoder):
    """q = LayerNorm(z_s∘x_r·√d + MLP[z_s, x_r, z_s∘x_r])."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(dim, dropout)
        self.wide = nn.Linear(3 * dim, 2 * dim)
        self.narrow = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, subject: Tensor, relation: Tensor, noise: RowNoise | None = None) -> Tensor:
        product = subject * relation
        hidden = functional.gelu(self.wide(torch.cat([subject, relation, product], -1)))
        return self.norm(product * self.dim**0.5 + self.narrow(self._dropout(hidden, noise)))


class DistMult(Decoder):
    """q = scale · z_s∘x_r. Source: Yang et al. 2015, eq. 2, with a learned scale since z is of unit length."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(dim, dropout)
        self.scale = nn.Parameter(torch.tensor(float(dim)))

    def forward(self, subject: Tensor, relation: Tensor, noise: RowNoise | None = None) -> Tensor:
        return self.scale * self._dropout(subject * relation, noise)


class ComplEx(Decoder):
    """q = scale · [Re(s r), Im(s r)] for halves read as real and imaginary parts; q · o = Re⟨s, r, conj(o)⟩.

    Source: Trouillon et al. 2016, eq. 11.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(dim, dropout)
        self.scale = nn.Parameter(torch.tensor(float(dim)))

    def forward(self, subject: Tensor, relation: Tensor, noise: RowNoise | None = None) -> Tensor:
        subject_real, subject_imaginary = subject.chunk(2, -1)
        real, imaginary = relation.chunk(2, -1)
        product = torch.cat(
            [subject_real * real - subject_imaginary * imaginary, subject_real * imaginary + subject_imaginary * real],
            -1,
        )
        return self.scale * self._dropout(product, noise)


class ConvTransE(Decoder):
    """A 1-D convolution over the stacked (z_s, x_r), then a linear map. Source: Shang et al. 2019, eq. 3 to 5.

    LayerNorm in place of BatchNorm: a query's score must not depend on the other queries.
    """

    kernels, width = 50, 3

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(dim, dropout)
        self.scale = dim**0.5
        self.convolution = nn.Conv1d(2, self.kernels, self.width, padding=self.width // 2)
        self.channel_norm = nn.LayerNorm(self.kernels * dim)
        self.linear = nn.Linear(self.kernels * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, subject: Tensor, relation: Tensor, noise: RowNoise | None = None) -> Tensor:
        stacked = torch.cat([subject * self.scale, relation * self.scale], 1)
        stacked = self._dropout(stacked, noise, "decoder input").view(len(subject), 2, self.dim)
        maps = functional.relu(self.channel_norm(self.convolution(stacked).flatten(1)))
        return self.norm(self.linear(self._dropout(maps, noise)))


DECODERS: dict[str, type[Decoder]] = {
    "mlp": MLPDecoder,
    "distmult": DistMult,
    "complex": ComplEx,
    "conv_transe": ConvTransE,
}
