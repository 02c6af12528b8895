"""Intervals of the difference of two scorers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gam_kg.metrics.bootstrap import number_rows, paired_difference

seeds = st.integers(0, 10_000)


def reciprocal_ranks(seed, size):
    return 1 / np.random.default_rng(seed).geometric(0.2, (2, size))


@given(seeds, st.integers(1, 60), st.integers(1, 12))
@settings(max_examples=40)
def test_the_difference_is_that_of_the_means_and_changes_sign_with_the_order(seed, size, num_queries):
    first, second = reciprocal_ranks(seed, size)
    query = np.random.default_rng(seed).integers(0, num_queries, size)
    found = paired_difference(first, second, query)
    assert found.mean == pytest.approx(first.mean() - second.mean(), abs=1e-12)
    assert found.low <= found.high
    swapped = paired_difference(second, first, query)
    assert [swapped.mean, swapped.low, swapped.high] == pytest.approx([-found.mean, -found.high, -found.low])
    assert found == paired_difference(first, second, query)


def test_three_queries_of_unequal_size_by_hand():
    # Every draw of one query three times has probability 1/27, more than the 2.5 % beyond each end.
    query = np.array([7, 7, 7, 0, 0, 3])
    first = np.array([0.9, 0.3, 0.3, 0.2, 0.1, 0.5])
    found = paired_difference(first, np.zeros(6), query, resamples=4000)
    assert [found.mean, found.low, found.high] == pytest.approx([2.3 / 6, 0.15, 0.5])


def test_answers_of_a_query_are_not_counted_as_if_each_were_drawn():
    first, second = reciprocal_ranks(3, 200)
    alone = paired_difference(first, second)
    five = paired_difference(np.repeat(first, 5), np.repeat(second, 5), np.repeat(np.arange(200), 5))
    assert [five.mean, five.low, five.high] == pytest.approx([alone.mean, alone.low, alone.high])
    apart = paired_difference(np.repeat(first, 5), np.repeat(second, 5))
    assert (apart.high - apart.low) * 5**0.5 == pytest.approx(alone.high - alone.low, rel=0.1)


def test_what_is_common_to_both_scorers_cancels():
    first, _ = reciprocal_ranks(0, 500)
    found = paired_difference(first + 0.25, first)
    assert [found.mean, found.low, found.high] == pytest.approx([0.25] * 3)
    assert found.is_clear
    assert not paired_difference(first, first).is_clear


def test_the_width_is_that_of_the_normal_distribution_on_many_queries():
    first, second = reciprocal_ranks(1, 20_000)
    found, error = paired_difference(first, second), (first - second).std() / 20_000**0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert (found.high + found.low) / 2 == pytest.approx(found.mean, abs=0.2 * error)


def test_intervals_cover_the_true_difference_in_about_95_of_100_samples():
    covered = 0
    for seed in range(300):
        first, second = reciprocal_ranks(seed, 150)  # of the same distribution: the true difference is zero
        found = paired_difference(first, second, resamples=400, seed=seed)
        covered += found.low <= 0 <= found.high
    assert 0.91 <= covered / 300 <= 0.98


def test_what_cannot_be_paired_is_refused():
    for first, second, query in (([], [], None), ([1.0], [1.0, 0.5], None), ([1.0], [1.0], [0, 1])):
        with pytest.raises(ValueError, match="same answers"):
            paired_difference(np.array(first), np.array(second), query and np.array(query))


@given(st.lists(st.tuples(st.integers(-2, 2), st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=30))
def test_equal_rows_and_only_those_have_equal_numbers(rows):
    numbers = number_rows(*map(np.array, zip(*rows, strict=True)))
    assert [sorted(set(rows))[number] for number in numbers] == rows
