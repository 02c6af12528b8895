from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gam_kg.nn import sparse_attention as module
from gam_kg.nn.sparse_attention import GatheredAttention, SparseAttention, edge_attention, edge_softmax

DIM, NUM_TYPES = 4, 3
WAYS = [GatheredAttention, SparseAttention]
HUB = [(source, 2, source % NUM_TYPES) for source in range(5)] * 2
assert_exact = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def by_autograd(query, message, relation, edge_index, edge_type, heads):
    """Rows for all edges, and gradients by autograd alone."""
    src, dst = edge_index

    def split(x):
        return x.reshape(len(x), heads, DIM // heads)

    (key, value), (relation_key, relation_value) = (
        [split(half) for half in x.chunk(2, 1)] for x in (message, relation)
    )
    scores = (split(query)[dst] * (key[src] + relation_key[edge_type])).sum(-1) / (DIM // heads) ** 0.5
    weights = edge_softmax(scores, dst, len(query))
    weighted = (value[src] + relation_value[edge_type]) * weights[..., None]
    return torch.zeros_like(split(query)).index_add(0, dst, weighted).flatten(1), weights


def tensors_of(num_src, num_dst, edges, seed=0):
    torch.manual_seed(seed)
    src, dst, edge_type = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).T
    shapes = (num_dst, DIM), (num_src, 2 * DIM), (NUM_TYPES, 2 * DIM)
    tables = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    return tables, torch.stack([src, dst]), edge_type


@st.composite
def graphs(draw):
    num_src, num_dst = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    edge = st.tuples(st.integers(0, num_src - 1), st.integers(0, num_dst - 1), st.integers(0, NUM_TYPES - 1))
    return num_src, num_dst, draw(st.lists(edge, max_size=20))


def assert_same(way, num_src, num_dst, edges, heads, seed):
    tables, *rest = tensors_of(num_src, num_dst, edges, seed)
    found, expected = way.apply(*tables, *rest, heads), by_autograd(*tables, *rest, heads)
    grads = [torch.randn_like(part) for part in expected]
    gradients = [torch.autograd.grad(parts, tables, grads) for parts in (found, expected)]
    for mine, theirs in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert_exact(mine, theirs)


@pytest.mark.parametrize("way", WAYS)
@given(graphs(), st.sampled_from([1, 2, 4]), st.integers(0, 1000))
@example((5, 4, HUB), 2, 0)  # one destination gets all edges, each twice, and the others none
@example((2, 3, []), 2, 0)
@example((3, 0, []), 1, 0)
@settings(max_examples=60, deadline=None)
def test_output_weights_and_gradients_are_those_of_autograd(way, graph, heads, seed):
    assert_same(way, *graph, heads, seed)


@pytest.mark.parametrize("way", WAYS)
def test_many_edges_in_any_order(way):
    torch.manual_seed(0)
    edges = torch.stack([torch.randint(0, size, (3000,)) for size in (40, 30, NUM_TYPES)], 1)
    assert_same(way, 40, 35, edges.tolist(), 2, 0)


@pytest.mark.parametrize("index_dtypes", [(torch.int32, torch.int32), (torch.int32, torch.int64)])
@pytest.mark.parametrize("way", WAYS)
def test_indices_of_either_dtype_give_the_same(way, index_dtypes):
    tables, edge_index, edge_type = tensors_of(5, 4, [*HUB, (0, 0, 1), (4, 0, 1)])
    results = []
    for dtypes in (index_dtypes, (torch.int64, torch.int64)):
        parts = way.apply(*tables, edge_index.to(dtypes[0]), edge_type.to(dtypes[1]), 2)
        torch.manual_seed(1)
        results.append((*parts, *torch.autograd.grad(parts, tables, [torch.randn_like(part) for part in parts])))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*results, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_that_of_finite_differences(way):
    tables, *rest = tensors_of(5, 4, [*HUB, (0, 0, 1), (4, 0, 1)])
    assert torch.autograd.gradcheck(lambda *tables: way.apply(*tables, *rest, 2), tables)


@pytest.mark.parametrize("way", WAYS)
def test_weights_of_huge_scores_are_finite(way):
    tables, *rest = tensors_of(5, 4, HUB)
    out, weights = way.apply(*(1e4 * table for table in tables), *rest, 1)
    assert out.isfinite().all()
    assert torch.equal(weights.sum(), torch.ones((), dtype=torch.float64))


def test_the_number_of_edges_decides_the_implementation(monkeypatch):
    called = []
    for way in WAYS:
        monkeypatch.setattr(way, "apply", lambda *_, way=way: called.append(way))
    for num_edges in (0, module._FEW_EDGES, module._FEW_EDGES + 1):
        edge = torch.zeros(num_edges, dtype=torch.int64)
        edge_attention(torch.zeros(1, DIM), torch.zeros(1, 2 * DIM), torch.zeros(1, 2 * DIM), edge, edge, 1)
    assert called == [GatheredAttention, GatheredAttention, SparseAttention]


def test_half_precision_is_computed_in_single():
    tables, *rest = tensors_of(5, 4, HUB)
    half = [table.detach().to(torch.bfloat16).requires_grad_() for table in tables]
    out, weights = edge_attention(*half, *rest, 2)
    expected, _ = by_autograd(*(table.float() for table in half), *rest, 2)
    assert out.dtype == weights.dtype == torch.float32
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert all(table.grad.dtype == torch.bfloat16 for table in half)
