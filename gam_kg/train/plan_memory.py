"""Bytes that a worker will take, from counts of the graph and the configuration.

What is kept (state, history, names) is counted to the byte. What comes and goes with a step is an estimate by the
tensors that are alive at its worst moment.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gam_kg.data.fact_source import SLAB_ROWS
from gam_kg.distributed.sharded_history import KEPT_BYTES
from gam_kg.train.kept_plans import KEPT_PLAN_BYTES
from gam_kg.train.plan_sizes import WorkerSizes

FLOAT, LONG, INT = 4, 8, 4
_MOST_INT32 = 2**31 - 1
_FIRST_USE_BYTES = 28 * 2**20  # what training a graph of ten entities grows a process by: libraries used at last
# Of what steps have freed the allocator keeps some that the end of an epoch cannot use, and the other way round.
NOT_GIVEN_BACK, _SHARE_NOT_GIVEN_BACK = "freed, but kept by the allocator", 0.25
BEST_WEIGHTS = "weights of the best epoch"
KEPT_WALKS = "kept walks of the history"
# Tables of all of a rank's rows that are alive when the scores' gradients meet: z, their sum, the newest and its parts.
_TABLES_OF_ALL = 5
# Tables of the rows that a sampled step reads: those, and the rows of optimizer state that are written back.
_TABLES_OF_READ = 9
# A link to the past: three columns, the pair's six, its score, and what telling pairs apart and sorting takes.
_LINK_BYTES, _LINK_HELD_BYTES = 160, 72
_LINK_KEPT_BYTES = 18  # measured on ICEWS14, entries and pairs included
# Vectors of an active entity in an update: projections, gates of the LSTM, states before and after, noise, gradients.
_VECTORS_AN_UPDATE = 30
_VECTORS_A_QUERY = 20
_ROW_BYTES = 28  # a stored anchored fact: three int64 and an int32
_WORD_BYTES = 60  # a short Python string


@dataclass(frozen=True)
class Item:
    """Something that takes memory.

    Attributes:
        name: What it is.
        num_bytes: Of one worker.
        phase: "always", or when it is there beside that: "step" or "epoch end".
        on_device: Whether it is on the GPU, where there is one.
    """

    name: str
    num_bytes: float
    phase: str = "always"
    on_device: bool = True


def memory_items(sizes: WorkerSizes, base_bytes: float) -> list[Item]:
    """What takes memory in a worker.

    Args:
        sizes: Of the worker.
        base_bytes: What the process takes before it reads anything.
    """
    items = [Item("process and libraries", base_bytes + _FIRST_USE_BYTES, on_device=False), *_kept(sizes)]
    passing = list(_passing(sizes))
    phases = [sum(item.num_bytes for item in passing if item.phase == phase) for phase in ("step", "epoch end")]
    return [*items, *passing, Item(NOT_GIVEN_BACK, _SHARE_NOT_GIVEN_BACK * min(phases))]


def peak_bytes(items: list[Item], *, on_device: bool | None = None) -> float:
    """Bytes at the worse of a step and the end of an epoch.

    Args:
        items: Of a worker.
        on_device: Only what is (or is not) on the GPU; None for all.
    """
    some = [item for item in items if on_device is None or item.on_device == on_device]
    phases = [sum(item.num_bytes for item in some if item.phase == phase) for phase in ("always", "step", "epoch end")]
    return phases[0] + max(phases[1:])


def entity_bytes(sizes: WorkerSizes) -> dict[str, float]:
    """What grows with the worker's entities, exactly."""
    rows = sizes.rows * sizes.config.model.dim * FLOAT
    return {
        "entity rows": rows,
        "optimizer state of entity rows": 2 * rows,
        "entity memory (h, c, last_seen)": 2 * rows + LONG * sizes.rows,
    }


def shared_bytes(sizes: WorkerSizes) -> dict[str, float]:
    """What every worker has alike, exactly; a step count is a float, also that of the entity rows."""
    elements = sum(sizes.shared)
    return {
        "shared parameters": elements * FLOAT,
        "gradients of shared parameters": (elements + 1) * FLOAT,
        "optimizer state of shared parameters": (2 * elements + len(sizes.shared) + 1) * FLOAT,
    }


