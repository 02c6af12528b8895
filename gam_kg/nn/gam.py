"""GAM: graph attention within a snapshot, over relational edges."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from gam_kg.nn.noise import RowNoise, dropout, rrelu
from gam_kg.nn.sparse_attention import edge_attention


class GraphAttention(MessagePassing):
    """Relational multi-head graph attention, usable as a layer of any PyG model.

    In dense form: scores = Q Kᵀ/√d_head + mask, weights = softmax(scores), output = weights V, where the mask is 0 on
    edges and −∞ elsewhere and keys and values carry the edge's relation: k = W_k x_u + W_kr x_r,
    v = W_v x_u + W_vr x_r. Then a self-loop W_s x_v and a randomised leaky ReLU.

    Edges are walked by `edge_attention`, not by `propagate`, which takes longer.

    Source: Vaswani et al. 2017, eq. 1, with the relational keys and values of Shaw et al. 2018, eq. 3 and 4.

    Args:
        dim: Width of entity and relation vectors; a multiple of `heads`.
        heads: Number of attention heads.
        dropout: Share of output values dropped in training.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(aggr="add", node_dim=0)
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
            edge_index: Rows (src, dst), int64 (2, num_edges).
            edge_type: Relation of each edge, int64 (num_edges,).
            relations: Relation vectors (num_edge_types, dim).
            return_attention_weights: Also return the weights, (num_edges, heads).

        Returns:
            Output (num_dst, dim), and the weights when asked for.
        """
        source, target = x if isinstance(x, tuple) else (x, x)
        out, weights = self.attend(target, self.project(source), edge_index, edge_type, relations)
        return (out, weights) if return_attention_weights else out

    def project(self, x: Tensor) -> Tensor:
        """What sources send, without the relation: keys beside values, (num_nodes, 2 * dim)."""
        return torch.cat([self.key(x), self.value(x)], 1)

    def attend(
        self,
        target: Tensor,
        sent: Tensor,
        edge_index: Tensor,
        edge_type: Tensor,
        relations: Tensor,
        noise: RowNoise | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend to what sources have sent.

        Args:
            target: Vectors of the destinations, (num_dst, dim).
            sent: `project` of the sources, (num_src, 2 * dim).
            edge_index: Rows (src, dst), int64 (2, num_edges).
            edge_type: Relation of each edge, int64 (num_edges,).
            relations: Relation vectors (num_edge_types, dim).
            noise: Noise of the destinations; None: torch's.

        Returns:
            Output (num_dst, dim) and weights (num_edges, heads).
        """
        told, weights = self.listen(self.query(target), sent, edge_index, edge_type, relations)
        return self.answer(told, target, noise), weights

    def listen(
        self, query: Tensor, sent: Tensor, edge_index: Tensor, edge_type: Tensor, relations: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The first half of `attend`: what the edges tell the queries of destinations, and the weights."""
        kinds = torch.cat([self.relation_key(relations), self.relation_value(relations)], 1)
        return edge_attention(query, sent, kinds, edge_index, edge_type, self.heads)

    def answer(self, told: Tensor, target: Tensor, noise: RowNoise | None = None) -> Tensor:
        """The second half of `attend`, row by row: the self-loop and the non-linearity; (num_dst, dim)."""
        out = rrelu(told + self.self_loop(target), noise, "gam rrelu", training=self.training)
        return dropout(out, self.dropout, noise, "gam dropout", training=self.training)
