import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.errors import EvaluationError
from gam_kg.graph.snapshot import Queries
from gam_kg.metrics.ranks import rank_answers


@st.composite
def cases(draw):
    """Scores with many ties, and for each query any number of distinct answers."""
    num_queries, num_candidates = draw(st.integers(0, 5)), draw(st.integers(1, 8))
    row = st.lists(st.integers(-1, 2), min_size=num_candidates, max_size=num_candidates)
    scores = draw(st.lists(row, min_size=num_queries, max_size=num_queries))
    answers = [draw(st.lists(st.integers(0, num_candidates - 1), unique=True)) for _ in range(num_queries)]
    return scores, answers


def queries_of(answers):
    flat = [(query, answer) for query, each in enumerate(answers) for answer in each]
    answer_query, answer = torch.tensor(flat, dtype=torch.int64).reshape(-1, 2).T
    return Queries(7, torch.arange(len(answers)) + 50, torch.arange(len(answers)) + 70, answer_query, answer)


def brute_rank(scores, target, ignored):
    """Mean position of the target over all orders of the candidates that score the same."""
    others = [score for candidate, score in enumerate(scores) if candidate not in ignored and candidate != target]
    best = 1 + sum(score > scores[target] for score in others)
    return (best + best + sum(score == scores[target] for score in others)) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(cases())
@settings(max_examples=100)
def test_ranks_are_those_of_sorting_by_hand(dtype, case):
    scores, answers = case
    width = len(scores[0]) if scores else 3
    found = rank_answers(torch.tensor(scores, dtype=dtype).reshape(-1, width), queries_of(answers))
    pairs = [(query, answer) for query, each in enumerate(answers) for answer in each]
    assert found.raw.tolist() == [brute_rank(scores[query], answer, ()) for query, answer in pairs]
    assert found.time_aware.tolist() == [brute_rank(scores[query], answer, answers[query]) for query, answer in pairs]


def test_ranks_among_more_candidates_than_are_compared_at_once():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 50, (12, 20_000)).astype(np.float32)
    answers = [generator.choice(20_000, number, replace=False).tolist() for number in range(12)]
    found = rank_answers(torch.from_numpy(scores), queries_of(answers))
    pairs = [(query, answer) for query, each in enumerate(answers) for answer in each]
    raw, filtered = [], []
    for query, answer in pairs:
        target = scores[query, answer]
        others = np.delete(scores[query], answer)
        unknown = np.delete(scores[query], answers[query])
        for ranks, rivals in ((raw, others), (filtered, unknown)):
            ranks.append(1 + (rivals > target).sum() + (rivals == target).sum() / 2)
    assert found.raw.tolist() == raw
    assert found.time_aware.tolist() == filtered


@pytest.mark.parametrize("num_candidates", [1, 2, 9, 10])
def test_equal_scores_give_the_middle_rank(num_candidates):
    found = rank_answers(torch.zeros(1, num_candidates), queries_of([[0]]))
    assert found.raw.tolist() == found.time_aware.tolist() == [(num_candidates + 1) / 2]


def test_the_filter_removes_other_true_answers_of_the_same_query_only():
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0]])
    found = rank_answers(scores, queries_of([[0, 2], [3]]))
    assert found.raw.tolist() == [1, 3, 4]
    assert found.time_aware.tolist() == [1, 2, 4]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", [(0, 0), (1, 2), (2, 3)])
def test_scores_that_are_not_finite_are_refused_wherever_they_stand(bad, where):
    scores = torch.zeros(3, 4)
    scores[where] = bad
    message = rf"subject {50 + where[0]}, relation {70 + where[0]}, \?\) at snapshot 7"
    with pytest.raises(EvaluationError, match=message):
        rank_answers(scores, queries_of([[0], [1], []]))


def test_infinities_of_both_signs_do_not_cancel():
    with pytest.raises(EvaluationError):
        rank_answers(torch.tensor([[torch.inf, -torch.inf]]), queries_of([[0]]))


def test_finite_scores_whose_sum_overflows_are_fine():
    huge = torch.finfo(torch.float32).max
    found = rank_answers(torch.tensor([[huge, huge, 0.0]]), queries_of([[2]]))
    assert found.raw.tolist() == [3]


def test_ranks_are_float64_and_scores_stay_as_they_were():
    scores = torch.tensor([[1.0, 2.0]])
    found = rank_answers(scores, queries_of([[0]]))
    assert found.raw.dtype == found.time_aware.dtype == torch.float64
    assert np.array_equal(scores.numpy(), [[1.0, 2.0]])