def history_bytes(num_facts: float, num_answers: float, num_relation_answers: float = 0, *, several: bool) -> float:
    """Tensors of a history index, exactly where the counts are.

    Args:
        num_facts: Distinct (anchor, relation, other) of the rank.
        num_answers: Distinct (relation, anchor) of the rank.
        num_relation_answers: The same of the relations that the rank owns, whoever owns the anchors.
        several: Whether there are several ranks: each has the past of its own entities and relations too.
    """
    found = _seen(num_facts) + 2 * _index(num_facts) + _seen(num_answers) + _index(num_answers)
    if several:
        # The two parts of a rank's own past share their keys.
        found += 2 * _seen(num_facts) - LONG * num_facts + 3 * _index(num_facts)
        found += _seen(num_relation_answers) + _index(num_relation_answers)
    return found


def _seen(keys: float) -> float:
    return keys * (LONG + LONG + INT)


def _index(keys: float) -> float:
    return (4 * keys + 1) * (INT if 2 * keys <= _MOST_INT32 else LONG)


def history_of(sizes: WorkerSizes) -> float:
    """Bytes of the worker's history index."""
    counts, world_size = sizes.counts, sizes.world_size
    return history_bytes(
        counts.of_largest_rank(counts.bucket_facts, world_size),
        counts.of_largest_rank(counts.bucket_answers, world_size),
        counts.relation_answers_of_rank(world_size),
        several=world_size > 1,
    )


def _kept(sizes: WorkerSizes) -> Iterator[Item]:
    of_entities, of_shared = entity_bytes(sizes), shared_bytes(sizes)
    yield from (Item(name, number) for name, number in (of_entities | of_shared).items())
    best = of_entities["entity rows"] + of_shared["shared parameters"]
    yield Item(BEST_WEIGHTS, best)
    yield Item("history index", history_of(sizes))
    plans = min(KEPT_BYTES, _plan_bytes(sizes)) if sizes.world_size > 1 else 0.0
    yield Item("kept plans of the history", plans)
    yield Item(KEPT_WALKS, _walk_bytes(sizes))
    yield Item("ids, names' hashes and words", _name_bytes(sizes))
    yield Item("streamed facts", _slab_bytes(sizes), on_device=False)


def _plan_bytes(sizes: WorkerSizes) -> float:
    """Plans of the history of all snapshots that are asked about."""
    limits, counts = sizes.config.model.history, sizes.counts
    asked = counts.split("train") | counts.split("valid")
    hops = limits.two_hop_first if limits.two_hop_second else 0
    subjects, queries = counts.active[asked], counts.queries[asked]
    relations = np.minimum(queries, 2 * counts.num_relations)
    neighbours = np.minimum(counts.num_entities, subjects * min(hops, counts.lookups.first))
    columns = (1 + 3) * LONG
    each = subjects * (columns + 3 * LONG * hops) + columns * (queries + relations + neighbours)
    return float(each.sum())


def _walk_bytes(sizes: WorkerSizes) -> float:
    """Plans of the attention over the history of snapshots that are one step."""
    if sizes.sampled:
        return 0.0
    counts = sizes.counts
    asked = counts.queries[counts.split("train")][sizes.steps <= 1]
    links = (counts.lookups.pairs + counts.lookups.paths) / sizes.world_size
    return min(KEPT_PLAN_BYTES, float(asked.sum()) * links * _LINK_KEPT_BYTES)


def _name_bytes(sizes: WorkerSizes) -> float:
    """Ids of own rows; of all entities whether they are trained, a hash and the words of the name."""
    counts, rows = sizes.counts, sizes.rows
    found = 2 * LONG * rows + rows + (1 + LONG) * counts.num_entities + LONG * 2 * counts.num_relations
    if counts.num_words:
        own = counts.num_word_links * rows / max(1, counts.num_entities)
        found += LONG * (4 * own + rows + counts.num_words + counts.num_entities + counts.num_word_links)
        found += _WORD_BYTES * counts.num_words
    return found


