"""Arithmetic, messages and time that training will take, from the counts that memory is planned with.

Time is arithmetic at the rate of a matrix product of the real size, plus what no product tells of: passes over scores
and rows at the rate of memory, links to the past at the rate of telling keys apart, and calls of operators.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gam_kg.distributed.volume import StepVolume, expected_halo_rows
from gam_kg.train.plan_memory import FLOAT
from gam_kg.train.plan_sizes import WorkerSizes

_FORWARD_BACKWARD = 3  # a backward has two products for each of the forward
_SCORE_PASSES = 8
_ROW_PASSES = 30  # encode and its backward, norm of gradients, optimizer: all rows, of all candidates
_KEYS_A_LINK = 3  # how often a link to the past is as dear as a key that is told apart
_CALLS_A_STEP, _CALLS_MORE_ON_SEVERAL = 7000, 1200  # counted with a window of two
_MOST_PRODUCT_FLOPS = 2e9
_SECONDS_A_TRIAL = 0.2


@dataclass(frozen=True)
class Rates:
    """How fast a worker is.

    Attributes:
        flops: Of a matrix product of the size of the scores, a second.
        memory: Bytes read and written a second.
        keys: Keys told apart a second.
        calls: Small operators a second.
    """

    flops: float
    memory: float
    keys: float
    calls: float


def calibrate(sizes: WorkerSizes, device: torch.device | str) -> Rates:
    """Measure, in about a second, what one worker with this process's threads can do.

    Args:
        sizes: Of the worker, which tell the size of its products.
        device: Where it computes.
    """
    dim, columns = sizes.config.model.dim, int(min(sizes.candidates, 200_000))
    rows = int(max(1, min(sizes.block_queries, _MOST_PRODUCT_FLOPS / (2 * dim * columns))))
    query, table = torch.rand(rows, dim, device=device), torch.rand(columns, dim, device=device)
    wide, small = torch.rand(int(min(32e6, max(1e6, sizes.block_queries * columns))), device=device), query[0, :8]
    few = torch.arange(len(small), device=device)
    keys = torch.randint(100_000, (200_000,), device=device)
    return Rates(
        2 * rows * columns * dim / _seconds(lambda: query @ table.T, device),
        # As most of a step's, the result is a new tensor.
        2 * FLOAT * len(wide) / _seconds(lambda: wide + 0.1, device),
        len(keys) / _seconds(lambda: torch.unique(keys, return_inverse=True), device),
        100 / _seconds(lambda: [small.index_select(0, few) for _ in range(100)], device),
    )


def _seconds(work: Callable[[], object], device: torch.device | str) -> float:
    """Median time of some repeats after the first."""
    taken, started = [], time.perf_counter()
    while len(taken) < 3 or (time.perf_counter() - started < _SECONDS_A_TRIAL and len(taken) < 100):
        before = time.perf_counter()
        work()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - before)
    return float(np.median(taken[1:]))


def epoch_flops(sizes: WorkerSizes) -> dict[str, float]:
    """Operations of the matrix products of an epoch on a rank, by what they are for; training and validation."""
    counts, config, model = sizes.counts, sizes.config.train, sizes.config.model
    queries, candidates = sizes.queries, sizes.candidates_of(sizes.answers)
    asked = float((queries * sizes.steps).sum())
    train, valid = counts.split("train"), counts.split("valid")
    updates = _update_flops(sizes)
    found, width = counts.lookups, model.history.dim
    links = sizes.history_share * asked * (2 * width * found.pairs + 4 * width * found.paths) / sizes.world_size
    maps = float((sizes.steps * _mapped(sizes)).sum()) * 4 * model.dim * width
    ranked = 2.0 * float(sizes.ranked.sum()) * sizes.rows * model.dim
    return {
        "scoring": _FORWARD_BACKWARD * 2.0 * model.dim * float((queries * candidates * sizes.steps).sum()),
        "GAM and LSTM": float((updates[train] * (_FORWARD_BACKWARD * config.window * sizes.steps + 1)).sum()),
        "decoder": _FORWARD_BACKWARD * asked * _decoder_flops(sizes) / sizes.world_size,
        "history": _FORWARD_BACKWARD * (links + maps),
        "validation": ranked + float(updates[train | valid].sum()),
    }


def _mapped(sizes: WorkerSizes) -> np.ndarray:
    """Rows of each step that the maps of the history's ends are of."""
    entries = sizes.queries * (sizes.counts.lookups.pairs + sizes.counts.lookups.paths) / sizes.world_size
    return np.minimum(sizes.rows, sizes.history_share * entries)


