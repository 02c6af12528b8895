"""How much the vectors count for a query, beside the counted past."""

import torch
from torch import Tensor, nn

from gam_kg.history.pair_features import PARTS
from gam_kg.nn.history_attention import FeatureRows
from gam_kg.nn.relation_rows import RelationRows


class Gate(nn.Module):
    """A factor of the inner products of a query, exp(b[r] + ⟨1 + A[r], F[past]⟩); at the start it is 1.

    The past is how recently, how often and how repetitively (s, r, ?) was answered before, so that a query whose
    answers repeat can count on its history, and a new one on the vectors.
    """

    width, least, most = 4, -4.0, 2.0

    def __init__(self, num_relations: int) -> None:
        super().__init__()
        self.relation = RelationRows(num_relations, self.width, 0.3)
        self.bias = RelationRows(num_relations, 1, 0.0)
        self.past = FeatureRows(PARTS["query"], self.width, 0.0)

    def forward(self, relation: Tensor, bias: Tensor, past: Tensor) -> Tensor:
        """The factor of each query, (num_queries, 1).

        Args:
            relation: Its row of `relation`, (num_queries, width).
            bias: Its row of `bias`, (num_queries, 1).
            past: The feature "query" of each, see `pair_features`, int (num_queries,).
        """
        found = self.past().index_select(0, past) * (1 + relation)
        exponent = found.sum(1, keepdim=True) + bias
        return torch.exp(exponent.clamp(self.least, self.most))
