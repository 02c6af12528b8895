"""An index restored from what any number of ranks have stored goes on as one that has seen all facts itself."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from columns import joined_of
from graphs import HISTORY, NUM_ENTITIES, NUM_RELATIONS, graph_of, queries_of, random_facts, snapshots_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sharded_history import found_by, owned_part

from gam_kg.config import HistoryConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history import pair_rules
from gam_kg.history.index import HistoryIndex
from gam_kg.history.sharded import build_history
from gam_kg.history.stored import Part, StoredHistory, store_history
from gam_kg.training.checkpoint import load_tensors, save_tensors

CUTS = [0, 3, 5, 8]
CONFIGS = [
    {},
    {"two_hop_first": 0, "rule_bodies": 50},
    {"rule_bodies": 0},
    {"recent": 0, "rule_heads": 1},
]


def grown_facts(seed: int, num_facts: int) -> np.ndarray:
    """Random facts in which entities and relations are numbered in the order in which they come."""
    facts = random_facts(seed, num_facts)
    facts = facts[np.argsort(facts[:, 3], kind="stable")]
    for columns in ([0, 2], [1]):
        names = facts[:, columns].ravel()
        found, first, place = np.unique(names, return_index=True, return_inverse=True)
        number = np.empty(len(found), np.int64)
        number[np.argsort(first)] = np.arange(len(found))
        facts[:, columns] = number[place].reshape(-1, len(columns))
    return facts


def graph_before(facts: np.ndarray, cut: int, buckets: int = 3) -> TemporalGraph:
    """The graph of the facts before a snapshot, with only the entities and relations that have some."""
    early = facts[facts[:, 3] < cut]
    num_entities = int(early[:, [0, 2]].max(initial=0)) + 1
    num_relations = int(early[:, 1].max(initial=0)) + 1
    graph = graph_of(early, buckets, num_entities=num_entities, num_relations=num_relations)
    generator = torch.Generator().manual_seed(0)
    entity = torch.randint(-(2**62), 2**62, (NUM_ENTITIES,), generator=generator)[:num_entities]
    relation = torch.randint(-(2**62), 2**62, (NUM_RELATIONS,), generator=generator)[:num_relations]
    return replace(graph, entity_tie=entity, relation_tie=torch.cat([relation, ~relation]))


def cases() -> list[tuple[np.ndarray, int, HistoryConfig]]:
    configs = [HistoryConfig(**{**HISTORY, **changes}) for changes in CONFIGS]
    return [
        (grown_facts(seed, 120), cut, configs[number % len(configs)])
        for number, (seed, cut) in enumerate(product(range(2), CUTS))
    ]


def store(communicator: Communicator) -> list[Part]:
    parts = []
    for facts, cut, config in cases():
        graph = graph_before(facts, cut).shard(communicator.rank, communicator.world_size)
        history = build_history(graph, config, communicator)
        for snapshot in read_snapshots(graph, graph.times, communicator):
            history.insert(snapshot)
        parts.append(store_history(history))
    return parts


def restore_and_compare(communicator: Communicator, stored: list[list[Part]]) -> int:
    """The parts of each case by rank; returns how many rows were compared."""
    rows, every = 0, torch.arange(NUM_ENTITIES)
    for number, (facts, cut, config) in enumerate(cases()):
        before, graph = graph_before(facts, cut), graph_before(facts, 99)
        shard = graph.shard(communicator.rank, communicator.world_size)
        sizes = before.num_entities, 2 * before.num_relations
        found = StoredHistory(before.end, *sizes, [parts[number] for parts in stored])
        mine, whole = build_history(shard, config, communicator, found), HistoryIndex(graph, config)
        owned = shard.partition.owns(every).tolist()
        for snapshot in snapshots_of(graph, before.times):
            whole.insert(snapshot)
        later = [time for time in graph.times if time >= before.end]
        both = zip(read_snapshots(shard, later, communicator), snapshots_of(graph, later), strict=True)
        for mine_next, whole_next in [*both, (None, None)]:
            time = graph.end if whole_next is None else whole_next.time
            entities = range(graph.num_entities)
            queries = queries_of([(entity, 2 * graph.num_relations - 1) for entity in entities], time)
            for requested in (queries, *(() if whole_next is None else (whole_next.queries,))):
                found_here = found_by(mine, joined_of(mine, requested), shard.partition.ids)
                expected = found_by(whole, joined_of(whole, requested), every)
                for part, theirs in expected.items():
                    assert found_here[part] == owned_part(theirs, owned), f"case {number}, {part} at {time}"
                    rows += len(theirs)
            if mine_next is not None and whole_next is not None:
                mine.insert(mine_next)
                whole.insert(whole_next)
    return rows


@pytest.mark.parametrize("stored_by, restored_by", [(1, 1), (1, 2), (2, 1), (2, 3), (3, 2)])
def test_a_restored_index_goes_on_as_one_that_has_seen_all(rank_pool, stored_by: int, restored_by: int) -> None:
    stored = [store(Communicator())] if stored_by == 1 else rank_pool.run(stored_by, store)
    if restored_by == 1:
        assert restore_and_compare(Communicator(), stored) > 3000
    else:
        assert min(rank_pool.run(restored_by, restore_and_compare, stored)) > 3000


def test_a_restored_index_can_be_reset_to_before_the_first_snapshot() -> None:
    facts, config = grown_facts(1, 120), HistoryConfig(**HISTORY)
    before, graph = graph_before(facts, 5), graph_before(facts, 99)
    early = HistoryIndex(before, config)
    for snapshot in snapshots_of(before, before.times):
        early.insert(snapshot)
    stored = StoredHistory(before.end, before.num_entities, 2 * before.num_relations, [store_history(early)])
    mine, whole, every = HistoryIndex(graph, config, stored), HistoryIndex(graph, config), torch.arange(NUM_ENTITIES)
    mine.reset()
    for snapshot in snapshots_of(graph, graph.times):
        expected = found_by(whole, joined_of(whole, snapshot.queries), every)
        assert found_by(mine, joined_of(mine, snapshot.queries), every) == expected
        mine.insert(snapshot)
        whole.insert(snapshot)


@pytest.mark.parametrize("most", [1, 2**31 - 1], ids=["many bytes", "few bytes"])
@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(1, 8), min_size=1, max_size=2, unique=True))
@settings(max_examples=10)
def test_counts_of_pairs_in_a_mapped_file_go_on_as_those_in_memory(tmp_path_factory, most, seed, cuts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_rules, "_MOST_INT32", most)
        counted = compare_counts_of_pairs(tmp_path_factory.mktemp("state"), seed, cuts)
    assert int(counted.exposures.max()) > 1
    assert counted.exposures.dtype == (torch.int64 if most == 1 else torch.int32)


def compare_counts_of_pairs(folder, seed, cuts):
    """Compare a history that goes on from a file at each cut with one that has seen all; returns its last counts."""
    facts, config = grown_facts(seed, 120), HistoryConfig(**HISTORY)
    files, before, stored, counted = [], b"", None, None
    for cut in [*sorted(cuts), 99]:  # each stores what the next one goes on from, with more entities and relations
        graph = graph_before(facts, cut)
        mine, whole = HistoryIndex(graph, config, stored), HistoryIndex(graph, config)
        for history in (mine, whole):
            for snapshot in snapshots_of(graph, [time for time in graph.times if time >= history.end]):
                history.insert(snapshot)
        assert mine.pair_rules is not None
        assert whole.pair_rules is not None
        counted = mine.pair_rules.counts()
        for name, expected in vars(whole.pair_rules.counts()).items():
            assert torch.equal(vars(counted)[name], expected), name
        queries = queries_of([(entity, 0) for entity in range(graph.num_entities)], graph.end)
        (found, confidence), (pairs, expected) = (one.find(queries).pair_rules for one in (mine, whole))
        assert torch.equal(found, pairs)
        assert torch.equal(confidence, expected)
        if files:
            assert files[-1].read_bytes() == before  # what was counted since is not written to it
        files.append(folder / str(cut))
        save_tensors(store_history(mine), files[-1])
        before, parts = files[-1].read_bytes(), [load_tensors(files[-1])]
        stored = StoredHistory(graph.end, graph.num_entities, 2 * graph.num_relations, parts)
    return counted


def test_what_is_stored_does_not_depend_on_later_facts() -> None:
    facts, config = grown_facts(2, 120), HistoryConfig(**HISTORY)
    graph = graph_before(facts, 99)
    whole, early = (HistoryIndex(one, config) for one in (graph, graph.before(4)))
    for snapshot in snapshots_of(graph, [time for time in graph.times if time < 4]):
        whole.insert(snapshot)
        early.insert(snapshot)
    found, expected = store_history(whole), store_history(early)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], values) for name, values in expected.items())
