"""Temperatures and probabilities on any number of ranks are those of one rank."""

from functools import cache

import numpy as np
import pytest
import torch
from graphs import NAMES, graph_of, random_facts, tiny_config
from torch import Tensor

from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.graph.name_words import NameWords
from gam_kg.metrics.horizons import HORIZONS
from gam_kg.training import calibration
from gam_kg.training.calibration import Probabilities, calibrate
from gam_kg.training.evaluate import ModelScorer
from gam_kg.training.trainer import Trainer


def calibrated(communicator: Communicator, buckets: int) -> tuple[dict[str, float], list[Tensor]]:
    """Temperatures after two epochs, fitted on three snapshots, and probabilities of the first test snapshot."""
    graph = graph_of(random_facts(2, 150), buckets=buckets, valid_start=4, test_start=7)
    graph = graph.shard(communicator.rank, communicator.world_size)
    torch.set_default_dtype(torch.float64)
    calibration._FEWEST_ANSWERS, before = 5, calibration._FEWEST_ANSWERS
    try:
        config = tiny_config(epochs=2, learning_rate=0.03)
        trainer = Trainer(config, graph, NameWords.of(NAMES), communicator=communicator)
        list(trainer.run())
        calibrate(trainer)
        scorer = ModelScorer(trainer.sharded, trainer.history)
        (snapshot,) = read_snapshots(graph, [7], communicator)
        queries, several = snapshot.queries, np.array([0.5, 2.0])
        probabilities = Probabilities.of(scorer.table(queries), queries, several, graph.partition, communicator)
        return trainer.position.temperatures, list(vars(probabilities).values())
    finally:
        calibration._FEWEST_ANSWERS = before
        torch.set_default_dtype(torch.float32)


on_one_rank = cache(calibrated)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("buckets", [64, 2], ids=["even", "a shard without entities"])
def test_ranks_fit_what_one_rank_does(rank_pool, buckets: int, world_size: int) -> None:
    temperatures, probabilities = on_one_rank(Communicator(), buckets)
    assert list(temperatures) == list(HORIZONS)
    assert len(set(temperatures.values())) == 3, "three bins have answers of their own"
    for found, of_rank in rank_pool.run(world_size, calibrated, buckets):
        assert found == pytest.approx(temperatures, rel=1e-7)
        for mine, theirs in zip(of_rank, probabilities, strict=True):
            torch.testing.assert_close(mine, theirs)
