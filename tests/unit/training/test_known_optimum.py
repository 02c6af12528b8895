"""What is learned against what can be known: on a synthetic graph nobody is better, on average, than its optimum."""

import numpy as np
from generated import made_of, rows_of

from gam_kg.config import load_config
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.all_baselines import build_baselines
from gam_kg.synthetic.groups import SyntheticConfig
from gam_kg.synthetic.optimum import Optimum
from gam_kg.training.evaluate import ModelScorer, rank_split, roll
from gam_kg.training.trainer import Trainer

WORLD = SyntheticConfig(entities=200, relations=10, facts=20_000, snapshots=100, noise=0.1, newcomers=0.1, seed=1)
VALID_START, TEST_START = 80, 90
SETTINGS = [
    "model.dim=64",
    "model.entity_dropout=0",  # entities differ only by their own rows
    "train.answers_per_step=200",
    "train.learning_rate=0.002",
    "train.epochs=2",
]


def graph_and_optimum():
    optimum = Optimum.empty(WORLD.snapshots)
    for made in made_of(WORLD)[1]:
        optimum = optimum.merge(Optimum.of(made, WORLD.snapshots))
    facts = rows_of(WORLD)[0].astype(np.int64)
    sizes = {"num_entities": WORLD.entities, "num_relations": WORLD.relations}
    graph = TemporalGraph.from_facts(facts, **sizes, valid_start=VALID_START, test_start=TEST_START)
    return graph, optimum.compute(TEST_START, WORLD.snapshots)["all"]


def test_a_trained_model_approaches_the_optimum_and_counting_does_not_come_as_close():
    graph, optimum = graph_and_optimum()
    config = load_config(None, SETTINGS)
    trainer = Trainer(config, graph)
    for _ in trainer.run():
        pass
    history = HistoryIndex(graph, config.model.history)
    scorers = {"model": ModelScorer(trainer.sharded, history), **build_baselines(history)}
    roll(scorers.values(), history, read_snapshots(graph, [t for t in graph.times if t < TEST_START], Communicator()))
    test = read_snapshots(graph, graph.times_in("test"), Communicator())
    ranks = rank_split(scorers, history, test, partition=graph.partition)
    mrr = {name: float((1 / found).mean()) for name, found in ranks.time_aware.items()}
    best, limit = max(value for name, value in mrr.items() if name != "model"), optimum["both"]
    assert best < mrr["model"] < limit + 3 * optimum["both_error"], (mrr, limit)
    assert mrr["model"] > 0.88 * limit, (mrr, limit)