def _update_flops(sizes: WorkerSizes) -> np.ndarray:
    """Forward of one update of memory of each snapshot, on a rank: four maps, two of the LSTM's gates, and edges."""
    counts, dim = sizes.counts, sizes.config.model.dim
    relations = np.minimum(2 * counts.num_relations, 2 * counts.num_facts)
    of_rank = (8 + 16) * dim**2 * counts.active + 8 * dim * 2 * counts.num_facts
    return of_rank / sizes.world_size + 4 * dim**2 * relations


def _decoder_flops(sizes: WorkerSizes) -> float:
    """Forward of a query vector."""
    dim, width = sizes.config.model.dim, sizes.config.model.history.dim
    own = {"mlp": 16 * dim**2, "conv_transe": 600 * dim + 100 * dim**2}.get(sizes.config.model.decoder, 6 * dim)
    return own + 4 * dim * width


def epoch_seconds(sizes: WorkerSizes, rates: Rates) -> dict[str, float]:
    """Estimated time of an epoch by what takes it; messages between ranks are left out.

    Args:
        sizes: Of the worker.
        rates: Of a worker.
    """
    counts, dim = sizes.counts, sizes.config.model.dim
    candidates, steps = sizes.candidates_of(sizes.answers), sizes.steps
    scores = _SCORE_PASSES * float((sizes.queries * candidates * steps).sum())
    rows = np.full(len(steps), float(sizes.rows))
    if sizes.sampled:
        rows = np.minimum(sizes.rows, candidates + _mapped(sizes))
    passes = _ROW_PASSES * dim * float((rows * steps).sum())
    asked = float((sizes.queries * steps).sum())
    ranked = float(sizes.ranked.sum())
    links = (
        (sizes.history_share * asked + ranked / 3) * (counts.lookups.pairs + counts.lookups.paths) / sizes.world_size
    )
    calls = steps.sum() * (_CALLS_A_STEP + (_CALLS_MORE_ON_SEVERAL if sizes.world_size > 1 else 0))
    return {
        "matrix products": sum(epoch_flops(sizes).values()) / rates.flops,
        "passes over scores and rows": (scores + passes + 4 * ranked * sizes.rows) * FLOAT / rates.memory,
        "links to the past": _KEYS_A_LINK * links / rates.keys,
        "operator calls": float(calls) / rates.calls,
    }


def step_bytes_sent(sizes: WorkerSizes) -> dict[str, float]:
    """Bytes that a rank sends in a mean step, by purpose; none for one rank."""
    if sizes.world_size == 1:
        return {}
    counts, steps = sizes.counts, float(sizes.steps.sum())
    neighbours = torch.from_numpy(np.repeat(np.arange(len(counts.neighbours)), _scaled_down(counts.neighbours)))
    kept = _scaled_down(counts.neighbours).sum() / max(1.0, counts.neighbours.sum())
    halo = expected_halo_rows(neighbours, sizes.world_size) / max(kept, 1e-12) / max(1, len(counts.times))
    volume = StepVolume(
        sizes.world_size,
        float((sizes.queries * sizes.steps).sum()) / steps,
        float((sizes.answers * sizes.steps).sum()) / steps,
        halo,
        sum(sizes.shared),
        sizes.config.model.dim,
        sizes.config.model.history.dim,
        sizes.config.train.window,
    )
    return volume.bytes_sent()


def _scaled_down(counted: np.ndarray) -> np.ndarray:
    """Whole numbers in the same proportion, a million at most."""
    return np.round(counted * min(1.0, 1e6 / max(1.0, counted.sum()))).astype(np.int64)
