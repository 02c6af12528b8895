"""Bytes that training takes on a worker, by what they are for.

State and history are exact. What a step or a validation takes beside them is an estimate: the tables, vectors, scores
and look-ups that are alive together.
"""

from typing import NamedTuple

import numpy as np
import torch

from gam_kg.graph.fact_source import SLAB_ROWS
from gam_kg.graph.word_agreement import sketch_columns
from gam_kg.nn.model import ENTITY, GAMLSTM
from gam_kg.plan.history_memory import FLOAT, INT, LONG, finding_bytes, history_of_rank
from gam_kg.plan.workload import Workload
from gam_kg.training.batch_cache import CACHE_BYTES
from gam_kg.training.batch_workers import SNAPSHOTS_AHEAD
from gam_kg.training.evaluate import MOST_WRITTEN_OUT, QUERIES_AT_ONCE
from gam_kg.training.query_block import MOST_QUERIES
from gam_kg.training.run import BATCHES_AHEAD, MOST_BATCH_WORKERS

DOUBLE = 8
PHASES = ("always", "start", "step", "epoch end")
BEST, BATCH_CACHE, NOT_RETURNED = "best epoch's weights and optimizer", "batch cache", "freed, not returned"
WEIGHTS, MEMORY = ("entity rows", "shared parameters"), "entity memory (h, c, last_seen)"
OPTIMIZER_STATE = "optimizer state of entity rows", "optimizer state of shared parameters"
_FIRST_USE = 120 * 2**20  # growth of a process that trains ten entities; mostly what optimizers of torch import
_NOT_RETURNED_SHARE = 0.25  # of what a step frees, the allocator has some that an epoch's end cannot use; or vice versa
_ROW_BYTES, _SLAB_ROW_BYTES, _GROUP_ROWS = 28, 128, 16_384  # of facts in a file, and sorted; rows of a row group
_FORKED = 60 * 2**20  # pages of a forked process that become its own, apart from its history
_NAME_BYTES = 100  # of an entity; fewer if names share few words
_FEATURE_BYTES = 28  # row, column, position by column and weight
_CACHED_LINK, _LINK, _WAITING_LINK = 18, 160, 72  # bytes of a fact or path of the history
_CACHED_CONFIDENCE, _CONFIDENCE, _WAITING_CONFIDENCE = 7, 40, 16  # bytes of a rule whose confidence is joined
_MADE_QUERY, _MADE_LINK, _MADE_CONFIDENCE = 400, 44, 16  # bytes in a batch that waits for its step
_SAMPLED_LINK = 60  # more, as a sampled candidate that no other query has; see `ScoreLayout.apart`
_REQUESTED_LINK = 1000  # of a sampled query, at most: for each that it requests, with those that lead to answers
# Tables of entity vectors that are alive together in a step, in a step with sampled candidates, and in validation.
_TABLES, _SAMPLED_TABLES, _VALIDATION_TABLES = 5, 7, 3
_UPDATE_VECTORS, _EDGE_VECTORS, _QUERY_VECTORS = 30, 4, 20  # of an active entity, an edge across ranks, a query
_RECORDED = 1.25  # a recorded step has room for so much more than the one that it was made for
_GROUP_OF_VECTORS = 65_536  # entities whose embeddings are made together
_BF16_SCORES = 4.5  # a product of half the width, two copies and a sum, in place of one product
_LOOKED_THROUGH = 100  # a fact of a neighbour that may be the newest of its relation
_LINKS_READ = 2  # for each that a sampled query requests, as several lead to answers; measured: 1.0 to 4.1


class Item(NamedTuple):
    """Something that takes memory of a worker, in one of the `PHASES`; on the GPU, where there is one, or not."""

    name: str
    num_bytes: float
    phase: str = PHASES[0]
    on_device: bool = True


def memory_items(workload: Workload, base_bytes: float) -> list[Item]:
    """What takes memory of a worker, whose process takes `base_bytes` before it reads anything."""
    state, steps, counts = state_bytes(workload), _step_bytes(workload), workload.counts
    start = max(finding_bytes(workload), sketch_bytes(workload))
    validation = state[MEMORY] + _validation_bytes(workload, workload.ranked)
    best = sum(state[name] for name in (*WEIGHTS, *OPTIMIZER_STATE))
    # What a recorded step uses stays its own.
    of_step, room = (PHASES[0], _RECORDED) if workload.recorded else ("step", 1.0)
    always = {
        **state,
        "ids, hashes and words": _NAME_BYTES * counts.num_entities + _FEATURE_BYTES * counts.num_features,
        NOT_RETURNED: _NOT_RETURNED_SHARE * min(sum(steps.values()), validation),
    }
    makers, history = _batch_workers(workload), history_of_rank(workload)
    return [
        Item("process and libraries", base_bytes + _FIRST_USE, on_device=False),
        Item("streamed facts", _stream_bytes(workload), on_device=False),
        Item("snapshots ahead", _ahead_bytes(workload), on_device=False),
        Item("batches ahead", _made_bytes(workload, makers), on_device=False),
        Item("history index", history, on_device=False),
        # Each has one of its own, and one more waits for the end of an epoch.
        Item("batch workers", makers * _FORKED + (makers + 1) * history if makers else 0.0, on_device=False),
        Item("start: rules, or agreement of words", start, "start", on_device=False),
        Item(BATCH_CACHE, _cache_bytes(workload, max(1, makers)), on_device=False),
        Item(BEST, best, on_device=False),
        *(Item(name, number) for name, number in always.items()),
        *(Item(f"step: {name}", room * number, of_step) for name, number in steps.items()),
        Item("epoch end: validation", validation, "epoch end"),
    ]


