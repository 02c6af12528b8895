import pytest
import torch

from gam_kg.data.graph import TemporalGraph
from gam_kg.nn.gam import GraphAttention
from gam_kg.nn.pyg import from_data, to_data


def snapshot():
    facts = torch.randint(0, 5, (12, 4), generator=torch.Generator().manual_seed(0))
    facts[:, 0] += 3
    facts[:, 1] %= 2
    facts[:, 3] = 7
    facts = torch.unique(facts, dim=0)
    graph = TemporalGraph.from_facts(facts.numpy(), num_entities=20, num_relations=2, valid_start=8, test_start=9)
    return graph.snapshot(7)


def test_there_and_back():
    first = snapshot()
    data = to_data(first)
    data.validate()
    shuffled = data.clone()
    order = torch.randperm(data.num_edges)
    shuffled.edge_index, shuffled.edge_type = data.edge_index[:, order], data.edge_type[order]
    for found in (from_data(data), from_data(shuffled)):
        # Rows of one anchor may come in any order of relation and other; as sets they are the same.
        rows = [torch.stack([each.anchor, each.relation, each.other], 1) for each in (first, found)]
        assert torch.equal(*[torch.unique(row, dim=0) for row in rows])
        assert torch.equal(first.active, found.active)
        assert found.time == 7


def test_the_layer_runs_on_it():
    data = to_data(snapshot())
    layer = GraphAttention(8, 2)
    out, weights = layer(torch.randn(data.num_nodes, 8), data.edge_index, data.edge_type, torch.randn(4, 8), True)
    assert out.shape == (data.num_nodes, 8)
    assert weights.shape == (data.num_edges, 2)


def test_another_graph_is_refused():
    data = to_data(snapshot())
    del data.node_id
    with pytest.raises(ValueError, match="node_id"):
        from_data(data)
