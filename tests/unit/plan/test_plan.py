"""What is planned is what a trainer's tensors and steps take."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from graphs import (
    NUM_ENTITIES,
    NUM_SNAPSHOTS,
    graph_of,
    random_facts,
    random_features,
    random_graph,
    tiny_config,
    write_graph,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gam_kg.artifacts import read_manifest
from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.partition import Partition
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.graph.word_agreement import MOST_COLUMNS
from gam_kg.history.index import HistoryIndex
from gam_kg.history.sharded import build_history
from gam_kg.nn.model import ENTITY
from gam_kg.plan.counts import HEADS, GraphCounts, count_graph
from gam_kg.plan.history_memory import finding_bytes, history_bytes, history_of_rank, rule_bytes
from gam_kg.plan.memory import BEST, PHASES, memory_items, peak_bytes, sketch_bytes, state_bytes
from gam_kg.plan.operations import IN_PLACE, epoch_operations, unit_operations
from gam_kg.plan.plan import Planner, step_bytes_sent
from gam_kg.plan.workload import Workload
from gam_kg.training.trainer import Trainer

BUCKETS = 7
NO_CONFIDENCE = {"rule_confidence": False}
NO_RULES = {"history": {"rule_bodies": 0, **NO_CONFIDENCE}}


def num_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def tensors_of(thing: Any) -> Iterator[Tensor]:
    """All tensors of an object of the history and of its parts."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from tensors_of(part)
    elif type(thing).__module__.startswith("gam_kg.history."):
        for name, part in vars(thing).items():
            if name != "_history":  # of which it is a part
                yield from tensors_of(part)


def index_bytes(index: HistoryIndex) -> int:
    distinct = {
        id(tensor): tensor for tensor in tensors_of(index) if tensor is not index.partition.ids
    }  # ids are counted apart
    return num_bytes(*distinct.values())


def stored(folder: Path, features: pa.Table | None = None) -> TemporalGraph:
    write_graph(folder, graph_of(random_facts(0, 150), buckets=BUCKETS), BUCKETS, features=features)
    return TemporalGraph.load(folder)[0]


@pytest.mark.parametrize("features", [None, random_features()], ids=["no features", "features"])
@pytest.mark.parametrize("name_words", [True, False])
@pytest.mark.parametrize("decoder", ["mlp", "conv_transe", "distmult"])
def test_state_is_planned_to_the_byte(
    tmp_path: Path, decoder: str, name_words: bool, features: pa.Table | None
) -> None:
    graph = stored(tmp_path, features)
    config = tiny_config({"decoder": decoder, "name_words": name_words})
    manifest = read_manifest(tmp_path, "graph")
    words = NameWords.stored(tmp_path, manifest, of_names=name_words, known=graph.trained.tolist())
    trainer = Trainer(config, graph, words)
    next(trainer.run())
    own, state = trainer.model.entity, trainer.optimizer.state
    shared = [value for name, value in trainer.model.named_parameters() if name != ENTITY]
    assert state_bytes(Workload(config, count_graph(tmp_path), 1)) == {
        "entity rows": num_bytes(own),
        "optimizer state of entity rows": num_bytes(*state[own].values()),
        "entity memory (h, c, last_seen)": num_bytes(*vars(trainer.memory).values()),
        "shared parameters": num_bytes(*shared),
        "gradients of shared parameters": num_bytes(trainer._step.gradients._buffer),
        "optimizer state of shared parameters": num_bytes(*(v for one in shared for v in state[one].values())),
    }


def test_weights_and_optimizer_state_of_the_best_epoch_are_planned_to_the_byte(tmp_path: Path) -> None:
    config, graph = tiny_config({"name_words": False}, epochs=1), stored(tmp_path)
    trainer = Trainer(config, graph)
    for _ in trainer.run():
        pass
    items = memory_items(Workload(config, count_graph(tmp_path), 1), 0.0)
    (best,) = [item for item in items if item.name == BEST]
    assert best.num_bytes == num_bytes(*trainer.best_weights.values(), *trainer.best_optimizer_state.values())
    assert best.phase == PHASES[0]


def test_rows_and_history_of_one_rank_are_planned_to_the_byte(tmp_path: Path) -> None:
    graph, config = stored(tmp_path), tiny_config(NO_RULES)
    workload = Workload(config, count_graph(tmp_path), 1)
    assert workload.rows == graph.partition.num_rows == NUM_ENTITIES
    assert history_of_rank(workload) == index_bytes(HistoryIndex(graph, config.model.history))


