"""Products compared tile by tile have the ranks that the written-out scores have."""

import tracemalloc

import numpy as np
import pytest
import torch
from rank_threads import in_threads
from torch.utils._python_dispatch import TorchDispatchMode

from gam_kg.errors import EvaluationError
from gam_kg.graph.partition import Partition
from gam_kg.graph.snapshot import Queries
from gam_kg.metrics import product_scores
from gam_kg.metrics.product_scores import ProductScores
from gam_kg.metrics.ranks import rank_answers


def random_scores(seed, num_queries=7, num_rows=1000, num_answers=(1,)):
    """Products of small whole numbers, which no order of adding rounds and of which many tie; queries take turns."""
    generator = np.random.default_rng(seed)
    query, candidates = (
        torch.from_numpy(generator.integers(-2, 3, (number, 5)).astype(np.float32))
        for number in (num_queries, num_rows)
    )
    pair_query, pair_row = (torch.from_numpy(generator.integers(0, n, 300)) for n in (num_queries, num_rows))
    added = torch.from_numpy(generator.integers(-2, 3, 300).astype(np.float32))
    scores = ProductScores(query, candidates, pair_query, pair_row, added)
    numbers = [num_answers[query % len(num_answers)] for query in range(num_queries)]
    answers = [generator.choice(num_rows, number, replace=False) for number in numbers]
    answer_query = torch.arange(num_queries).repeat_interleave(torch.tensor(numbers))
    number, answer = torch.arange(num_queries), torch.from_numpy(np.concatenate(answers))
    return scores, Queries(7, number + 50, number + 70, answer_query, answer)


def written_out(scores):
    table = scores.query @ scores.candidates.T
    return table.index_put_((scores.pair_query, scores.pair_row), scores.pair_score, accumulate=True)


@pytest.mark.parametrize("num_answers", [(0,), (1,), (5,), (1, 3), (2, 0, 1)])
@pytest.mark.parametrize(("most", "num_rows"), [(2**18, 1000), (64, 1000), (64, 64), (64, 65), (900, 50), (64, 20_000)])
def test_ranks_are_those_of_the_written_out_scores(monkeypatch, most, num_rows, num_answers):
    monkeypatch.setattr(product_scores, "_SCORES_IN_CACHE", most)
    scores, queries = random_scores(num_rows, num_rows=num_rows, num_answers=num_answers)
    found = rank_answers(scores, queries, Partition(num_rows))
    expected = rank_answers(written_out(scores), queries)
    assert torch.equal(found.raw, expected.raw)
    assert torch.equal(found.time_aware, expected.time_aware)


def test_the_mean_ranks_as_the_mean_of_the_written_out_scores():
    parts, (queries, *_) = zip(*(random_scores(seed) for seed in range(4)), strict=True)
    found = rank_answers(ProductScores.mean(parts), queries, Partition(1000))
    expected = rank_answers(sum(map(written_out, parts)) / 4, queries)
    assert torch.equal(found.raw, expected.raw)
    assert torch.equal(found.time_aware, expected.time_aware)
    assert not torch.equal(found.raw, rank_answers(parts[0], queries, Partition(1000)).raw)


def test_what_many_answers_of_a_query_take_is_bounded(monkeypatch):
    num_rows, largest = 20_000, 0
    scores, queries = random_scores(0, num_queries=2, num_rows=num_rows, num_answers=(1000, 1))
    rank_answers(scores, queries, Partition(num_rows))

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            largest = max(largest, found.numel() if isinstance(found, torch.Tensor) else 0)
            return found

    monkeypatch.setattr(product_scores, "_SCORES_IN_CACHE", 2**14)
    with Noted():  # what torch imports for the first dispatch mode is no part of ranking
        rank_answers(scores, queries, Partition(num_rows))
    tracemalloc.start()
    try:
        with Noted():
            rank_answers(scores, queries, Partition(num_rows))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All answers against all candidates would be 20 million numbers.
    assert largest <= 5 * num_rows
    assert peak < 2**20


def whole_numbers(generator, *shape):
    """Vectors whose products are whole numbers, which no processor rounds."""
    return torch.randint(-8, 9, shape, generator=generator).float()


