"""The plan of a training: memory, operations and messages of a worker, and which settings save memory."""

from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np
import torch

from gam_kg.config import Config
from gam_kg.distributed.volume import StepVolume, expected_halo_rows
from gam_kg.plan.counts import GraphCounts
from gam_kg.plan.memory import gpu_bytes_of_uses, memory_items, peak_bytes, shared_sizes
from gam_kg.plan.operations import epoch_operations, unit_operations
from gam_kg.plan.workload import Workload


class Knob(NamedTuple):
    """A setting, as an override for the command line, that saves some of the bytes required, at some price."""

    override: str
    saved_bytes: float
    price: str


class Planner:
    """Plans training with a configuration on a counted graph.

    Args:
        config: The run's configuration.
        counts: Counts of the graph.
        base_bytes: Memory of a worker's process before it reads anything.
        shared_machine: Whether all workers are on one machine.
    """

    def __init__(self, config: Config, counts: GraphCounts, base_bytes: float, *, shared_machine: bool) -> None:
        self._config, self._counts, self._base_bytes, self._shared = config, counts, base_bytes, shared_machine

    @cached_property
    def _units(self) -> np.ndarray:
        return unit_operations(self._config, self._counts)

    def plan(self, world_size: int) -> dict[str, Any]:
        """What training with some number of workers takes, as plain values."""
        workload = Workload(self._config, self._counts, world_size)
        items, operations = memory_items(workload, self._base_bytes), epoch_operations(workload, self._units)
        steps, sent = int(workload.steps.sum()), step_bytes_sent(workload)
        return {
            "items": [item._asdict() for item in items],
            "worker_bytes": peak_bytes(items),
            "gpu_bytes": gpu_bytes_of_uses(workload, items) if self._config.train.use_gpu else {},
            "required_bytes": self.required_bytes(self._config, world_size),
            "steps": steps,
            "flops_epoch": operations,
            "flops_step": (sum(operations.values()) - operations["validation"]) / max(1, steps),
            "bytes_sent_step": sent,
            "bytes_sent_epoch": sum(sent.values()) * steps,
        }

    def required_bytes(self, config: Config, world_size: int | None = None) -> float:
        """Bytes of a machine, or of a GPU where workers use one; None: with the most workers configured."""
        workers = world_size or max(1, config.train.most_workers)
        workload = Workload(config, self._counts, workers)
        items = memory_items(workload, self._base_bytes)
        if config.train.use_gpu:
            return max(gpu_bytes_of_uses(workload, items).values())
        return peak_bytes(items) * (workers if self._shared else 1)

    def knobs(self) -> list[Knob]:
        """Settings that each save more than one percent of the memory, those that save most first."""
        before, found = self.required_bytes(self._config), []
        for key, value, price in _choices(self._config):
            saved = before - self.required_bytes(_changed(self._config, key, value))
            if saved > 0.01 * before:
                found.append(Knob(f"{key}={value}", saved, price))
        return sorted(found, key=lambda knob: -knob.saved_bytes)


def step_bytes_sent(workload: Workload) -> dict[str, float]:
    """Bytes that a rank sends in a mean step, by purpose; none for one rank."""
    counts, config, ranks = workload.counts, workload.config, workload.world_size
    if ranks == 1:
        return {}
    halo_rows = expected_halo_rows(torch.tensor(counts.neighbours), ranks) / counts.share
    volume = StepVolume(
        world_size=ranks,
        num_queries=float(np.average(workload.scored, weights=workload.steps)),
        num_answers=float(np.average(workload.answers, weights=workload.steps)),
        halo_rows=halo_rows / len(counts.num_facts) if config.model.memory else 0.0,
        num_shared=sum(shared_sizes(workload)),
        dim=config.model.dim,
        history_dim=config.model.history.dim,
        window=config.train.window,
    )
    return volume.bytes_sent()


def _choices(config: Config) -> list[tuple[str, Any, str]]:
    """Settings, values that may take less memory, and what each costs."""
    train, model, history = config.train, config.model, config.model.history
    multiple = model.heads * (2 if model.decoder == "complex" and model.heads % 2 else 1)
    steps, past, noise = "more steps; other results", "queries see less of the past", "a noisier estimate of the loss"
    choices: list[tuple[str, Any, str]] = [
        ("train.max_logits", max(1, train.max_logits // 4), "the same result in more blocks, somewhat slower"),
        ("train.cuda_graphs", False, "the same result, more slowly"),
        ("train.answers_per_step", max(1, train.step_answers // 2), steps),
        ("train.max_steps_per_snapshot", 2 * train.max_steps_per_snapshot, steps),
        ("train.num_workers", 2 * max(1, train.most_workers), "the same result; more processes"),
        ("model.dim", max(multiple, model.dim // 2 // multiple * multiple), "a smaller model"),
        ("model.history.same_relation", history.same_relation // 10, past),
        ("model.history.recent", history.recent // 2, past),
        ("model.history.two_hop_first", 0, "no two-hop paths"),
        ("model.history.two_hop_newest", 0, "paths end in the most recent facts alone"),
        ("model.history.max_rules", max(1, history.max_rules // 4), "rare rules are left out"),
        ("model.history.rule_bodies", 0, "no rules of shared facts"),
        ("model.history.rule_confidence", False, "no confidence of rules"),
        ("model.history.popular", 0, "no popularity"),
        ("model.name_words", False, "nothing is learned of names"),
    ]
    if train.candidates != "sampled":
        return [*choices, ("train.candidates", "sampled", "the loss is estimated from a sample")]
    halved = [(name, max(1, getattr(train, name) // 2)) for name in ("num_negatives", "history_links")]
    return [*choices, *((f"train.{name}", value, noise) for name, value in halved)]


def _changed(config: Config, key: str, value: Any) -> Config:
    values = config.model_dump()
    *sections, last = key.split(".")
    reduce(dict.__getitem__, sections, values)[last] = value
    return Config.model_validate(values)