@pytest.mark.parametrize("rule_count", [1, 2])
def test_rules_are_planned_to_the_byte_where_their_number_is_known_and_never_too_few(
    tmp_path: Path, rule_count: int
) -> None:
    graph, config = stored(tmp_path), tiny_config({"history": {"rule_count": rule_count, **NO_CONFIDENCE}})
    index = HistoryIndex(graph, config.model.history)
    rules = index.rules
    assert rules is not None
    planned = [history_of_rank(Workload(one, count_graph(tmp_path), 1)) for one in (config, tiny_config(NO_RULES))]
    assert planned[1] + rule_bytes(len(rules._keys), len(rules._groups)) == index_bytes(index)
    assert index_bytes(index) <= planned[0] <= 5 * index_bytes(index)


def test_a_bound_on_rules_bounds_what_is_planned(tmp_path: Path) -> None:
    graph, counts = stored(tmp_path), count_graph(tmp_path)
    found = {}
    for most in (200, 100, 10**6):
        config = tiny_config({"history": {"max_rules": most, **NO_CONFIDENCE}})
        workload = Workload(config, counts, 1)
        assert index_bytes(HistoryIndex(graph, config.model.history)) <= history_of_rank(workload)
        found[most] = history_of_rank(workload), finding_bytes(workload)
    without = history_of_rank(Workload(tiny_config(NO_RULES), counts, 1))
    assert found[200][0] - without == pytest.approx(2 * (found[100][0] - without), abs=8)
    assert found[200] < found[10**6]
    assert finding_bytes(Workload(tiny_config(NO_RULES), counts, 1)) == 0


@pytest.mark.parametrize("recent", [0, 50])
def test_counts_of_rules_of_pairs_are_never_planned_too_few(tmp_path: Path, recent: int) -> None:
    graph, limits = stored(tmp_path), {"rule_bodies": 0, "recent": recent}
    counts, config = count_graph(tmp_path), tiny_config({"history": limits})
    rows = graph.rows()
    of_anchor = [rows.relation[rows.anchor == anchor].unique().tolist() for anchor in range(NUM_ENTITIES)]
    assert counts.relation_pairs == len({pair for some in of_anchor for pair in product(some, some)})
    index = HistoryIndex(graph, config.model.history)
    for snapshot in graph.read(graph.times):
        index.insert(snapshot)
    index._newest = None
    index.pair_rules.counts()  # what waits to be counted is counted at the next look-up
    planned, without = (
        history_of_rank(Workload(one, counts, 1))
        for one in (config, tiny_config({"history": {**limits, **NO_CONFIDENCE}}))
    )
    measured = index_bytes(index)
    assert without == index_bytes(
        HistoryIndex(graph, tiny_config({"history": {**limits, **NO_CONFIDENCE}}).model.history)
    )
    assert without < measured <= planned <= without + 2 * (measured - without)


def _index_bytes_of_rank(communicator: Communicator) -> int:
    graph = graph_of(random_facts(0, 150), buckets=BUCKETS).shard(communicator.rank, communicator.world_size)
    return index_bytes(build_history(graph, tiny_config(NO_RULES).model.history, communicator))


def test_history_of_several_ranks_is_planned_to_the_byte(rank_pool: Any, tmp_path: Path) -> None:
    stored(tmp_path)
    found = rank_pool.run(2, _index_bytes_of_rank)
    counts = count_graph(tmp_path)
    for rank, measured in enumerate(found):
        parts = (counts.bucket_facts[rank::2], counts.bucket_answers[rank::2])
        assert history_bytes(*(part.sum() for part in parts), world_size=2) == measured
    # The rank with the most facts need not be the one with the most of each: the plan is the most there can be.
    assert max(found) <= history_of_rank(Workload(tiny_config(NO_RULES), counts, 2)) <= 1.1 * max(found)


def test_rows_of_the_largest_of_several_ranks(tmp_path: Path) -> None:
    stored(tmp_path)
    counts = count_graph(tmp_path)
    for world_size in (2, 3, 20):
        shards = [Partition(NUM_ENTITIES, BUCKETS, rank, world_size).num_rows for rank in range(world_size)]
        assert Workload(tiny_config(), counts, world_size).rows == max(shards)


def test_counts_are_those_of_the_graph(tmp_path: Path) -> None:
    graph, counts = stored(tmp_path), count_graph(tmp_path)
    snapshots = [graph.snapshot(time) for time in graph.times]
    assert counts.share == 1
    assert counts.active.tolist() == [len(one.active) for one in snapshots]
    assert counts.queries.tolist() == [len(one.queries) for one in snapshots]
    assert counts.query_facts.sum() == counts.query_answers.sum() == counts.queries.sum()
    pairs = [set(zip(one.anchor.tolist(), one.other.tolist(), strict=True)) for one in snapshots]
    assert counts.neighbours.sum() == sum(map(len, pairs))
    assert len(counts.num_facts) == NUM_SNAPSHOTS
    assert [graph.times[part] for part in (counts.train, counts.valid)] == [
        graph.times_in(split) for split in ("train", "valid")
    ]


