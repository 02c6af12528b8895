import pytest
import torch

from gam_kg.nn.scores import add_scores, column_scores


@pytest.mark.parametrize("num_apart", [0, 3])
def test_popularity_is_added_to_products_with_its_gradients(num_apart):
    torch.manual_seed(0)
    sizes = (5, 3), (4, 3), (2, 4)
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    of_query = torch.tensor([0, 1, 1, 0, 1])
    query, columns, popularity = inputs
    apart = torch.zeros(num_apart, dtype=torch.float64)
    expected = torch.cat([(query @ columns.T + popularity[of_query]).flatten(), apart])
    torch.testing.assert_close(column_scores(*inputs, of_query, num_apart), expected)
    assert torch.autograd.gradcheck(lambda *values: column_scores(*values, of_query, num_apart), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = column_scores(*(each.float() for each in inputs), of_query, num_apart)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("num_apart", [0, 3])
def test_without_popularity_columns_score_the_products(num_apart):
    torch.manual_seed(0)
    query, columns = (torch.randn(size, 3, dtype=torch.float64, requires_grad=True) for size in (5, 4))
    expected = torch.cat([(query @ columns.T).flatten(), torch.zeros(num_apart, dtype=torch.float64)])
    torch.testing.assert_close(column_scores(query, columns, None, None, num_apart), expected)
    assert torch.autograd.gradcheck(lambda *values: column_scores(*values, None, None, num_apart), (query, columns))


def test_scores_of_pairs_are_added_with_their_gradients():
    torch.manual_seed(0)
    scores = torch.randn(12, dtype=torch.float64, requires_grad=True)
    added = torch.randn(5, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([1, 8, 11, 1, 6])  # the first twice

    def add(scores, added):
        return add_scores(scores.clone(), positions, added)

    expected = scores.detach().clone()
    for position, value in zip(positions.tolist(), added.tolist(), strict=True):
        expected[position] += value
    torch.testing.assert_close(add(scores, added), expected)
    assert torch.autograd.gradcheck(add, (scores, added))
    overwritten = scores.detach().clone()
    assert add_scores(overwritten, positions, added.detach()).data_ptr() == overwritten.data_ptr()
    assert torch.equal(add_scores(scores.clone(), positions[:0], added[:0]), scores)
