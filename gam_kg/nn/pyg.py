"""For use beside other PyG models: the layer as a PyG convolution, and snapshots to and from PyG `Data`."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from gam_kg.graph.snapshot import Snapshot
from gam_kg.nn.gam import GraphAttention


class GraphAttentionConv(MessagePassing):
    """A `GraphAttention` as a PyG convolution: the same parameters, arguments and results.

    It attends by itself and not by `propagate`, which is slower; hooks of `propagate` are not called.
    """

    def __init__(self, layer: GraphAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
        """See `GraphAttention.forward`."""
        return self.layer(*args, **kwargs)


def to_data(snapshot: Snapshot) -> Data:
    """A snapshot as a PyG graph over its active entities.

    It has `edge_index` int64 (2, num_edges) from `other` to `anchor`, `edge_type` int64 (num_edges,), `node_id` the
    entity of each node, int64 (num_nodes,), and the numbers `time` and `num_relations`.
    """
    nodes = torch.unique(torch.cat([snapshot.anchor, snapshot.other]))
    edges = torch.stack([torch.searchsorted(nodes, end) for end in (snapshot.other, snapshot.anchor)])
    data = Data(edge_index=edges, edge_type=snapshot.relation, node_id=nodes, num_nodes=len(nodes))
    data["time"], data["num_relations"] = snapshot.time, snapshot.num_relations
    return data


def from_data(data: Data) -> Snapshot:
    """The snapshot of a PyG graph made by `to_data`, its edges in any order.

    Raises:
        ValueError: The graph lacks one of the attributes that `to_data` gives.
    """
    missing = [name for name in ("edge_index", "edge_type", "node_id", "time", "num_relations") if name not in data]
    if missing:
        raise ValueError(f"the graph has no {', '.join(missing)}; expected what gam_kg.nn.pyg.to_data gives")
    other, anchor = data["node_id"][data["edge_index"]]
    order = torch.argsort(anchor, stable=True)
    return Snapshot(data["time"], anchor[order], data["edge_type"][order], other[order], data["num_relations"])
