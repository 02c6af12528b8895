import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gam_kg.nn.entity_rows import WordLinks, named_rows

NUM_WORDS, DIM = 4, 3
names = st.lists(st.lists(st.integers(0, NUM_WORDS - 1), max_size=4), max_size=6)


def links_of(names):
    count = torch.tensor([len(name) for name in names], dtype=torch.int64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])
    return WordLinks.of(torch.tensor([word for name in names for word in name], dtype=torch.int64), offsets)


def tensors_of(num_rows):
    shapes = (num_rows, DIM), (DIM,), (NUM_WORDS, DIM)
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def rows_one_by_one(entity, shared, own, word, names):
    rows = []
    for row, name in enumerate(names):
        mean = sum((word[index] for index in name), start=torch.zeros(DIM, dtype=word.dtype)) / max(1, len(name))
        rows.append((entity[row] if own[row] else shared) + mean)
    return torch.stack(rows) if rows else entity


@given(names, st.integers(0, 1000))
@example([[0, 0, 1], [], [3]], 0)  # a word twice, a name without words, a word of no name
@example([], 0)
@settings(max_examples=60, deadline=None)
def test_rows_and_gradients_are_those_of_a_loop_over_entities(names, seed):
    torch.manual_seed(seed)
    inputs = entity, shared, word = tensors_of(len(names))
    own, links = torch.rand(len(names)) < 0.5, links_of(names)
    found = named_rows(entity, shared, own, word, links, links.turned(NUM_WORDS))
    expected = rows_one_by_one(entity, shared, own, word, names)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad(rows, inputs, grad, allow_unused=True, materialize_grads=True) for rows in (found, expected)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    links = links_of([[1, 2], [], [1]])
    turned, own = links.turned(NUM_WORDS), torch.tensor([True, False, False])
    assert torch.autograd.gradcheck(lambda e, s, w: named_rows(e, s, own, w, links, turned), tensors_of(3))
    assert torch.autograd.gradcheck(lambda e, s: named_rows(e, s, own), tensors_of(3)[:2])


def test_a_row_that_is_not_its_own_may_hold_anything():
    entity, shared = torch.tensor([[torch.nan], [2.0]], requires_grad=True), torch.ones(1, requires_grad=True)
    rows = named_rows(entity, shared, torch.tensor([False, True]))
    assert rows.tolist() == [[1], [2]]
    rows.sum().backward()
    assert entity.grad.tolist() == [[0], [1]]
    assert shared.grad.tolist() == [1]


@given(names, st.data())
def test_the_links_of_some_rows_are_theirs(names, data):
    rows = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=5)) if names else []
    word = torch.randn(NUM_WORDS, DIM, dtype=torch.float64)
    rows, links = torch.tensor(rows, dtype=torch.int64), links_of(names)
    torch.testing.assert_close(links.select(rows).sums(word), links.sums(word)[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_words_are_averaged_in_the_dtype_of_their_rows(dtype):
    word = torch.ones(NUM_WORDS, DIM, dtype=dtype)
    found = links_of([[0, 1, 2]]).sums(word)
    torch.testing.assert_close(found, word[:1], rtol=0, atol=1e-7 if dtype == torch.float32 else 1e-15)
