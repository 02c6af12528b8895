"""The best of products and what is added to them: those of the full ranking, however products are rounded."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.errors import EvaluationError
from gam_kg.metrics import product_scores
from gam_kg.metrics.product_scores import ProductScores
from gam_kg.ops import top_k


@st.composite
def products(draw):
    """Products of small whole numbers, of which many tie, and a ragged number of added scores, some of them zero."""
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    num_queries, num_rows = draw(st.sampled_from([1, 2, 9, 13])), draw(st.sampled_from([1, 5, 63, 64, 65, 300]))
    query, candidates = (
        torch.from_numpy(generator.integers(-2, 3, (number, 4)).astype(np.float32))
        for number in (num_queries, num_rows)
    )
    num_pairs = draw(st.sampled_from([0, 1, 40, 500]))
    pairs = (torch.from_numpy(generator.integers(0, number, num_pairs)) for number in (num_queries, num_rows))
    return ProductScores(query, candidates, *pairs, torch.from_numpy(generator.integers(-4, 5, num_pairs)).float())


def written_out(scores):
    table = scores.query @ scores.candidates.T
    return table.index_put_((scores.pair_query, scores.pair_row), scores.pair_score, accumulate=True).numpy()


def ranking(table):
    """Columns of each row, the highest first, of equal ones the smaller number first."""
    columns = np.broadcast_to(np.arange(table.shape[1]), table.shape)
    return np.lexsort((columns, -table))


@pytest.fixture(params=[(2**20, 2**20, 256), (64, 10, 256), (2**20, 2**20, 3), (640, 10, 2)])
def small(request, monkeypatch):
    """Many tiles, few candidates that may wait, and small groups of the first columns."""
    monkeypatch.setattr(product_scores, "_SCORES_TO_SCREEN", request.param[0])
    monkeypatch.setattr(top_k, "_MOST_PENDING", request.param[1])
    monkeypatch.setattr(top_k, "_GROUP", request.param[2])


@given(products(), st.integers(1, 300))
@settings(max_examples=60)
@pytest.mark.usefixtures("small")
def test_the_best_are_the_first_of_the_full_ranking(scores, k):
    table = written_out(scores)
    expected = ranking(table)[:, : min(k, table.shape[1])]
    rows, found = scores.best(expected.shape[1], longest=8)
    assert rows.tolist() == expected.tolist()
    assert found.tolist() == np.take_along_axis(table, expected, 1).tolist()


@given(products(), st.data())
@settings(max_examples=40)
def test_the_best_among_some_are_the_first_of_these_in_the_full_ranking(scores, data):
    table = written_out(scores)
    rows = data.draw(st.sets(st.integers(0, table.shape[1] - 1), min_size=1))
    some = torch.tensor(sorted(rows))
    found = some[scores.among(some).best(len(some), longest=8)[0]]
    assert found.tolist() == [[row for row in order if row in rows] for order in ranking(table).tolist()]


@given(products(), st.integers(1, 20))
@settings(max_examples=60)
def test_the_best_products_merged_with_the_pairs_that_are_added_to_are_the_full_ranking(scores, k):
    """Serving is a search for the k + |history| highest products, and a merge with the history of the query."""
    table, num_rows = written_out(scores), len(scores.candidates)
    nothing = scores.pair_query[:0]
    dense = ProductScores(scores.query, scores.candidates, nothing, nothing, scores.pair_score[:0])
    for query in range(len(scores.query)):
        history = set(scores.pair_row[scores.pair_query == query].tolist())
        highest = dense.best(min(k + len(history), num_rows), longest=8)[0][query].tolist()
        merged = sorted(history.union(highest), key=lambda row: (-table[query, row], row))
        assert merged[:k] == ranking(table)[query, :k].tolist()


class Rounded:
    """`torch.mm` whose results are off by as much as sums in single precision may be, each time otherwise."""

    def __init__(self, product, dim):
        self.product, self.most = product, dim * 2.0**-24
        self.generator, self.calls = torch.Generator().manual_seed(0), 0

    def __call__(self, left, right, out=None):
        found = self.product(left, right, out=out)
        size = torch.linalg.vector_norm(left, dim=1)[:, None] * torch.linalg.vector_norm(right, dim=0)
        self.calls += 1
        return found.add_((torch.rand(found.shape, generator=self.generator) * 2 - 1) * size * self.most)


@pytest.mark.parametrize("num_queries", [1, 20])
def test_the_best_do_not_depend_on_how_products_are_rounded(monkeypatch, num_queries):
    monkeypatch.setattr(product_scores, "_SCORES_TO_SCREEN", 2**12)
    generator = torch.Generator().manual_seed(1)
    candidates = torch.nn.functional.normalize(torch.randn(50, 30, generator=generator)).repeat(20, 1)  # many are equal
    candidates += 1e-7 * torch.randn(candidates.shape, generator=generator)
    nothing = torch.zeros(0, dtype=torch.int64)
    query = torch.randn(num_queries, 30, generator=generator)
    scores = ProductScores(query, candidates, nothing, nothing, torch.zeros(0))
    exact = (query.double() @ candidates.double().T).float().numpy()
    rounded = Rounded(torch.mm, 30)
    monkeypatch.setattr(torch, "mm", rounded)
    rows, _ = scores.best(30, longest=1.001)
    assert rounded.calls > 1
    assert rows.tolist() == ranking(exact)[:, :30].tolist()
    assert not np.array_equal(ranking(rounded(query, candidates.T).numpy())[:, :30], rows.numpy()), "it must matter"


def test_look_sees_every_score_once():
    generator = torch.Generator().manual_seed(2)
    query, candidates = (torch.randn(number, 6, generator=generator) for number in (3, 200))
    nothing, seen = torch.zeros(0, dtype=torch.int64), []
    scores = ProductScores(query, candidates, nothing, nothing, torch.zeros(0))
    scores.best(4, longest=10, look=lambda tile: seen.append(tile.clone()))
    torch.testing.assert_close(torch.cat(seen, 1), query @ candidates.T)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = ProductScores(torch.ones(2, 3), torch.ones(90, 3), *torch.tensor([[1], [80]]), torch.tensor([bad]))
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        scores.best(5, longest=2)
