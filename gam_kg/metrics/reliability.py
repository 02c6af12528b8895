"""How honest probabilities are: expected calibration error and log-likelihood, by horizon."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gam_kg.metrics.horizons import HORIZONS, horizon_bin

_BINS = 10

KINDS = ("raw", "calibrated")
"""The softmax of the scores, and that of the scores divided by the temperature."""


@dataclass(frozen=True)
class Reliability:
    """Sums over queries and answers, which add up.

    Attributes:
        queries, best, hits: Number of queries, sum of the probability of their best candidates, and number of these
            that are answers, by horizon, kind and probability of the best candidate in tenths, float64.
        answers: Number of answers by horizon, float64.
        log_answer: Sum of the logarithms of their probabilities, by horizon and kind, float64.
    """

    queries: np.ndarray = field(default_factory=lambda: np.zeros((len(HORIZONS), len(KINDS), _BINS)))
    best: np.ndarray = field(default_factory=lambda: np.zeros((len(HORIZONS), len(KINDS), _BINS)))
    hits: np.ndarray = field(default_factory=lambda: np.zeros((len(HORIZONS), len(KINDS), _BINS)))
    answers: np.ndarray = field(default_factory=lambda: np.zeros(len(HORIZONS)))
    log_answer: np.ndarray = field(default_factory=lambda: np.zeros((len(HORIZONS), len(KINDS))))

    def add(self, horizon: int, log_answer: np.ndarray, best: np.ndarray, is_answer: np.ndarray) -> None:
        """Add queries of one horizon.

        Args:
            horizon: See `Queries.horizon`.
            log_answer: Logarithm of each answer's probability by kind, float64 (num_answers, 2).
            best: Probability of each query's best candidate by kind, float64 (num_queries, 2).
            is_answer: Whether that candidate is an answer, bool (num_queries,).
        """
        at = int(horizon_bin(horizon))
        tenth = np.minimum((best * _BINS).astype(int), _BINS - 1)
        for kind in range(len(KINDS)):
            self.queries[at, kind] += np.bincount(tenth[:, kind], minlength=_BINS)
            self.best[at, kind] += np.bincount(tenth[:, kind], best[:, kind], _BINS)
            self.hits[at, kind] += np.bincount(tenth[:, kind], is_answer, _BINS)
        self.answers[at] += len(log_answer)
        self.log_answer[at] += log_answer.sum(0)

    def compute(self) -> dict[str, dict[str, Any]]:
        """By bin of the horizon that has queries: `count` of them; for each kind `ece_...` and `log_likelihood_...`.

        `tenths` has, for each kind, the tenths of the probability of the best candidate that have queries: `count` of
        them, mean `probability`, and `share` of the queries that the candidate answers.

        `ece`, the expected calibration error, is how far the probability of the best candidate is from the share of
        queries that it answers, over tenths of the probability and weighted by their queries. `log_likelihood` is the
        mean over answers.

        Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning".
        """
        tree: dict[str, dict[str, Any]] = {}
        for at, name in enumerate(HORIZONS):
            number = self.queries[at, 0].sum()
            if number:
                error = np.abs(self.best[at] - self.hits[at]).sum(1) / number
                tree[name] = {"count": int(number)}
                for kind, of_kind, log_answer in zip(KINDS, error, self.log_answer[at], strict=True):
                    tree[name][f"ece_{kind}"] = float(of_kind)
                    tree[name][f"log_likelihood_{kind}"] = float(log_answer / self.answers[at])
                tree[name]["tenths"] = {kind: self._tenths(at, index) for index, kind in enumerate(KINDS)}
        return tree

    def _tenths(self, at: int, kind: int) -> list[dict[str, float]]:
        columns = (self.queries[at, kind], self.best[at, kind], self.hits[at, kind])
        return [
            {"count": int(count), "probability": float(best / count), "share": float(hits / count)}
            for count, best, hits in zip(*columns, strict=True)
            if count
        ]
