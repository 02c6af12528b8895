"""What is planned is what a trainer's tensors take."""

from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import NUM_ENTITIES, NUM_SNAPSHOTS, graph_of, random_facts, tiny_config, write_graph
from torch import Tensor

from gam_kg.config import Config
from gam_kg.data.graph import TemporalGraph, read_names
from gam_kg.data.history import HistoryIndex
from gam_kg.data.names import NameWords
from gam_kg.data.partition import Partition
from gam_kg.distributed.sharded_history import build_history
from gam_kg.distributed.topology import Topology
from gam_kg.nn.model import ENTITY
from gam_kg.train.loop import Trainer
from gam_kg.train.plan import knobs, make_plan
from gam_kg.train.plan_counts import GraphCounts, count_graph
from gam_kg.train.plan_memory import (
    entity_bytes,
    history_bytes,
    history_of,
    memory_items,
    peak_bytes,
    shared_bytes,
)
from gam_kg.train.plan_sizes import WorkerSizes

BUCKETS = 7


def num_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def held_bytes(thing: Any, seen: set[int] | None = None) -> int:
    """All tensors of an index and of its parts, each once."""
    seen = set() if seen is None else seen
    total = 0
    for value in vars(thing).values():
        for one in value if isinstance(value, list) else [value]:
            if id(one) in seen:
                continue
            if isinstance(one, Tensor):
                seen.add(id(one))
                total += num_bytes(one)
            elif type(one).__module__ in ("gam_kg.data.recency", "gam_kg.distributed.own_past"):
                seen.add(id(one))
                total += held_bytes(one, seen)
    return total


def index_bytes(index: HistoryIndex) -> int:
    return held_bytes(index) - num_bytes(index._ids)  # ids are told apart in the plan


def stored(folder: Path, **changes: int) -> TemporalGraph:
    write_graph(folder, graph_of(random_facts(0, 150), buckets=BUCKETS, **changes), BUCKETS)
    return TemporalGraph.load(folder)[0]


def counted(folder: Path, config: Config, **more: int) -> GraphCounts:
    return count_graph(folder, config, **more)


@pytest.mark.parametrize("name_words", [True, False])
@pytest.mark.parametrize("decoder", ["mlp", "conv_transe", "distmult"])
def test_parameters_and_optimizer_are_told_to_the_byte(tmp_path: Path, decoder: str, name_words: bool) -> None:
    graph = stored(tmp_path)
    config = tiny_config({"decoder": decoder, "name_words": name_words})
    names = read_names(tmp_path, "entity").to_pylist()
    words = NameWords.of(names, known=graph.trained.tolist()) if name_words else None
    trainer = Trainer(config, graph, words)
    next(trainer.run())
    sizes = WorkerSizes(config, counted(tmp_path, config), 1)
    own, state = trainer.model.entity, trainer.optimizer.state
    shared = [value for name, value in trainer.model.named_parameters() if name != ENTITY]
    assert entity_bytes(sizes) == {
        "entity rows": num_bytes(own),
        "optimizer state of entity rows": num_bytes(state[own]["exp_avg"], state[own]["exp_avg_sq"]),
        "entity memory (h, c, last_seen)": num_bytes(*vars(trainer.memory).values()),
    }
    # Beside the moments there is a number of steps for each parameter.
    assert shared_bytes(sizes) == {
        "shared parameters": num_bytes(*shared),
        "gradients of shared parameters": num_bytes(trainer._gradients._buffer),
        "optimizer state of shared parameters": num_bytes(*(v for one in shared for v in state[one].values()))
        + num_bytes(state[own]["step"]),
    }


def test_rows_and_history_of_one_rank_are_told_to_the_byte(tmp_path: Path) -> None:
    graph, config = stored(tmp_path), tiny_config()
    sizes = WorkerSizes(config, counted(tmp_path, config), 1)
    assert sizes.rows == graph.partition.num_rows == NUM_ENTITIES
    assert history_of(sizes) == index_bytes(HistoryIndex(graph, config.model.history))


def _index_bytes_of_rank(topology: Topology) -> int:
    graph = graph_of(random_facts(0, 150), buckets=BUCKETS).shard(topology.rank, topology.world_size)
    return index_bytes(build_history(graph, tiny_config().model.history, topology))


