"""A model that is measured, while it is ranked, by how honest its probabilities are."""

from typing import Any

import numpy as np
from torch import Tensor

from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.metrics.horizons import HORIZONS
from gam_kg.metrics.ranks import Scores
from gam_kg.metrics.reliability import Reliability
from gam_kg.training.calibration import Probabilities
from gam_kg.training.evaluate import ModelScorer, draw_queries
from gam_kg.training.step_batch import divide_queries


class MeasuredModel:
    """`Scorer` of a model, which also measures the probabilities of the answers to its queries.

    Args:
        scorer: The model.
        run: Its run.
        share: Share of the queries that are measured where candidates are too many to write all scores out.
        max_scores: The largest table of scores that is made for them.
    """

    def __init__(self, scorer: ModelScorer, run: TrainedRun, share: float, max_scores: int) -> None:
        self._scorer, self._run, self._share, self._max_scores = scorer, run, share, max_scores
        self._reliability = Reliability()

    def scores(self, queries: Queries) -> Tensor | Scores:
        scores = self._scorer.scores(queries)
        if isinstance(scores, Tensor):
            self._measure(queries, scores)
        else:
            drawn = draw_queries(queries, self._share)
            blocks = divide_queries(drawn, self._run.graph.partition.most_rows, self._max_scores)
            for block in blocks if len(drawn) else ():
                self._measure(block, self._scorer.table(block))
        return scores

    def observe(self, snapshot: Snapshot) -> None:
        self._scorer.observe(snapshot)

    def compute(self) -> dict[str, dict[str, Any]]:
        """See `Reliability.compute`, with the temperature of each bin."""
        found = self._reliability.compute()
        return {name: {"temperature": self._run.temperature(HORIZONS[name]), **tree} for name, tree in found.items()}

    def _measure(self, queries: Queries, scores: Tensor) -> None:
        run, temperatures = self._run, np.array([1.0, self._run.temperature(queries.horizon)])
        found = Probabilities.of(scores, queries, temperatures, run.graph.partition, run.sharded.communicator)
        self._reliability.add(queries.horizon, *(column.numpy() for column in vars(found).values()))