def test_history_links_are_those_of_queries_at_the_end(tmp_path: Path) -> None:
    """Averages over all queries of the facts and answers of their subjects, each up to its limit."""
    graph, counts, limits = stored(tmp_path), count_graph(tmp_path), tiny_config().model.history
    facts, answers, queries = {}, {}, []
    rows = graph.rows()
    for time, anchor, relation, other in zip(*(column.tolist() for column in rows), strict=True):
        facts.setdefault(anchor, set()).add((relation, other))
        answers.setdefault((anchor, relation), set()).add(other)
        queries.append((time, anchor, relation))
    distinct = set(queries)
    degrees = [len(facts[anchor]) for _, anchor, _ in distinct]
    same = [len(answers[anchor, relation]) for _, anchor, relation in distinct]
    limit, wider = limits.two_hop_second, limits.two_hop_newest
    assert wider > limit
    anchors = rows.anchor.tolist()
    nearest, most = (np.mean([min(len(facts[v]), number) for v in anchors]) for number in (limit, wider))
    relations = np.mean([min(len({relation for relation, _ in facts[v]}), wider) for v in anchors])
    second = min(most, nearest + relations)
    expected = np.minimum(degrees, limits.recent).mean() + np.minimum(same, limits.same_relation).mean()
    expected += np.minimum(degrees, limits.two_hop_first).mean() * second
    expected += np.minimum(degrees, limits.rule_bodies).mean() * min(limits.rule_heads, HEADS)
    assert counts.history_links(limits) == pytest.approx(expected)


def test_a_part_of_the_buckets_gives_about_the_same_counts(tmp_path: Path) -> None:
    """Buckets are alike, except for a few entities with most of the facts."""
    facts = torch.randint(400, (8000, 4), generator=torch.Generator().manual_seed(0))
    facts[:, 1] %= 3
    facts[:, 3] %= NUM_SNAPSHOTS
    write_graph(tmp_path, graph_of(facts.numpy(), buckets=16, num_entities=400), 16)
    whole, part = count_graph(tmp_path), count_graph(tmp_path, max_rows=6000)
    assert part.share < 0.5
    for name in ("bucket_facts", "bucket_answers", "active", "queries"):
        assert getattr(part, name).sum() == pytest.approx(getattr(whole, name).sum(), rel=0.1), name
    assert part.neighbours.sum() / part.share == pytest.approx(whole.neighbours.sum(), rel=0.1)


def counted_operations(config: Config, graph: TemporalGraph) -> tuple[int, int]:
    """Operations of the steps of an epoch, and of its validation, by torch's counter."""
    steps = 0
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        for progress in Trainer(config, graph).run():
            if progress.metrics:
                break
            if progress.phase == "validate":
                steps = counter.get_total_flops()
    return steps, counter.get_total_flops() - steps


@pytest.mark.parametrize(
    ("decoder", "train", "tolerance"),
    [
        ("mlp", {}, 0.04),
        ("distmult", {"window": 1, "answers_per_step": 300}, 0.04),
        # Of a sample of the facts, fewer entities that are active in the window are read by the step.
        ("mlp", {"candidates": "sampled", "num_negatives": 400}, 0.1),
    ],
)
def test_operations_are_those_of_an_epoch_of_a_larger_graph(
    tmp_path: Path, decoder: str, train: dict[str, Any], tolerance: float
) -> None:
    graph = random_graph(6000, num_entities=3000)
    write_graph(tmp_path, graph, 16)
    config = tiny_config({"dim": 48, "decoder": decoder}, **train)
    counts = count_graph(tmp_path)
    assert len(counts.sample) < 0.5 * counts.num_facts.sum()  # what is measured on is another size
    planned = epoch_operations(Workload(config, counts, 1), unit_operations(config, counts))
    steps, validation = counted_operations(config, graph)
    assert sum(planned.values()) - planned["validation"] == pytest.approx(steps, rel=tolerance)
    assert planned["validation"] == pytest.approx(validation, rel=0.2)


def test_operations_of_a_wide_model_are_scaled_from_a_narrow_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(tmp_path, random_graph(1000, num_entities=200), 16)
    config, counts = tiny_config({"dim": 64}), count_graph(tmp_path)
    measured = unit_operations(config, counts)
    monkeypatch.setattr("gam_kg.plan.operations._MAX_DIM", 32)
    assert unit_operations(config, counts) == pytest.approx(measured, rel=0.1)
    assert not np.array_equal(unit_operations(config, counts), measured)