def test_history_of_several_ranks_is_told_to_the_byte(rank_pool: Any, tmp_path: Path) -> None:
    stored(tmp_path)
    found = rank_pool.run(2, _index_bytes_of_rank)
    counts = counted(tmp_path, tiny_config())
    for rank, measured in enumerate(found):
        parts = (counts.bucket_facts[rank::2], counts.bucket_answers[rank::2], counts.relation_answers[rank::2])
        assert history_bytes(*(part.sum() for part in parts), several=True) == measured
    told = history_of(WorkerSizes(tiny_config(), counts, 2))
    # The rank with the most facts need not be the one with the most of each: the plan is the most there can be.
    assert max(found) <= told <= 1.1 * max(found)


def test_rows_of_the_largest_of_several_ranks(tmp_path: Path) -> None:
    stored(tmp_path)
    for world_size in (2, 3, 20):
        sizes = WorkerSizes(tiny_config(), counted(tmp_path, tiny_config()), world_size)
        shards = [Partition(NUM_ENTITIES, BUCKETS, rank, world_size).num_rows for rank in range(world_size)]
        assert sizes.rows == max(shards)


def test_counts_are_those_of_the_graph(tmp_path: Path) -> None:
    graph = stored(tmp_path)
    counts = counted(tmp_path, tiny_config())
    snapshots = [graph.snapshot(time) for time in graph.times]
    assert counts.share == 1
    assert counts.active.tolist() == [len(one.active) for one in snapshots]
    assert counts.queries.tolist() == [len(one.queries) for one in snapshots]
    pairs = [set(zip(one.anchor.tolist(), one.other.tolist(), strict=True)) for one in snapshots]
    assert (counts.neighbours * range(len(counts.neighbours))).sum() == sum(map(len, pairs))
    assert len(counts.times) == NUM_SNAPSHOTS


def test_a_sample_of_buckets_tells_about_as_much(tmp_path: Path) -> None:
    """Buckets are alike, but for a few entities with most of the facts."""
    facts = torch.randint(400, (8000, 4), generator=torch.Generator().manual_seed(0))
    facts[:, 1] %= 3
    facts[:, 3] %= NUM_SNAPSHOTS
    write_graph(tmp_path, graph_of(facts.numpy(), buckets=16, num_entities=400), 16)
    config = tiny_config()
    whole, part = counted(tmp_path, config), counted(tmp_path, config, most_rows=6000)
    assert part.share < 0.5
    for name in ("bucket_facts", "bucket_answers", "relation_answers", "active", "queries", "neighbours"):
        assert getattr(part, name).sum() == pytest.approx(getattr(whole, name).sum(), rel=0.1), name


def test_more_workers_take_less_each(tmp_path: Path) -> None:
    stored(tmp_path)
    config = tiny_config({"dim": 64, "heads": 4})
    counts = counted(tmp_path, config)
    one, two = (make_plan(config, counts, number, 0.0, shared_machine=False) for number in (1, 2))
    rows = {item.name: item.num_bytes for item in one.items}, {item.name: item.num_bytes for item in two.items}
    assert rows[1]["entity rows"] < rows[0]["entity rows"]
    assert rows[1]["shared parameters"] == rows[0]["shared parameters"]


def test_the_peak_is_the_worse_of_a_step_and_an_epochs_end(tmp_path: Path) -> None:
    stored(tmp_path)
    items = memory_items(WorkerSizes(tiny_config(), counted(tmp_path, tiny_config()), 1), 1000.0)
    by_phase = {phase: sum(i.num_bytes for i in items if i.phase == phase) for phase in ("always", "step", "epoch end")}
    assert peak_bytes(items) == by_phase["always"] + max(by_phase["step"], by_phase["epoch end"])
    assert peak_bytes(items) - peak_bytes(items, on_device=True) >= 1000


def test_knobs_save_what_a_plan_with_them_takes_less(tmp_path: Path) -> None:
    stored(tmp_path)
    config = tiny_config({"dim": 64, "heads": 4})
    counts = counted(tmp_path, config)
    before = make_plan(config, counts, 1, 0.0, shared_machine=True).worker_bytes
    found = {knob.override: knob for knob in knobs(config, counts, 0.0, before - 1, shared_machine=True)}
    smaller = config.model_copy(update={"model": config.model.model_copy(update={"dim": 32})})
    after = make_plan(smaller, counts, 1, 0.0, shared_machine=True).worker_bytes
    assert found["model.dim=32"].saved_bytes == before - after
    assert found["model.dim=32"].enough
    savings = [knob.saved_bytes for knob in found.values()]
    assert savings == sorted(savings, reverse=True)
