"""What ranks send is what the data's counts say they must."""

from typing import Any

import numpy as np
import pytest
import torch
from graphs import graph_of, tiny_config

from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.volume import StepVolume, expected_halo_rows, num_neighbours
from gam_kg.nn.model import ENTITY
from gam_kg.training.trainer import Trainer

NUM_ENTITIES, NUM_SNAPSHOTS, VALID_START, WINDOW, AHEAD = 300, 12, 10, 2, 0.4


def facts() -> np.ndarray:
    generator = np.random.default_rng(0)
    ends = np.minimum(generator.zipf(1.4, (2, NUM_SNAPSHOTS * 150)) - 1, NUM_ENTITIES - 1)
    relation, time = generator.integers(0, 3, ends.shape[1]), np.arange(ends.shape[1]) % NUM_SNAPSHOTS
    return np.unique(np.stack([ends[0], relation, ends[1], time], 1), axis=0)


def measured(communicator: Communicator) -> dict[str, Any]:
    """Mean bytes a step by purpose, after the first steps whose window is not full."""
    graph = graph_of(facts(), num_entities=NUM_ENTITIES, valid_start=VALID_START, test_start=11)
    trainer = Trainer(
        tiny_config({"dim": 16}, window=WINDOW, ahead_share=AHEAD),
        graph.shard(communicator.rank, communicator.world_size),
        communicator=communicator,
    )
    steps = [progress.snapshot for _, progress in zip(range(10), trainer.run(), strict=False)][WINDOW + 1 :]
    found = {
        name: sum(step["traffic"].get(name, [0])[0] for step in steps) / len(steps)
        for name in ("halo", "softmax", "gradients", "queries")
    }
    shared = sum(value.numel() for name, value in trainer.model.named_parameters() if name != ENTITY)
    rows = sum(step["halo_rows"] for step in steps) / len(steps)
    return {"bytes": found, "shared": shared, "halo_rows": rows, "times": [step["snapshot"] for step in steps]}


@pytest.mark.parametrize("world_size", [2, 4])
def test_measured_communication_is_what_the_counts_say(rank_pool, world_size: int) -> None:
    ranks = rank_pool.run(world_size, measured)
    graph = graph_of(facts(), num_entities=NUM_ENTITIES, valid_start=VALID_START, test_start=11)
    all_queries = [graph.snapshot(time).queries for time in ranks[0]["times"]]
    rows = []
    for time in ranks[0]["times"]:
        # Each snapshot is exchanged by its window's updates and when the memory advances.
        snapshots = [graph.snapshot(time - back) for back in (1, 2)]
        rows.append([expected_halo_rows(num_neighbours(one.anchor, one.other), world_size) for one in snapshots])
    # Nothing comes after the last snapshot.
    scored = [len(one) * (1 + AHEAD * (one.time < VALID_START - 1)) for one in all_queries]
    volume = StepVolume(
        world_size,
        num_queries=float(np.mean(scored)),
        num_answers=float(np.mean([len(queries.answer) for queries in all_queries])),
        halo_rows=float(np.mean(rows)),
        num_shared=ranks[0]["shared"],
        dim=16,
        history_dim=3,
        window=WINDOW,
    )
    expected = volume.bytes_sent()
    found = {name: np.mean([rank["bytes"][name] for rank in ranks]) for name in expected}
    # Queries are gathered some snapshots ahead, in a step that is not among these.
    expected["queries"] -= (world_size - 1) * volume.num_answers / world_size * 4 * 8
    for name in ("halo", "softmax", "gradients"):
        assert found[name] == pytest.approx(expected[name], rel=0.1), name
    # Padded to the rank with the most queries.
    assert expected["queries"] * 0.95 <= found["queries"] <= expected["queries"] * 1.5
    total = sum(expected.values())
    assert sum(found.values()) == pytest.approx(total, rel=0.1)
    assert torch.tensor([rank["halo_rows"] for rank in ranks]).mean() == pytest.approx(3 * np.mean(rows), rel=0.1)
