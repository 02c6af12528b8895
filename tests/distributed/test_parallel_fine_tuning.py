"""Fine-tuning on any number of ranks gives what one rank gives."""

from typing import Any

import pytest
import torch
from graphs import NAMES, graph_of, random_facts, tiny_config

from gam_kg.distributed.communicator import Communicator
from gam_kg.graph.name_words import NameWords
from gam_kg.nn.model import ENTITY
from gam_kg.training.fine_tune import fine_tune
from gam_kg.training.trainer import Trainer

CASES = {
    "dropout": {"model": {"dropout": 0.3, "entity_dropout": 0.4, "relation_dropout": 0.3}, "max_horizon": 3},
    "sampled": {"candidates": "sampled", "num_negatives": 3, "history_links": 6, "max_horizon": 3},
}


def train_and_tune(communicator: Communicator, case: str) -> dict[str, Any]:
    """Weights, optimizer state and ranks of a rank; `rows` are of its entities, the rest is the same on all ranks."""
    settings = dict(CASES[case])
    config = tiny_config(settings.pop("model", {}), epochs=1, learning_rate=0.01, answers_per_step=10, **settings)
    graph = graph_of(random_facts(3, 100), buckets=5).shard(communicator.rank, communicator.world_size)
    torch.set_default_dtype(torch.float64)
    try:
        trainer = Trainer(config, graph, NameWords.of(NAMES), communicator=communicator)
        for _ in trainer.run():
            pass
        found = fine_tune(config, graph, trainer.model, trainer.optimizer_state, 5, communicator=communicator)
    finally:
        torch.set_default_dtype(torch.float32)
    values = {**found.model.state_dict(), **found.optimizer_state}
    own = [name for name in values if name.split(".")[0] == ENTITY and values[name].dim()]
    assert len(own) == 3
    return {
        "rows": {name: values.pop(name) for name in own},
        "shared": values,
        "ids": graph.partition.ids,
        "answers": found.ranks.answer,
        "ranks": found.ranks.time_aware,
        "text": found.text,
    }


@pytest.mark.parametrize("case", CASES)
def test_ranks_fine_tune_as_one_rank_does(rank_pool, case: str) -> None:
    expected = train_and_tune(Communicator(), case)
    for world_size in (2, 3):
        found = rank_pool.run(world_size, train_and_tune, case)
        ids = torch.cat([rank["ids"] for rank in found])
        for rank in found:
            assert rank["answers"].tolist() == expected["answers"].tolist()
            assert {name: one.tolist() for name, one in rank["ranks"].items()} == {
                name: one.tolist() for name, one in expected["ranks"].items()
            }
            assert rank["text"] == expected["text"]
            for name, value in expected["shared"].items():
                torch.testing.assert_close(rank["shared"][name], value, rtol=1e-8, atol=1e-9, msg=name)
        for name, value in expected["rows"].items():
            rows = torch.cat([rank["rows"][name] for rank in found])
            torch.testing.assert_close(rows, value[ids], rtol=1e-8, atol=1e-9, msg=name)
