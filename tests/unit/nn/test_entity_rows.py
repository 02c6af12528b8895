import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gam_kg.nn.entity_rows import WeightedWords, named_rows, own_or_shared
from gam_kg.ops.sparse import CSRPattern, csr_offsets

NUM_WORDS, DIM = 4, 3
index_dtypes = pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
names = st.lists(st.lists(st.integers(0, NUM_WORDS - 1), max_size=4), max_size=6)


def words_of(names, index_dtype=torch.int64):
    """The words of each name, all of weight one."""
    offsets = csr_offsets(torch.tensor([len(name) for name in names], dtype=torch.int64))
    word = torch.tensor([word for name in names for word in name], dtype=index_dtype)
    return WeightedWords(CSRPattern.of(offsets, word, NUM_WORDS), torch.ones(len(word), dtype=torch.float64))


def weighted(words):
    """The same with other weights, negative ones among them."""
    return WeightedWords(words.pattern, torch.randn_like(words.weight))


def tensors_of(num_rows):
    shapes = (num_rows, DIM), (DIM,), (NUM_WORDS, DIM)
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def rows_one_by_one(entity, shared, own, word, names, weight):
    rows, weights = [], iter(weight)
    for row, name in enumerate(names):
        added = sum((next(weights) * word[index] for index in name), start=torch.zeros(DIM, dtype=word.dtype))
        rows.append((entity[row] if own[row] else shared) + added)
    return torch.stack(rows) if rows else entity


@index_dtypes
@given(names, st.integers(0, 1000))
@example([[0, 0, 1], [], [3]], 0)  # a word twice, a name without words, a word of no name
@example([], 0)
@settings(max_examples=60, deadline=None)
def test_rows_and_gradients_are_those_of_a_loop_over_entities(index_dtype, names, seed):
    torch.manual_seed(seed)
    inputs = entity, shared, word = tensors_of(len(names))
    own, words = torch.rand(len(names)) < 0.5, weighted(words_of(names, index_dtype))
    found = named_rows(entity, shared, own, word, words)
    expected = rows_one_by_one(entity, shared, own, word, names, words.weight)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad(rows, inputs, grad, allow_unused=True, materialize_grads=True) for rows in (found, expected)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    words, own = weighted(words_of([[1, 2], [], [1]])), torch.tensor([True, False, False])
    assert torch.autograd.gradcheck(lambda e, s, w: named_rows(e, s, own, w, words), tensors_of(3))
    assert torch.autograd.gradcheck(lambda e, s: named_rows(e, s, own), tensors_of(3)[:2])


def test_the_own_row_of_an_entity_without_one_may_be_anything():
    entity, shared = torch.tensor([[torch.nan], [2.0]], requires_grad=True), torch.ones(1, requires_grad=True)
    rows = named_rows(entity, shared, torch.tensor([False, True]))
    assert rows.tolist() == [[1], [2]]
    rows.sum().backward()
    assert entity.grad.tolist() == [[0], [1]]
    assert shared.grad.tolist() == [1]


@index_dtypes
def test_own_rows_at_positions_are_those_by_mask(index_dtype):
    torch.manual_seed(0)
    own = torch.tensor([False, True, True, False, True])
    at = torch.nonzero(own)[:, 0].to(index_dtype)
    entity, shared, _ = tensors_of(5)
    compact = entity.detach()[own].requires_grad_()
    found, expected = own_or_shared(compact, shared, at, 5), named_rows(entity, shared, own)
    assert torch.equal(found, expected)
    grad = torch.randn_like(expected)
    mine, theirs = (
        torch.autograd.grad(*each, grad) for each in ((found, (compact, shared)), (expected, (entity, shared)))
    )
    assert torch.equal(mine[0], theirs[0][own])
    assert torch.equal(mine[1], theirs[1])


def test_words_of_some_rows_have_their_weights():
    torch.manual_seed(0)
    words = weighted(words_of([[1, 2], [], [1], [0, 3, 3]]))
    own, word = torch.ones(4, dtype=torch.bool), torch.randn(NUM_WORDS, DIM, dtype=torch.float64)
    zeros = torch.zeros(4, DIM, dtype=torch.float64)
    some = torch.tensor([3, 0])
    found = named_rows(zeros[some], zeros[0], own[some], word, words.select(some, NUM_WORDS))
    assert torch.equal(found, named_rows(zeros, zeros[0], own, word, words)[some])
