"""The plan of a training: what a worker takes, whether it fits, and which knob to turn."""

from dataclasses import dataclass
from typing import Any

from gam_kg.config import Config
from gam_kg.train.plan_counts import GraphCounts
from gam_kg.train.plan_memory import Item, memory_items, peak_bytes
from gam_kg.train.plan_sizes import WorkerSizes

# Ray stops a worker when the machine's memory is used above this share.
USABLE_SHARE = 0.95


@dataclass(frozen=True)
class Plan:
    """Memory of one number of workers.

    Attributes:
        world_size: Number of workers.
        items: What each of them takes.
        shared_machine: Whether all of them are on one machine.
    """

    world_size: int
    items: list[Item]
    shared_machine: bool

    @property
    def worker_bytes(self) -> float:
        """Peak of a worker."""
        return peak_bytes(self.items)

    @property
    def device_bytes(self) -> float:
        """Peak of a worker on its GPU."""
        return peak_bytes(self.items, on_device=True)

    def held(self, *, on_gpu: bool) -> float:
        """What is held against the memory of a machine, or of a GPU."""
        if on_gpu:
            return self.device_bytes
        return self.worker_bytes * (self.world_size if self.shared_machine else 1)


def make_plan(config: Config, counts: GraphCounts, world_size: int, base_bytes: float, *, shared_machine: bool) -> Plan:
    """Plan a number of workers; arguments as of `Plan` and `memory_items`."""
    sizes = WorkerSizes(config, counts, world_size)
    return Plan(world_size, memory_items(sizes, base_bytes), shared_machine)


@dataclass(frozen=True)
class Knob:
    """A setting that takes less memory.

    Attributes:
        override: As the command line takes it.
        saved_bytes: Of what is held against the memory.
        enough: Whether it alone makes the plan fit.
        price: What it costs.
    """

    override: str
    saved_bytes: float
    enough: bool
    price: str


def knobs(
    config: Config, counts: GraphCounts, base_bytes: float, usable_bytes: float, *, shared_machine: bool
) -> list[Knob]:
    """Settings that save memory, the most worth first; each is planned anew.

    Args:
        config: The run's configuration.
        counts: Of the graph.
        base_bytes: As of `memory_items`.
        usable_bytes: What there is.
        shared_machine: Whether all workers are on one machine.
    """

    def held(changed: Config) -> float:
        workers = max(1, changed.train.most_workers)
        plan = make_plan(changed, counts, workers, base_bytes, shared_machine=shared_machine)
        return plan.held(on_gpu=changed.train.use_gpu)

    before, found = held(config), []
    for key, value, price in _choices(config):
        after = held(_changed(config, key, value))
        if before - after > 0.01 * before:
            found.append(Knob(f"{key}={value}", before - after, after <= usable_bytes, price))
    return sorted(found, key=lambda knob: -knob.saved_bytes)


def _choices(config: Config) -> list[tuple[str, Any, str]]:
    train, model, history = config.train, config.model, config.model.history
    sampled, half = train.candidates == "sampled", max(model.heads, model.dim // 2 // model.heads * model.heads)
    if model.decoder == "complex" and half % 2:
        half += model.heads
    choices: list[tuple[str, Any, str]] = [
        ("train.max_logits", max(1, train.max_logits // 4), "the same result in more blocks, somewhat slower"),
        ("train.answers_per_step", max(1, train.step_answers // 2), "more steps; other results"),
        ("train.max_steps_per_snapshot", 2 * train.max_steps_per_snapshot, "more steps; other results"),
        ("train.num_workers", 2 * max(1, train.most_workers), "the same result; more processes"),
        ("model.dim", half, "a smaller model"),
        ("model.history.same_relation", history.same_relation // 10, "queries see less of the past"),
        ("model.history.recent", history.recent // 2, "queries see less of the past"),
        ("model.history.two_hop_first", 0, "no two-hop paths"),
        ("model.history.popular", 0, "no popularity"),
        ("model.name_words", False, "nothing is learned of names"),
    ]
    if not sampled:
        choices.append(("train.candidates", "sampled", "the loss is estimated from a sample"))
    else:
        noisier = "a noisier estimate of the loss"
        choices.append(("train.num_negatives", max(1, train.num_negatives // 2), noisier))
        choices.append(("train.history_links", max(1, train.history_links // 2), noisier))
    return [choice for choice in choices if _value(config, choice[0]) != choice[1]]


def _value(config: Config, key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


def _changed(config: Config, key: str, value: Any) -> Config:
    values = config.model_dump()
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[last] = value
    return Config.model_validate(values)
