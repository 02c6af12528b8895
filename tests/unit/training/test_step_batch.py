"""Batches come back from the cache as they were made, and are int32 on a device; neither changes a number."""

import itertools
from collections import Counter
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from graphs import graph_of, history_before, message_graphs, model_config, random_facts, tiny_config, tiny_model
from scoring import sharded
from torch import Tensor

from gam_kg.config import TrainConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.ops.packing import on_device
from gam_kg.training.batch_cache import CACHE_BYTES, BatchCache
from gam_kg.training.draws import Draws, ModelFacts
from gam_kg.training.query_block import QueryBlock
from gam_kg.training.step import backward_step
from gam_kg.training.step_batch import make_batch, query_block, to_device
from gam_kg.training.stopwatch import Stopwatch
from gam_kg.training.trainer import Trainer

TIME = 4
CPU, META = torch.device("cpu"), torch.device("meta")
CONFIGS = {
    "one_vs_all": TrainConfig(),
    "blocks": TrainConfig(max_logits=50),
    "sampled": TrainConfig(candidates="sampled", num_negatives=3, history_links=6),
    "sampled blocks": TrainConfig(candidates="sampled", num_negatives=3, history_links=6, max_logits=20),
}


@pytest.fixture
def queries():
    return graph_of(random_facts(0)).snapshot(TIME).queries


def parts_of(graph):
    """Queries of the next snapshot, and some of a later one."""
    ahead = graph.snapshot(TIME + 1).queries.seen_from(TIME)
    return [graph.snapshot(TIME).queries, ahead.select(torch.arange(0, len(ahead), 3))]


def batch_of(graph, config):
    history = history_before(graph, model_config().history, TIME)
    window, draws = (
        message_graphs(graph, (TIME - 2, TIME - 1)),
        Draws(ModelFacts.of(model_of_batch()), CounterRNG(3, 0)),
    )
    return make_batch(parts_of(graph), window, history, config, draws, Communicator())


def model_of_batch():
    return tiny_model(graph_of(random_facts(0)), dropout=0.3, entity_dropout=0.3).train()


def block_of(*ends):
    """A block of which all but some numbers are those of real queries."""
    graph = graph_of(random_facts(0))
    history = history_before(graph, model_config().history, TIME)
    layout = query_block(history, graph.snapshot(TIME).queries, Communicator()).layout
    return QueryBlock(replace(layout, ends=torch.tensor(ends, dtype=torch.int64)), None, None)


def tensors(record):
    """All tensors of a record by the path of their fields."""
    if isinstance(record, Tensor):
        return {"": record}
    parts = enumerate(record) if isinstance(record, tuple) else ()
    if is_dataclass(record):
        parts = ((field.name, getattr(record, field.name)) for field in fields(record))
    return {f"{name}.{path}": value for name, part in parts for path, value in tensors(part).items()}