@pytest.mark.parametrize("num_queries", [1, 2, 13])
@pytest.mark.parametrize("num_rows", [1009, 1010, 1011, 1012, 1013])
def test_candidates_with_equal_vectors_tie_wherever_they_stand(monkeypatch, num_queries, num_rows):
    monkeypatch.setattr(product_scores, "_SCORES_IN_CACHE", 2**10)
    generator = torch.Generator().manual_seed(0)
    candidates = whole_numbers(generator, 1, 100).expand(num_rows, 100).contiguous()
    none = torch.zeros(0, dtype=torch.int64)
    scores = ProductScores(whole_numbers(generator, num_queries, 100), candidates, none, none, torch.zeros(0))
    answer = torch.tensor([0, 1, 63, 64, 65, 500, 959, 960, 1000, *range(num_rows - 4, num_rows)])
    number = torch.arange(num_queries)
    for answers in answer.roll(3).split(num_queries):
        query = number[: len(answers)]
        some = ProductScores(scores.query[: len(answers)], candidates, none, none, torch.zeros(0))
        found = rank_answers(some, Queries(7, query, query, query, answers), Partition(num_rows))
        assert found.raw.tolist() == [(num_rows + 1) / 2] * len(answers)


@pytest.mark.parametrize("num_queries", [1, 2, 5])
def test_the_best_is_first_wherever_it_stands(num_queries):
    generator, num_rows = torch.Generator().manual_seed(1), 20_003
    candidates = whole_numbers(generator, num_rows, 100)
    none, number = torch.zeros(0, dtype=torch.int64), torch.arange(num_queries)
    for last in range(6):
        answer = torch.full((num_queries,), num_rows - 1 - last)
        scores = ProductScores(candidates[answer] * 3, candidates, none, none, torch.zeros(0))
        found = rank_answers(scores, Queries(7, number, number, number, answer), Partition(num_rows))
        assert found.raw.tolist() == [1.0] * num_queries


class RoundedAnew(TorchDispatchMode):
    """Every product is rounded differently, also the same one twice: no processor does worse."""

    def __init__(self):
        super().__init__()
        self.generator, self.num_products = torch.Generator().manual_seed(0), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.mm.out):
            found.mul_(1 + (torch.rand(found.shape, generator=self.generator) - 0.5) * 2**-20)
            self.num_products += 1
        return found


def distinct_scores(num_queries, num_rows, num_answers):
    """Products that are whole numbers, no two of a query alike, and pairs that add to them; many answers."""
    generator = torch.Generator().manual_seed(num_rows)
    order = torch.randperm(num_rows, generator=generator)[:, None].float()
    query = torch.ones(num_queries, 1)
    query[::2] = -1
    pair_query, pair_row = (torch.randint(size, (100,), generator=generator) for size in (num_queries, num_rows))
    scores = ProductScores(query, order, pair_query, pair_row, torch.full((100,), 2.0 * num_rows))
    answer = torch.cat([torch.randperm(num_rows, generator=generator)[:num_answers] for _ in range(num_queries)])
    number = torch.arange(num_queries)
    return scores, Queries(7, number, number, number.repeat_interleave(num_answers), answer)


@pytest.mark.parametrize("num_answers", [1, 30])
@pytest.mark.parametrize("num_queries", [1, 6])
@pytest.mark.parametrize(("most", "num_rows"), [(2**18, 500), (64, 500), (64, 64), (64, 50), (1000, 999)])
def test_ranks_do_not_depend_on_how_products_are_rounded(monkeypatch, most, num_rows, num_queries, num_answers):
    monkeypatch.setattr(product_scores, "_SCORES_IN_CACHE", most)
    scores, queries = distinct_scores(num_queries, num_rows, num_answers)
    expected = rank_answers(written_out(scores), queries)
    with RoundedAnew() as rounded:
        found = rank_answers(scores, queries, Partition(num_rows))
    assert rounded.num_products > 1
    assert torch.equal(found.raw, expected.raw)
    assert torch.equal(found.time_aware, expected.time_aware)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_of_several_shards_do_not_depend_on_how_products_are_rounded(monkeypatch, world_size):
    monkeypatch.setattr(product_scores, "_SCORES_IN_CACHE", 64)
    scores, queries = distinct_scores(6, 500, 30)
    expected = rank_answers(written_out(scores), queries)

    def shard(rank, total):
        part = Partition(500, 5, rank, world_size)
        own = part.owns(scores.pair_row)
        pairs = scores.pair_query[own], part.rows(scores.pair_row[own]), scores.pair_score[own]
        with RoundedAnew():
            return rank_answers(ProductScores(scores.query, scores.candidates[part.ids], *pairs), queries, part, total)

    for found in in_threads(world_size, shard):
        assert torch.equal(found.raw, expected.raw)
        assert torch.equal(found.time_aware, expected.time_aware)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("row", [0, 999])
def test_scores_that_are_not_finite_are_refused_wherever_they_stand(monkeypatch, bad, row):
    monkeypatch.setattr(product_scores, "_SCORES_IN_CACHE", 2**10)
    scores, queries = random_scores(0)
    scores.pair_query[5], scores.pair_row[5], scores.pair_score[5] = 3, row, bad
    with pytest.raises(EvaluationError, match="subject 53, relation 73"):
        rank_answers(scores, queries, Partition(1000))
