"""GAM: graph attention within a snapshot, over relational edges."""

import torch
from torch import Tensor, nn

from gam_kg.nn.dropout import dropout, rrelu
from gam_kg.nn.sparse_attention import Edges, edge_attention
from gam_kg.ops.counter_rng import RowRNG


class GraphAttention(nn.Module):
    """Relational multi-head graph attention, called as a PyG layer is; `gam_kg.nn.pyg` makes it one.

    In dense form: scores = Q Kᵀ/√d_head + mask, weights = softmax(scores), output = weights V, where the mask is 0 on
    edges and −∞ elsewhere, and keys and values include the edge's relation: k = W_k x_u + W_kr x_r,
    v = W_v x_u + W_vr x_r. Then a self-loop W_s x_v, a randomised leaky ReLU and dropout.

    `forward` is `message`, `aggregate` and `update`; a caller that exchanges messages between ranks calls them itself.

    Source: Vaswani et al. 2017, eq. 1, with the relational keys and values of Shaw et al. 2018, eq. 3 and 4.

    Args:
        dim: Width of entity and relation vectors; a multiple of `heads`.
        heads: Number of attention heads.
        dropout: Share of output values dropped in training.

    Attributes:
        sites: Where it uses random numbers.
    """

    sites = ("gam rrelu", "gam dropout")

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dim, self.dropout = heads, dim, dropout
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.relation_key = nn.Linear(dim, dim, bias=False)
        self.relation_value = nn.Linear(dim, dim, bias=False)
        self.self_loop = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Tensor,
        edge_type: Tensor,
        relations: Tensor,
        return_attention_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend over incoming edges.

        Args:
            x: Entity vectors (num_nodes, dim), or a pair of source and destination vectors.
            edge_index: Rows (src, dst), int32 or int64 (2, num_edges).
            edge_type: Relation of each edge, int32 or int64 (num_edges,).
            relations: Relation vectors (num_edge_types, dim).
            return_attention_weights: Also return the weights, (num_edges, heads).

        Returns:
            Output (num_dst, dim), and the weights if requested.
        """
        source, target = x if isinstance(x, tuple) else (x, x)
        message = self.message(source)
        aggregated, weights = self.aggregate(self.query(target), message, edge_index, edge_type, relations)
        out = self.update(aggregated, target)
        return (out, weights) if return_attention_weights else out

    def message(self, x: Tensor) -> Tensor:
        """Messages of the sources, without the relation: keys beside values, (num_src, 2 * dim)."""
        return torch.cat([self.key(x), self.value(x)], 1)

    def aggregate(
        self,
        query: Tensor,
        message: Tensor,
        edge_index: Edges,
        edge_type: Tensor,
        relations: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Attention over edges, of `query` of the destinations and `message` of the sources; see `forward`.

        Returns:
            Weighted values (num_dst, dim), zero without edges, and weights (num_edges, heads).
        """
        relation = torch.cat([self.relation_key(relations), self.relation_value(relations)], 1)
        return edge_attention(query, message, relation, edge_index, edge_type, self.heads)

    def update(self, aggregated: Tensor, target: Tensor, rng: RowRNG | None = None) -> Tensor:
        """Self-loop, non-linearity and dropout, row by row, (num_dst, dim).

        Args:
            aggregated: Weighted values, (num_dst, dim).
            target: Vectors of the destinations, (num_dst, dim).
            rng: Random numbers of the destinations; None: torch's.
        """
        of_slope, of_dropout = self.sites
        out = rrelu(aggregated + self.self_loop(target), rng, of_slope, training=self.training)
        return dropout(out, self.dropout, rng, of_dropout, training=self.training)