def _slab_bytes(sizes: WorkerSizes) -> float:
    """A slab, the next one while it is sorted, and a row group a file."""
    counts, world_size = sizes.counts, sizes.world_size
    all_rows = 2 * counts.num_facts.sum() / world_size
    longest = 2 * counts.num_facts.max(initial=0) / world_size
    slab = min(all_rows, max(SLAB_ROWS, longest))
    groups = counts.of_largest_rank(counts.bucket_held.astype(float), world_size)
    return slab * (4 * LONG + 3 * 4 * LONG) + groups * _ROW_BYTES


def _passing(sizes: WorkerSizes) -> Iterator[Item]:
    config, dim = sizes.config, sizes.config.model.dim
    entity, best = entity_bytes(sizes), sizes.rows * dim * FLOAT + sum(sizes.shared) * FLOAT
    updates = config.train.window * sizes.active * _VECTORS_AN_UPDATE * dim * FLOAT
    yield Item("step: window of memory updates", updates + _edge_bytes(sizes), "step")
    tables, rows = (_TABLES_OF_READ, sizes.read_rows) if sizes.sampled else (_TABLES_OF_ALL, float(sizes.rows))
    places = sizes.rows * (2 * LONG + FLOAT) if sizes.sampled else 0  # columns, shares, and what is read
    yield Item("step: rows of entities and their gradients", tables * rows * dim * FLOAT + places, "step")
    block = sizes.block_queries
    factor = 4.5 if config.train.precision == "bf16" else 1  # a product of half the width, two copies and a sum
    scores = _score_bytes(sizes, block, sizes.candidates, factor)
    yield Item("step: scores", scores + block * _VECTORS_A_QUERY * dim * FLOAT, "step")
    yield Item("step: history look-up", _history_step_bytes(sizes, block), "step")
    valid = sizes.valid_queries
    yield Item("epoch end: memory of the validation", entity["entity memory (h, c, last_seen)"], "epoch end")
    told = 3 * entity["entity rows"] + _link_bytes(sizes, valid)
    if sizes.valid_written_out:
        told += _score_bytes(sizes, valid, sizes.rows, 1)
    # The copy of the best weights is made when the validation is over, and the old one is still there.
    yield Item("epoch end: validation, or a new best", max(told, best), "epoch end")


def _score_bytes(sizes: WorkerSizes, queries: float, candidates: float, factor: float) -> float:
    """Scores, and the popularity of their relations: zeros and what is scattered into them."""
    relations = min(queries, 2 * sizes.counts.num_relations) if sizes.config.model.history.popular else 0
    return (factor * queries + 2 * relations) * candidates * FLOAT


def _link_bytes(sizes: WorkerSizes, queries: float) -> float:
    """A look-up for some queries, and its forward and backward."""
    found, width = sizes.counts.lookups, sizes.config.model.history.dim
    links = queries * (found.pairs + found.paths) / sizes.world_size
    # Rows a link's ends have of their own: of a first hop twice the width, of a single fact or a second hop likewise.
    ends = queries * (2 * found.pairs + 2 * found.first + found.second * found.first) / sizes.world_size
    return links * _LINK_BYTES + ends * 2 * width * FLOAT


def _history_step_bytes(sizes: WorkerSizes, block: float) -> float:
    """The look-up of a block; of sampled candidates, those of the other blocks are kept and pairs are scored apart."""
    if not sizes.sampled:
        return _link_bytes(sizes, block)
    found = sizes.counts.lookups
    links = sizes.history_share * (found.pairs + found.paths) / sizes.world_size
    kept = 1.5 * sizes.history_share * _link_bytes(sizes, block)
    return kept + (sizes.step_queries - block) * links * _LINK_HELD_BYTES


def _edge_bytes(sizes: WorkerSizes) -> float:
    """Weights of the edges by head, their gradients, ends and orders; and remote neighbours."""
    train, model = sizes.config.train, sizes.config.model
    found = sizes.edges * (6 * model.heads * FLOAT + 10 * LONG)
    if sizes.world_size > 1:
        found += 4 * sizes.edges * model.dim * FLOAT
    return train.window * found
