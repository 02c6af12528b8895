import copy

import pytest
import torch
from graphs import graph_of, random_facts, tiny_model
from scoring import sharded
from torch.nn import functional

from gam_kg.graph.message_graph import MessageGraph
from gam_kg.nn.recurrence import EntityLSTM, Memory
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training.draws import Draws, ModelFacts
from gam_kg.training.step_batch import leaving_snapshot

DIM = 4


def four_gates(lstm, attended, memory, time):
    """An LSTM with its four gates written out, each with input and recurrent weights of its own."""
    gap = torch.tensor([[float(time - max(last, 0))] for last in memory.last_seen.tolist()], dtype=attended.dtype)
    x = functional.normalize(attended, dim=-1) + torch.tanh(torch.log1p(gap) @ lstm.time.weight.T + lstm.time.bias)

    def gate(position):
        rows = slice(position * DIM, (position + 1) * DIM)
        from_input = x @ lstm.cell.weight_ih[rows].T + lstm.cell.bias_ih[rows]
        return from_input + memory.hidden @ lstm.cell.weight_hh[rows].T + lstm.cell.bias_hh[rows]

    take, forget, content, show = (gate(position) for position in range(4))
    cell = torch.sigmoid(forget) * memory.cell + torch.sigmoid(take) * torch.tanh(content)
    return torch.sigmoid(show) * torch.tanh(cell), cell


def test_the_cell_is_an_lstm_with_four_separate_gates():
    torch.manual_seed(0)
    lstm = EntityLSTM(DIM).double()
    attended, hidden, cell = torch.randn(3, 5, DIM, dtype=torch.float64).requires_grad_()
    memory = Memory(hidden, cell, torch.tensor([-1, 0, 2, 6, 7]))
    after = lstm(attended, memory, torch.tensor(7))
    expected = four_gates(lstm, attended, memory, 7)
    inputs = [attended, hidden, cell, *lstm.parameters()]
    for found, right in zip((after.hidden, after.cell), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(x.sum(), inputs, retain_graph=True, allow_unused=True) for x in (found, right)]
        for mine, theirs in zip(*gradients, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert after.last_seen.tolist() == [7] * 5


def test_the_memory_is_empty_before_the_first_snapshot():
    memory = Memory.empty(3, DIM, like=torch.zeros(0, dtype=torch.float64))
    assert memory.hidden.dtype == torch.float64
    assert not memory.hidden.any()
    assert not memory.cell.any()
    assert memory.last_seen.tolist() == [-1, -1, -1]
    assert memory.hidden.data_ptr() != memory.cell.data_ptr()


def test_only_the_memory_of_active_entities_advances():
    graph = graph_of(random_facts(0))
    model = tiny_model(graph)
    memory = Memory.empty(graph.num_entities, DIM, like=model.entity.detach())
    last_seen = [-1] * graph.num_entities
    for time in graph.times:
        before = copy.deepcopy(memory)
        snapshot = graph.snapshot(time)
        sharded(model).advance(memory, MessageGraph.of(snapshot, graph.partition))
        active = torch.zeros(graph.num_entities, dtype=torch.bool)
        active[snapshot.active] = True
        for name in ("hidden", "cell"):
            old, new = getattr(before, name), getattr(memory, name)
            assert torch.equal(old[~active], new[~active])
            assert (old[active] != new[active]).any(1).all()
        for entity in snapshot.active.tolist():
            last_seen[entity] = time
        assert memory.last_seen.tolist() == last_seen


@pytest.mark.parametrize("training", [False, True])
def test_advancing_stores_one_update(training):
    graph = graph_of(random_facts(0))
    model = tiny_model(graph, dropout=0.3).train(training)
    memory = Memory.empty(graph.num_entities, DIM, like=model.entity.detach())
    advanced = copy.deepcopy(memory)
    for number, time in enumerate(graph.times):
        draws = Draws(ModelFacts.of(model), CounterRNG(0, number))
        leaving = leaving_snapshot(MessageGraph.of(graph.snapshot(time), graph.partition), draws)
        snapshot = leaving.snapshot
        with torch.no_grad():
            rows, before = model.entity_rows()[snapshot.active], memory.rows(snapshot.active)
            memory = memory.replaced(snapshot.active, model.update(rows, before, snapshot)[1])
        sharded(model).update(advanced, snapshot, leaving.rows)
    assert not advanced.hidden.requires_grad
    for found, expected in zip(vars(advanced).values(), vars(memory).values(), strict=True):
        torch.testing.assert_close(found, expected)


def test_an_empty_snapshot_changes_nothing():
    graph = graph_of([(0, 0, 1, 0)])
    model = tiny_model(graph)
    memory = Memory.empty(graph.num_entities, DIM, like=model.entity.detach())
    sharded(model).advance(memory, MessageGraph.of(graph.snapshot(0), graph.partition))
    before = copy.deepcopy(memory)
    sharded(model).advance(memory, MessageGraph.of(graph.snapshot(3), graph.partition))
    assert all(torch.equal(old, new) for old, new in zip(vars(before).values(), vars(memory).values(), strict=True))


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_rows_and_replaced_are_copies(index_dtype):
    memory = Memory(*torch.randn(2, 4, DIM), torch.arange(4))
    index = torch.tensor([2, 0], dtype=index_dtype)
    rows = memory.rows(index)
    assert torch.equal(rows.hidden, memory.hidden[[2, 0]])
    changed = memory.replaced(index, Memory(rows.hidden + 1, rows.cell + 2, rows.last_seen + 3))
    assert memory.last_seen.tolist() == [0, 1, 2, 3]
    assert changed.last_seen.tolist() == [3, 1, 5, 3]
    assert torch.equal(changed.cell[[1, 3]], memory.cell[[1, 3]])
    memory.store(index, changed.rows(index))
    assert torch.equal(memory.hidden, changed.hidden)


def test_rows_that_a_memory_grows_by_are_those_of_entities_that_were_never_seen():
    memory = Memory(*torch.randn(2, 4, DIM).double(), torch.arange(4))
    grown = memory.resized(6)
    empty = Memory.empty(2, DIM, like=memory.hidden)
    for name, found in vars(grown).items():
        assert torch.equal(found, torch.cat([vars(memory)[name], vars(empty)[name]]))
    assert grown.last_seen.tolist() == [0, 1, 2, 3, -1, -1]


def test_the_first_rows_of_a_memory_are_in_its_place():
    memory = Memory(*torch.randn(2, 4, DIM).double(), torch.arange(4))
    first = memory.resized(3)
    assert [len(state) for state in vars(first).values()] == [3, 3, 3]
    first.hidden.zero_()
    assert memory.hidden.count_nonzero(dim=1).tolist() == [0, 0, 0, DIM]


@pytest.mark.parametrize("silence", [0, 5])
def test_the_time_since_the_last_facts_changes_the_memory(silence):
    torch.manual_seed(0)
    lstm = EntityLSTM(DIM)
    attended, state = torch.randn(1, DIM), torch.zeros(1, DIM)
    short, longer = (
        lstm(attended, Memory(state, state, torch.tensor([last])), torch.tensor(9)).hidden
        for last in (9 - silence, 8 - silence)
    )
    assert not torch.allclose(short, longer)