def sketch_bytes(workload: Workload) -> float:
    """The sketches of the entities' facts, and their sums for each word; see `word_agreement`."""
    words = _num_words(workload) if workload.config.model.word_agreement else 0
    columns = sketch_columns(workload.counts.num_entities)
    return columns * (workload.rows * (INT + DOUBLE) + 3 * words * DOUBLE) if words else 0.0


def peak_bytes(items: list[Item], *, on_device: bool = False) -> float:
    """Bytes in a step or at the end of an epoch, whichever is more; only those on the GPU if `on_device`."""
    some = [item for item in items if item.on_device or not on_device]
    always, *phases = (sum(item.num_bytes for item in some if item.phase == phase) for phase in PHASES)
    return always + max(phases)


def gpu_bytes_of_uses(workload: Workload, items: list[Item]) -> dict[str, float]:
    """Bytes of a rank's GPU in training, whose `memory_items` are given, in evaluation and in embedding."""
    state = state_bytes(workload)
    trained, vector = sum(state[name] for name in (*WEIGHTS, MEMORY)), workload.vector_bytes
    update = _UPDATE_VECTORS * float(workload.active.max(initial=1)) / workload.world_size
    group = _VALIDATION_TABLES * min(workload.rows, _GROUP_OF_VECTORS)
    return {
        "training": peak_bytes(items, on_device=True),
        "evaluation": trained + _validation_bytes(workload, workload.counts.queries[workload.counts.valid]),
        "embedding": trained + max(update, group) * vector,
    }


def shared_sizes(workload: Workload) -> list[int]:
    """Elements of each parameter that all workers have alike."""
    config, counts = workload.config.model, workload.counts
    with torch.device("meta"):
        relations, entities = (torch.ones(number, dtype=torch.bool) for number in (counts.num_relations, 1))
        model = GAMLSTM(config, relations, entities, seed=None)
    words = _num_words(workload)
    sizes = [value.numel() for name, value in model.named_parameters() if name != ENTITY]
    return sizes + ([words * config.dim] if words else [])


def _num_words(workload: Workload) -> int:
    counts = workload.counts
    return counts.num_feature_words + (counts.num_words if workload.config.model.name_words else 0)


def state_bytes(workload: Workload) -> dict[str, float]:
    """Bytes of parameters, gradients, optimizer and entity memory, exactly."""
    rows, sizes = workload.rows * workload.vector_bytes, shared_sizes(workload)
    return {
        "entity rows": rows,
        OPTIMIZER_STATE[0]: 2 * rows + FLOAT,  # with its number of steps
        MEMORY: 2 * rows + LONG * workload.rows,
        "shared parameters": sum(sizes) * FLOAT,
        "gradients of shared parameters": (sum(sizes) + 1) * FLOAT,  # with their norm
        OPTIMIZER_STATE[1]: (2 * sum(sizes) + len(sizes)) * FLOAT,
    }


def _batch_workers(workload: Workload) -> int:
    """Processes that make batches; as many as there are where CPUs are spare."""
    train = workload.config.train
    if workload.world_size > 1:
        return 0
    return MOST_BATCH_WORKERS * train.use_gpu if train.batch_workers is None else train.batch_workers


def _cache_bytes(workload: Workload, makers: int) -> float:
    """Batches of training snapshots that are one step, which each process that makes batches caches."""
    cached = 0.0 if workload.sampled else float(workload.queries[workload.steps <= 1].sum())
    return min(
        makers * CACHE_BYTES, cached * (workload.links * _CACHED_LINK + workload.confidences * _CACHED_CONFIDENCE)
    )


def _stream_bytes(workload: Workload) -> float:
    """A slab of facts, the next one while it is sorted, and a row group of each file."""
    rows = 2 * workload.counts.num_facts / workload.world_size
    groups = _GROUP_ROWS * len(workload.counts.bucket_facts) / workload.world_size
    slab = max(SLAB_ROWS, rows.max(initial=0))
    return min(rows.sum(), slab) * _SLAB_ROW_BYTES + min(rows.sum(), groups) * _ROW_BYTES


