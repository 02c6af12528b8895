import copy

import pytest
import torch
from torch.nn import functional
from torch_geometric.nn import GCNConv, MessagePassing, Sequential

from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.nn.gam import GraphAttention
from gam_kg.nn.pyg import GraphAttentionConv, from_data, to_data


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


def trained(layer, second, relations, data, forward):
    """Output of two layers, and all gradients and parameters after a step of training."""
    parameters = [*layer.parameters(), *second.parameters(), relations]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    torch.manual_seed(3)  # of the slopes of the randomised ReLU
    out = forward(data.x, data.edge_index, data.edge_type, relations)
    functional.cross_entropy(out, data.node_id % 2).backward()
    optimizer.step()
    return out, *(parameter.grad for parameter in parameters), *parameters


def test_in_a_model_of_pytorch_geometric_it_trains_as_the_plain_layer():
    torch.manual_seed(0)
    data = to_data(snapshot())
    data.x = torch.randn(data.num_nodes, 8)
    parts = GraphAttention(8, 2), GCNConv(8, 2), torch.nn.Parameter(torch.randn(4, 8))
    layer, second, relations = copy.deepcopy(parts)
    conv = GraphAttentionConv(layer)
    assert isinstance(conv, MessagePassing)
    model = Sequential(
        "x, edge_index, edge_type, relations",
        [(conv, "x, edge_index, edge_type, relations -> x"), torch.nn.ReLU(), (second, "x, edge_index -> x")],
    )
    assert {id(each) for each in layer.parameters()} < {id(each) for each in model.parameters()}
    found = trained(layer, second, relations, data, model)

    def plain(x, edge_index, edge_type, relations):
        return parts[1](torch.relu(parts[0](x, edge_index, edge_type, relations)), edge_index)

    for mine, theirs in zip(found, trained(*parts, data, plain), strict=True):
        assert torch.equal(mine, theirs)


def test_the_convolution_runs_on_pairs_and_returns_weights():
    data, layer = to_data(snapshot()), GraphAttention(8, 2).eval()
    arguments = (torch.randn(2, data.num_nodes, 8).unbind(), data.edge_index, data.edge_type, torch.randn(4, 8), True)
    found, expected = GraphAttentionConv(layer)(*arguments), layer(*arguments)
    assert expected[0].shape == (data.num_nodes, 8)
    assert expected[1].shape == (data.num_edges, 2)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_another_graph_is_refused():
    data = to_data(snapshot())
    del data.node_id
    with pytest.raises(ValueError, match="node_id"):
        from_data(data)
