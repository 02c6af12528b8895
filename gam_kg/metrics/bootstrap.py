"""Paired bootstrap: how far the difference of two scorers could be due to which queries were ranked."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Difference:
    """Mean of one scorer minus mean of another, on the same answers.

    Attributes:
        mean: The difference of the means.
        low, high: Ends of its 95 % interval.
    """

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_difference(
    first: np.ndarray, second: np.ndarray, query: np.ndarray | None = None, *, resamples: int = 1000, seed: int = 0
) -> Difference:
    """See `paired_differences`, of one other scorer."""
    return paired_differences(first, {"": second}, query, resamples=resamples, seed=seed)[""]


def paired_differences(
    first: np.ndarray,
    others: Mapping[str, np.ndarray],
    query: np.ndarray | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """The difference of two mean reciprocal ranks, with its 95 % percentile interval, for each of some other scorers.

    Whole queries are drawn with replacement, since the answers of a query depend on each other; all scorers get the
    same draws, so what makes a query hard for both cancels. The interval is about other queries of the same kind. It
    does not cover what another seed of training would change.

    Source: Efron, Bootstrap methods: another look at the jackknife, 1979; Koehn, Statistical significance tests for
    machine translation evaluation, 2004, section 3.

    Args:
        first: Reciprocal ranks, float (num_answers,), at least one.
        others: Those of other scorers on the same answers, by name, float (num_answers,) each.
        query: Number of each answer's query, as `number_rows` gives it, int64 (num_answers,); None: each answer is a
            query of its own.
        resamples: How often as many queries as there are are drawn.
        seed: Equal seeds give equal intervals.

    Raises:
        ValueError: There are no answers, or the arrays differ in length.
    """
    for second in (*others.values(), *(() if query is None else (query,))):
        if not len(first) or len(first) != len(second):
            raise ValueError(f"expected reciprocal ranks of the same answers, found {len(first)} and {len(second)}")
    query = np.arange(len(first)) if query is None else query
    columns = [*(first - second for second in others.values()), np.ones(len(first))]
    totals = np.stack([np.bincount(query, weights=column) for column in columns], 1)[np.bincount(query) > 0]
    generator, size, means = np.random.default_rng(seed), len(totals), []
    for start in range(0, resamples, step := max(1, _DRAWS_AT_ONCE // size)):
        drawn = generator.integers(0, size, (min(step, resamples - start), size), dtype=np.int32)
        times = np.stack([np.bincount(row, minlength=size) for row in drawn]).astype(np.float64)
        sums = times @ totals
        means.append(sums[:, :-1] / sums[:, -1:])
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975), axis=0).tolist()
    *sums, count = totals.sum(0).tolist()
    return {name: Difference(total / count, *ends) for name, total, *ends in zip(others, sums, low, high, strict=True)}


def number_rows(*columns: np.ndarray) -> np.ndarray:
    """Number the distinct rows of a table from 0 on, in their sorted order.

    Args:
        columns: Equally long columns, as snapshot, subject and relation of each answer for the number of its query.

    Returns:
        The number of each row, int64 (num_rows,).
    """
    number = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, position = np.unique(column, return_inverse=True)
        number = np.unique(number * len(values) + position, return_inverse=True)[1]
    return number