def _ahead_bytes(workload: Workload) -> float:
    """Facts of the rank, and queries of all ranks, in the snapshots that training looks ahead to."""
    counts, ranks = workload.counts, workload.world_size
    rows, queries = 2 * counts.num_facts[counts.train], counts.queries[counts.train]
    queried = 2 * (queries + rows) * (1 + (ranks > 1) / ranks)  # the rank's own queries are there apart
    before = np.concatenate([np.zeros(1), np.cumsum(LONG * (3 * rows / ranks + queried))])
    number = min(workload.config.train.max_horizon - 1, max(0, len(rows) - 1))
    return float((before[number + 1 :] - before[1 : len(before) - number]).max(initial=0))


def _made_bytes(workload: Workload, makers: int) -> float:
    """Batches that wait for their steps, the largest ones: as many as there are where a CPU is spare."""
    train, scored = workload.config.train, float(workload.scored.max(initial=1))
    number = float(BATCHES_AHEAD if train.read_ahead is None else train.read_ahead)
    if makers:  # each makes whole snapshots, of several steps perhaps
        number = makers * max(SNAPSHOTS_AHEAD, number) * float(workload.steps.max(initial=1))
    links = workload.links * (_MADE_LINK + (_SAMPLED_LINK if workload.sampled else 0))
    links += workload.confidences * _MADE_CONFIDENCE
    if workload.sampled:
        links = min(links, train.history_links / workload.world_size * _REQUESTED_LINK)
    return number * scored * (_MADE_QUERY + links)


def _step_bytes(workload: Workload) -> dict[str, float]:
    """Of the largest step."""
    train, counts, ranks, vector = workload.config.train, workload.counts, workload.world_size, workload.vector_bytes
    sizes = (workload.scored, workload.scored_answers, workload.candidates, workload.active)
    scored, answers, candidates, active = (float(size.max(initial=1)) for size in sizes)
    facts = float(counts.num_facts[counts.train].max(initial=1))
    updates = _UPDATE_VECTORS * active + (_EDGE_VECTORS * 2 * facts if ranks > 1 else 0)
    # The queries ahead are in the block of the step's own.
    block = _block(workload, scored, min(2 * train.num_negatives, counts.num_entities) if workload.sampled else None)
    tables, history, share = _TABLES * workload.rows * vector, _history_bytes(workload, block), 1.0
    if workload.sampled:
        share = min(1, _LINKS_READ * train.history_links / max(1, workload.links * ranks))
        ends = share * counts.distinct_entities(scored * workload.links * ranks)
        read = min(workload.rows, candidates + (ends + 2 * answers + train.window * active) / ranks)
        tables = _SAMPLED_TABLES * read * vector + (2 * LONG + FLOAT) * workload.rows
        history *= 1.5
    waiting = workload.links * _WAITING_LINK + workload.confidences * _WAITING_CONFIDENCE
    scores = _score_bytes(workload, block, candidates, _BF16_SCORES if train.precision == "bf16" else 1)
    return {
        "window of memory updates": train.window * updates / ranks * vector if workload.config.model.memory else 0.0,
        "rows of entities and their gradients": tables,
        "scores": scores + block * _QUERY_VECTORS * vector,
        "history look-up": share * (history + (scored - block) * waiting),
    }


def _validation_bytes(workload: Workload, ranked: np.ndarray) -> float:
    """Of the snapshot with the most queries that are ranked, (num_snapshots,)."""
    queries, rows = float(ranked.max(initial=1)), workload.rows
    block = min(queries, QUERIES_AT_ONCE) if rows > MOST_WRITTEN_OUT else _block(workload, queries)
    scores = 0.0 if rows > MOST_WRITTEN_OUT else _score_bytes(workload, block, rows, 1)
    return _VALIDATION_TABLES * rows * workload.vector_bytes + _history_bytes(workload, block) + scores


def _block(workload: Workload, queries: float, candidates: int | None = None) -> float:
    """Queries that are scored together with some candidates; None: with all rows."""
    return min(queries, MOST_QUERIES, max(1, workload.config.train.max_logits // (candidates or workload.rows)))


def _score_bytes(workload: Workload, queries: float, candidates: float, factor: float) -> float:
    """Scores, and the popularity of their relations: zeros and what is added to them."""
    relations = min(queries, 2 * workload.counts.num_relations) if workload.config.model.history.popular else 0
    return (factor * queries + 2 * relations) * candidates * FLOAT


def _history_bytes(workload: Workload, queries: float) -> float:
    """A look-up for some queries, with its forward and backward; a link has three vectors of the history's width."""
    link = _LINK + 3 * workload.config.model.history.dim * FLOAT
    ends = workload.counts.facts_of_neighbours(queries, workload.config.model.history) / workload.world_size
    return queries * (workload.links * link + workload.confidences * _CONFIDENCE) + ends * _LOOKED_THROUGH