def assert_equal(found, expected):
    found, expected = tensors(found), tensors(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert found[name].dtype == value.dtype, name


def loss_and_gradients(batch, config):
    """Of one model, for any batch."""
    model = model_of_batch()
    loss = backward_step(sharded(model), model.empty_memory(), batch, config, Stopwatch())
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert len(gradients) > 30
    return {"loss": loss, **{name: grad.to_dense() if grad.is_sparse else grad for name, grad in gradients.items()}}


def assert_same_numbers(found, expected, config):
    found, expected = loss_and_gradients(found, config), loss_and_gradients(expected, config)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("ends", [(), (0, 255), (-1, 4), (32_768,), (2**31 - 1, 3), (2**40, 3)])
def test_numbers_of_any_size_come_back_from_the_cache(queries, ends):
    cache = BatchCache(Communicator())
    cache.insert(queries, (block_of(*ends),))
    found = to_device(cache.find(queries), CPU)
    assert found[0].layout.ends.dtype == torch.int64
    assert found[0].layout.ends.tolist() == list(ends)


def test_blocks_are_found_for_exactly_their_own_queries(queries):
    cache = BatchCache(Communicator())
    cache.insert(queries, (block_of(1),))
    assert cache.find(queries) is not None
    assert cache.find(replace(queries, time=TIME + 1)) is None
    assert cache.find(queries.select(torch.arange(len(queries)).flip(0))) is None
    assert cache.find(queries.select(torch.arange(1))) is None
    assert cache.find(replace(queries, relation=queries.relation.flip(0))) is None


def test_the_cache_takes_no_more_than_there_is_room_for(queries):
    block, size = block_of(1, 2, 3), 16 * len(queries)
    cached = BatchCache(Communicator())
    cached.insert(queries, (block,))
    size += sum(value.nbytes for value in tensors(cached.find(queries)).values())
    assert size < sum(value.nbytes for value in tensors(block).values()) / 2
    for max_bytes, expected in ((2 * size, 2), (2 * size - 1, 1), (size, 1), (size - 1, 0), (0, 0)):
        cache = BatchCache(Communicator(), max_bytes)
        for time in range(3):
            cache.insert(replace(queries, time=time), (block,))
        found = [cache.find(replace(queries, time=time)) is not None for time in range(3)]
        assert found == [number < expected for number in range(3)]


@pytest.mark.parametrize("case", CONFIGS)
def test_all_parts_of_the_blocks_come_back_and_give_the_same_numbers(queries, case):
    config = CONFIGS[case]
    batch, cache = batch_of(graph_of(random_facts(0)), config), BatchCache(Communicator())
    assert (len(batch.blocks) > 1) == ("blocks" in case)
    assert {horizon for block in batch.blocks for horizon in block.layout.kinds.horizon.tolist()} == {1, 2}
    cache.insert(queries, batch.blocks)
    found = to_device(replace(batch, blocks=cache.find(queries)), CPU)
    assert_equal(found, batch)
    assert_same_numbers(found, batch, config)


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("cached", [False, True])
def test_a_batch_on_a_device_is_int32(queries, case, cached):
    batch = batch_of(graph_of(random_facts(0)), CONFIGS[case])
    on_device = batch
    if cached:
        cache = BatchCache(Communicator())
        cache.insert(queries, batch.blocks)
        on_device = replace(batch, blocks=cache.find(queries))
    found, expected = tensors(to_device(on_device, META)), tensors(batch)
    assert found.keys() == expected.keys()
    assert len(found) > 30
    for name, value in expected.items():
        assert found[name].device == META, name
        assert found[name].shape == value.shape, name
        assert found[name].dtype == (torch.int32 if value.dtype == torch.int64 else value.dtype), name
    floats = {name for name, value in found.items() if value.dtype.is_floating_point}
    of_blocks = itertools.product(range(len(batch.blocks)), ("log_weight", "log_weight_apart"))
    weights = {f"blocks.{block}.targets.{name}." for block, name in of_blocks} | {"rows.words.weight."}
    assert floats == (weights if "sampled" in case else set())


@pytest.mark.parametrize("case", CONFIGS)
def test_an_int32_batch_gives_the_same_numbers(case):
    config = CONFIGS[case]
    batch = batch_of(graph_of(random_facts(0)), config)
    assert_same_numbers(on_device(batch, torch.device("cpu")), batch, config)


@pytest.mark.parametrize("positions", [(2**31 - 1, torch.int32), (2**31, torch.int64), (2**40, torch.int64)])
def test_positions_beyond_31_bits_stay_int64_on_a_device(positions):
    last, dtype = positions
    block = block_of(1, last)
    found = to_device(block, META).layout
    assert found.ends.dtype == dtype
    assert found.positions.facts.dtype == torch.int32


def test_training_with_the_cache_looks_up_once_and_gives_the_same_numbers(monkeypatch):
    weights, looked_up = [], []
    for max_bytes in (CACHE_BYTES, 0):
        trainer = Trainer(tiny_config(epochs=3, patience=3), graph_of(random_facts(0)))
        trainer._batches._cache = BatchCache(Communicator(), max_bytes)
        times, original = [], trainer.history.find

        def find(queries, original=original, times=times):
            times.append((queries.horizon, queries.time))
            return original(queries)

        monkeypatch.setattr(trainer.history, "find", find)
        list(trainer.run())
        weights.append(trainer.model.state_dict())
        looked_up.append(Counter(time for horizon, time in times if horizon == 1 and time in trainer.times))
        # Those ahead are other queries each time; the last snapshot has none after it.
        assert sum(horizon > 1 for horizon, _ in times) == 3 * (len(trainer.times) - 1)
    assert set(looked_up[0].values()) == {1}
    assert set(looked_up[1].values()) == {3}
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.parametrize("train", [{"candidates": "sampled", "num_negatives": 3}, {"answers_per_step": 5}])
def test_steps_that_differ_from_epoch_to_epoch_are_not_cached(train):
    trainer = Trainer(tiny_config(epochs=1, **train), graph_of(random_facts(0, 120)))
    list(trainer.run())
    assert not trainer._batches._cache._blocks
