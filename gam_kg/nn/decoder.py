"""Decoders: how a (subject, relation) becomes a query vector that is matched with every candidate by inner product."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional


class Decoder(nn.Module, ABC):
    """Scores are `query(z_s, x_r) · candidate`, so that serving is maximum-inner-product search.

    Candidates are the entity vectors z themselves, as they are exported.
    """

    @abstractmethod
    def forward(self, subject: Tensor, relation: Tensor) -> Tensor:
        """Query vectors.

        Args:
            subject: z of the subjects, (num_queries, dim).
            relation: Relation vectors, (num_queries, dim).

        Returns:
            (num_queries, dim).
        """


class MLPDecoder(Decoder):
    """q = LayerNorm(z_s∘x_r·√d + MLP[z_s, x_r, z_s∘x_r])."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dim = dim
        self.mlp = nn.Sequential(nn.Linear(3 * dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, subject: Tensor, relation: Tensor) -> Tensor:
        product = subject * relation
        return self.norm(product * self.dim**0.5 + self.mlp(torch.cat([subject, relation, product], -1)))


class DistMult(Decoder):
    """q = scale · z_s∘x_r. Source: Yang et al. 2015, eq. 2, with a learned scale since z is of unit length."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(dim)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, subject: Tensor, relation: Tensor) -> Tensor:
        return self.scale * self.dropout(subject * relation)


class ComplEx(Decoder):
    """q = scale · [Re(s r), Im(s r)] for halves read as real and imaginary parts; q · o = Re⟨s, r, conj(o)⟩.

    Source: Trouillon et al. 2016, eq. 11.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(dim)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, subject: Tensor, relation: Tensor) -> Tensor:
        subject_real, subject_imaginary = subject.chunk(2, -1)
        real, imaginary = relation.chunk(2, -1)
        product = torch.cat(
            [subject_real * real - subject_imaginary * imaginary, subject_real * imaginary + subject_imaginary * real],
            -1,
        )
        return self.scale * self.dropout(product)


class ConvTransE(Decoder):
    """A 1-D convolution over the stacked (z_s, x_r), then a linear map. Source: Shang et al. 2019, eq. 3 to 5.

    LayerNorm in place of BatchNorm: a query's score must not depend on the other queries.
    """

    kernels, width = 50, 3

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.dropout = dropout
        self.convolution = nn.Conv1d(2, self.kernels, self.width, padding=self.width // 2)
        self.channel_norm = nn.LayerNorm(self.kernels * dim)
        self.linear = nn.Linear(self.kernels * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, subject: Tensor, relation: Tensor) -> Tensor:
        stacked = torch.stack([subject * self.scale, relation * self.scale], 1)
        stacked = functional.dropout(stacked, self.dropout, self.training)
        maps = functional.relu(self.channel_norm(self.convolution(stacked).flatten(1)))
        return self.norm(self.linear(functional.dropout(maps, self.dropout, self.training)))


DECODERS: dict[str, type[Decoder]] = {
    "mlp": MLPDecoder,
    "distmult": DistMult,
    "complex": ComplEx,
    "conv_transe": ConvTransE,
}
