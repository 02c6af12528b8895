"""Padding a batch changes no number of a step, and batches padded to the same sizes have the same shapes."""

import random
from dataclasses import replace

import pytest
import torch
from graphs import graph_of, history_before, message_graphs, random_facts, tiny_model
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scoring import sharded

from gam_kg.config import TrainConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.ops.packing import Packing, on_device
from gam_kg.training.draws import Draws, ModelFacts
from gam_kg.training.padded_batch import PaddableBatch
from gam_kg.training.step import backward_step
from gam_kg.training.step_batch import leaving_snapshot, make_batch, widened
from gam_kg.training.stopwatch import Stopwatch

CASES = {
    "all": {},
    "no facts": {"history": {"recent": 0, "same_relation": 0}},
    "no paths": {"history": {"two_hop_first": 0, "two_hop_second": 0}},
    "no rules": {"history": {"rule_bodies": 0}},
    "no confidences": {"history": {"rule_confidence": False}},
    "no popularity": {"history": {"popular": 0}},
    "no memory": {"memory": False},
    "no gate": {"gate": False},
}
DROPOUT = {"dropout": 0.3, "entity_dropout": 0.3, "relation_dropout": 0.3}
NUM_ENTITIES = 14  # of which facts name ten
ONE_VS_ALL = TrainConfig(label_smoothing=0.1)
SAMPLED = TrainConfig(label_smoothing=0.1, candidates="sampled", num_negatives=5, history_links=6)
CANDIDATES = pytest.mark.parametrize("config", [ONE_VS_ALL, SAMPLED], ids=lambda config: config.candidates)


def model_of(case, facts):
    return tiny_model(graph_with(facts), **DROPOUT, **CASES[case]).train()


def graph_with(facts):
    return graph_of(facts, num_entities=NUM_ENTITIES)


def batch_of(model, facts, time, config=ONE_VS_ALL, number=2):
    """The step of a snapshot and, where there is one, of a later one; `number` snapshots are in the window."""
    graph = graph_with(facts)
    draws = Draws(ModelFacts.of(model), CounterRNG(3, time))
    queries = [graph.snapshot(time).queries, graph.snapshot(time + 2).queries.seen_from(time)]
    window = message_graphs(graph, range(time - number, time))
    history = history_before(graph, model.config.history, time)
    batch = make_batch(queries, window, history, config, draws, Communicator())
    (leaving,) = message_graphs(graph, [max(0, time - number - 1)])
    return replace(batch, leaving=leaving_snapshot(leaving, draws))


def padded_batch(batch, sizes):
    return PaddableBatch.of(batch).padded(sizes)


def unpacked(padded):
    return widened(on_device(padded, torch.device("cpu")))


def reads_what_does_not_change(batch):
    return not torch.isin(batch.rows.index, batch.leaving.snapshot.active).all()


def sizes_above(batches, seed):
    """Random sizes, more than those of all batches."""
    draw = random.Random(seed)
    sizes = [PaddableBatch.of(batch).sizes for batch in batches]
    return {name: max(size) + draw.choice([1, 2, 9, 40]) for name, size in together(sizes).items()}


def together(sizes):
    first, *others = sizes
    assert all(other.keys() == first.keys() for other in others)
    return {name: [size, *(other[name] for other in others)] for name, size in first.items()}


def step(model, batch):
    """Loss, gradients, and the memory after the step, from a memory that is not empty."""
    model.zero_grad()
    torch.manual_seed(0)
    memory = model.empty_memory()
    memory = replace(memory, hidden=torch.randn_like(memory.hidden), cell=torch.randn_like(memory.cell))
    loss = backward_step(sharded(model), memory, batch, ONE_VS_ALL, Stopwatch())
    sharded(model).update(memory, batch.leaving.snapshot, batch.leaving.rows)
    gradients = {name: rows_of(value.grad) for name, value in model.named_parameters() if value.grad is not None}
    return {"loss": loss, **gradients, **vars(memory)}


def rows_of(grad):
    """A gradient; of a sparse one each row as often as it is there."""
    if not grad.is_sparse:
        return grad.clone()
    index, values = grad._indices()[0], grad._values()
    rows = torch.zeros(grad.shape, dtype=grad.dtype).index_copy_(0, index, values)
    assert torch.equal(rows[index], values), "a row that is there several times has one gradient"
    return rows


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)


@CANDIDATES
@pytest.mark.parametrize("case", CASES)
@given(st.integers(0, 1000), st.integers(2, 7), st.integers(0, 1000))
@settings(max_examples=4, deadline=None)
def test_a_padded_batch_gives_the_same_loss_gradients_and_memory(case, config, seed, time, amount):
    facts = random_facts(seed)
    model = model_of(case, facts)
    batch = batch_of(model, facts, time, config)
    if config is SAMPLED:
        assume(reads_what_does_not_change(batch))
    padded = padded_batch(batch, sizes_above([batch], amount))
    assert padded is not None
    padded = unpacked(padded)
    assert_same(step(model, padded), step(model, batch))


@CANDIDATES
@given(st.integers(0, 1000))
@example(0)
@settings(max_examples=4, deadline=None)
def test_nothing_that_is_past_or_an_answer_can_be_padded_too(config, amount):
    facts = random_facts(0)
    model = model_of("all", facts)
    facts = facts[facts[:, 3] == 5]
    batch = batch_of(model, facts, 5, config)
    sizes = PaddableBatch.of(batch).sizes
    assert sizes[".blocks.0.layout.paths.walks"] == sizes[".blocks.0.layout.rules.rules"] == 0
    padded = padded_batch(batch, sizes_above([batch], amount))
    assert padded is not None
    padded = unpacked(padded)
    assert_same(step(model, padded), step(model, batch))


@CANDIDATES
@pytest.mark.parametrize("case", CASES)
def test_batches_padded_to_the_same_sizes_differ_in_nothing_but_numbers(case, config):
    facts = random_facts(1)
    model = model_of(case, facts)
    batches = [batch_of(model, facts, time, config) for time in (3, 4, 6)]
    sizes = sizes_above(batches, 0)
    packings = [Packing.of(padded_batch(batch, sizes)) for batch in batches]
    assert packings[0] == packings[1] == packings[2]
    assert Packing.of(batches[0]) != Packing.of(batches[1])
    assert PaddableBatch.of(unpacked(padded_batch(batches[0], sizes))).sizes == sizes


@CANDIDATES
def test_what_cannot_be_padded_is_not(config):
    facts = random_facts(0)
    model = model_of("all", facts)
    batch = batch_of(model, facts, 4, config)
    sizes = sizes_above([batch], 0)
    for name, size in PaddableBatch.of(batch).sizes.items():
        assert padded_batch(batch, {**sizes, name: size}) is None, name
    shorter = batch_of(model, facts, 4, config, number=1)
    assert padded_batch(shorter, sizes) is None  # a window of other snapshots has other dimensions
    blocks = batch_of(model, facts, 4, config.model_copy(update={"max_logits": 40}))
    assert len(blocks.blocks) > 1
    assert PaddableBatch.of(blocks) is None
    if batch.rows is not None:
        shared = replace(batch, rows=replace(batch.rows, own=batch.rows.own[:0]))
        assert PaddableBatch.of(shared) is None  # there is no own row to repeat
    snapshot = replace(batch.leaving.snapshot, active=torch.arange(NUM_ENTITIES))
    full = replace(batch, leaving=replace(batch.leaving, snapshot=snapshot))
    assert PaddableBatch.of(full) is None
