"""Several runs scored together: the mean of their scores as one scorer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.history.index import HistoryIndex
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.metrics.product_scores import ProductScores
from gam_kg.metrics.ranks import Scores
from gam_kg.training.evaluate import ModelScorer


class Ensemble:
    """`Scorer` of several runs on one graph: the mean of their scores.

    It ranks as the mean of their log-probabilities does, which is lower by one number for all candidates of a query.
    All methods are collectives.

    Args:
        runs: The runs. The caller advances the history of the first; runs with the same history settings share one.
    """

    def __init__(self, runs: Sequence[TrainedRun]) -> None:
        histories: dict[HistoryConfig, HistoryIndex] = {}
        for run in runs:
            settings = run.model.config.history
            if settings not in histories:
                histories[settings] = run.history
        _, *self._others = histories.values()
        for history in self._others:
            history.reset()
        self._scorers = [ModelScorer(run.sharded, histories[run.model.config.history]) for run in runs]

    def scores(self, queries: Queries) -> Tensor | Scores:
        found = [scorer.scores(queries) for scorer in self._scorers]
        tables = [scores for scores in found if isinstance(scores, Tensor)]
        if tables:
            return torch.stack(tables).mean(0)
        return ProductScores.mean([scores for scores in found if isinstance(scores, ProductScores)])

    def observe(self, snapshot: Snapshot) -> None:
        for scorer in self._scorers:
            scorer.observe(snapshot)
        for history in self._others:
            history.insert(snapshot)
