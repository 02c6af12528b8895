import subprocess
import sys
from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from gam_kg.nn.gam import GraphAttention
from gam_kg.nn.sparse_attention import edge_softmax

DIM, NUM_TYPES = 4, 3
EVAL_SLOPE = (1 / 8 + 1 / 3) / 2
assert_exact = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def attention(heads):
    layer = GraphAttention(DIM, heads).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer.eval()


def dense_attention(layer, source, target, edge_index, edge_type, relations):
    """softmax(Q Kᵀ/√d_head + mask) V over all (source, relation) columns, one head at a time.

    The mask is 0 on edges and −∞ elsewhere; an edge that is there n times counts n times, so its mask is log n.
    """
    num_dst, num_src, num_types = len(target), len(source), len(relations)
    times = torch.zeros(num_dst, num_src, num_types, dtype=source.dtype)
    times.index_put_((edge_index[1], edge_index[0], edge_type), torch.ones(1, dtype=source.dtype), accumulate=True)
    mask = times.log().flatten(1)
    reached = times.flatten(1).any(1)
    width = DIM // layer.heads
    outputs, weights = [], torch.zeros(len(edge_type), layer.heads, dtype=source.dtype)
    for head in range(layer.heads):
        rows = slice(head * width, (head + 1) * width)

        def linear(part, x, rows=rows):
            return x @ part.weight[rows].T

        query = linear(layer.query, target)
        key = linear(layer.key, source)[:, None] + linear(layer.relation_key, relations)
        value = linear(layer.value, source)[:, None] + linear(layer.relation_value, relations)
        scores = query[reached] @ key.flatten(0, 1).T / width**0.5 + mask[reached]
        attended = torch.zeros_like(mask).index_put((torch.nonzero(reached)[:, 0],), scores.softmax(1))
        outputs.append(attended @ value.flatten(0, 1))
        each = attended.view_as(times) / times.clamp(min=1)
        weights[:, head] = each[edge_index[1], edge_index[0], edge_type]
    out = torch.cat(outputs, 1) + target @ layer.self_loop.weight.T + layer.self_loop.bias
    return functional.leaky_relu(out, EVAL_SLOPE), weights


@st.composite
def graphs(draw):
    num_nodes = draw(st.integers(1, 6))
    node = st.integers(0, num_nodes - 1)
    edges = draw(st.lists(st.tuples(node, node, st.integers(0, NUM_TYPES - 1)), max_size=14))
    return num_nodes, edges


def tensors_of(num_nodes, edges, seed):
    torch.manual_seed(seed)
    src, dst, edge_type = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).T
    x = torch.randn(num_nodes, DIM, dtype=torch.float64, requires_grad=True)
    relations = torch.randn(NUM_TYPES, DIM, dtype=torch.float64, requires_grad=True)
    return x, torch.stack([src, dst]), edge_type, relations


def gradients(result, layer, inputs):
    output, weights = result
    torch.manual_seed(1)
    loss = (output * torch.randn_like(output)).sum() + (weights * torch.randn_like(weights)).sum()
    return torch.autograd.grad(loss, [*inputs, *layer.parameters()], allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("heads", [1, 2, 4])
@given(graph=graphs(), seed=st.integers(0, 1000))
@example(graph=(3, [(0, 1, 0), (0, 1, 1), (0, 1, 2), (2, 1, 0)]), seed=0)  # parallel edges, nodes without any
@example(graph=(2, [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 0, 0)]), seed=0)  # self-loops, and an edge twice
@example(graph=(4, []), seed=0)
@settings(max_examples=40)
def test_sparse_attention_is_dense_attention(heads, graph, seed):
    layer = attention(heads)
    x, edge_index, edge_type, relations = tensors_of(*graph, seed)
    sparse = layer(x, edge_index, edge_type, relations, return_attention_weights=True)
    dense = dense_attention(layer, x, x, edge_index, edge_type, relations)
    for found, expected in zip(sparse, dense, strict=True):
        assert_exact(found, expected)
    inputs = (x, relations)
    for found, expected in zip(gradients(sparse, layer, inputs), gradients(dense, layer, inputs), strict=True):
        assert_exact(found, expected)


def test_sources_and_destinations_may_differ():
    layer = attention(2)
    source, target = torch.randn(5, DIM, dtype=torch.float64), torch.randn(2, DIM, dtype=torch.float64)
    relations = torch.randn(NUM_TYPES, DIM, dtype=torch.float64)
    edge_index, edge_type = torch.tensor([[4, 3, 0, 4], [0, 0, 0, 0]]), torch.tensor([0, 1, 2, 2])
    sparse = layer((source, target), edge_index, edge_type, relations, return_attention_weights=True)
    dense = dense_attention(layer, source, target, edge_index, edge_type, relations)
    assert len(sparse[0]) == 2
    for found, expected in zip(sparse, dense, strict=True):
        assert_exact(found, expected)


def test_indices_of_either_dtype_give_the_same():
    layer = attention(2)
    x, edge_index, edge_type, relations = tensors_of(4, [(0, 1, 0), (2, 1, 1), (3, 2, 0)], seed=0)
    found = layer(x, edge_index.int(), edge_type.int(), relations, return_attention_weights=True)
    expected = layer(x, edge_index, edge_type, relations, return_attention_weights=True)
    gradients_of = [gradients(each, layer, (x, relations)) for each in (found, expected)]
    for mine, theirs in zip((*found, *gradients_of[0]), (*expected, *gradients_of[1]), strict=True):
        assert torch.equal(mine, theirs)


@given(graphs(), st.integers(0, 1000))
@settings(max_examples=30)
def test_weights_sum_to_one_at_each_destination(graph, seed):
    x, edge_index, edge_type, relations = tensors_of(*graph, seed)
    _, weights = attention(2)(x, edge_index, edge_type, relations, return_attention_weights=True)
    total = torch.zeros(len(x), 2, dtype=torch.float64).index_add(0, edge_index[1], weights.detach())
    reached = torch.bincount(edge_index[1], minlength=len(x)) > 0
    torch.testing.assert_close(total, reached[:, None].expand(-1, 2).double())


def test_softmax_of_huge_scores_is_finite_and_unchanged_by_a_shift():
    scores = torch.tensor([[1e4], [1e4 - 1], [-1e4]], dtype=torch.float64)
    weights = edge_softmax(scores, torch.tensor([0, 0, 1]), 3)
    torch.testing.assert_close(weights[:2, 0], torch.tensor([1.0, 0.0], dtype=torch.float64).softmax(0))
    assert weights[2] == 1


@pytest.mark.parametrize("module", ["gam_kg.nn.gam", "gam_kg.training.trainer", "pipelines.cli"])
def test_pytorch_geometric_is_not_imported(module):
    code = f"import sys, {module}; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_empty_graph_gives_empty_output():
    layer = GraphAttention(8, 4)
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    out, weights = layer(torch.zeros(0, 8), nothing, nothing[0], torch.randn(3, 8), True)
    assert out.shape == (0, 8)
    assert weights.shape == (0, 4)