def test_more_workers_take_less_each(tmp_path: Path) -> None:
    stored(tmp_path)
    config, counts = tiny_config({"dim": 64, "heads": 4}), count_graph(tmp_path)
    one, two = (state_bytes(Workload(config, counts, number)) for number in (1, 2))
    assert two["entity rows"] < one["entity rows"]
    assert two["shared parameters"] == one["shared parameters"]


def test_the_peak_is_the_worst_of_the_start_a_step_and_an_epochs_end(tmp_path: Path) -> None:
    stored(tmp_path)
    items = memory_items(Workload(tiny_config(), count_graph(tmp_path), 1), 1000.0)
    always, *phases = (sum(item.num_bytes for item in items if item.phase == phase) for phase in PHASES)
    assert PHASES == ("always", "start", "step", "epoch end")
    assert peak_bytes(items) == always + max(phases)
    assert peak_bytes(items) - peak_bytes(items, on_device=True) >= 1000


def test_a_captured_step_has_room_that_stays_its_own(tmp_path: Path) -> None:
    stored(tmp_path)
    counts, config, on_gpu = count_graph(tmp_path), tiny_config(), tiny_config(use_gpu=True)

    def step(config: Config, world_size: int) -> tuple[float, set[str]]:
        items = memory_items(Workload(config, counts, world_size), 0.0)
        some = [item for item in items if item.name.startswith("step: ")]
        return sum(item.num_bytes for item in some), {item.phase for item in some}

    plain, captured = step(config, 1), step(on_gpu, 1)
    assert captured == (pytest.approx(1.25 * plain[0]), {"always"})
    assert plain[1] == {"step"}
    assert step(on_gpu, 2) == step(config, 2)
    assert step(tiny_config(use_gpu=True, cuda_graphs=False), 1) == plain


def test_a_gpu_must_have_room_for_whatever_takes_most(tmp_path: Path) -> None:
    stored(tmp_path)
    counts, config = count_graph(tmp_path), tiny_config(use_gpu=True)
    found = planner(config, counts).plan(1)
    uses = found["gpu_bytes"]
    assert list(uses) == ["training", "evaluation", "embedding"]
    assert found["required_bytes"] == max(uses.values()) == uses["training"]
    state = state_bytes(Workload(config, counts, 1))
    weights = state["entity rows"] + state["shared parameters"] + state["entity memory (h, c, last_seen)"]
    assert min(uses.values()) > weights
    # Training may validate on few facts, where evaluation ranks all.
    few = planner(tiny_config(use_gpu=True, valid_facts=1), counts).plan(1)["gpu_bytes"]
    assert few["evaluation"] == uses["evaluation"]
    assert planner(tiny_config(), counts).plan(1)["gpu_bytes"] == {}


@pytest.mark.parametrize("off", [None, "name_words", "word_agreement"])
def test_sketches_are_planned_where_there_are_words(tmp_path: Path, off: str | None) -> None:
    graph, counts = stored(tmp_path), count_graph(tmp_path)
    found = sketch_bytes(Workload(tiny_config({off: False} if off else {}), counts, 1))
    assert counts.num_words > 0
    sums_of_words = counts.num_words * MOST_COLUMNS * 3 * 8
    assert found == (0 if off else graph.num_entities * MOST_COLUMNS * (4 + 8) + sums_of_words)


def test_without_memory_no_messages_are_planned(tmp_path: Path) -> None:
    stored(tmp_path)
    with_memory, without = (
        step_bytes_sent(Workload(tiny_config({"memory": on}), count_graph(tmp_path), 2)) for on in (True, False)
    )
    assert with_memory["halo"] > 0
    assert without == with_memory | {"halo": 0}


def planner(config: Config, counts: GraphCounts) -> Planner:
    return Planner(config, counts, 0.0, shared_machine=True)


def test_workers_on_one_machine_share_its_memory(tmp_path: Path) -> None:
    stored(tmp_path)
    found = planner(tiny_config(), count_graph(tmp_path)).plan(2)
    assert found["required_bytes"] == 2 * found["worker_bytes"]


@pytest.mark.parametrize(
    "change", [("model.dim=32", {"dim": 32}), ("model.history.two_hop_first=0", {"history": {"two_hop_first": 0}})]
)
def test_knobs_save_what_a_plan_with_them_takes_less(tmp_path: Path, change: tuple[str, dict[str, Any]]) -> None:
    write_graph(tmp_path, random_graph(6000, num_entities=300), 16)
    override, values = change
    config, counts = tiny_config({"dim": 64, "heads": 4}), count_graph(tmp_path)
    changed = tiny_config({"dim": 64, "heads": 4, **values})
    found = {knob.override: knob.saved_bytes for knob in planner(config, counts).knobs()}
    before, after = (planner(one, counts).plan(1)["worker_bytes"] for one in (config, changed))
    assert found[override] == before - after > 0
    assert list(found.values()) == sorted(found.values(), reverse=True)
