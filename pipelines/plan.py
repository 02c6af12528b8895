"""The plan verb: what training will take, told from the prepared `graph/` before any training."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from rich.text import Text

from gam_kg.config import Config
from gam_kg.errors import ArtifactError, MemoryPlanError
from gam_kg.train.plan import USABLE_SHARE, Knob, Plan, knobs, make_plan
from gam_kg.train.plan_cost import Rates, calibrate, epoch_flops, epoch_seconds, step_bytes_sent
from gam_kg.train.plan_counts import GraphCounts, count_graph
from gam_kg.train.plan_memory import Item
from gam_kg.train.plan_sizes import WorkerSizes
from gam_kg.train.session import threads
from pipelines.progress import results
from pipelines.report import show_table
from pipelines.stages import artifact_path

# A worker's imports of Ray Train; and driver, services and helpers of a Ray beside one worker, measured on two cores.
_RAY_WORKER_BYTES = 50 * 2**20
_RAY_MACHINE_BYTES = 1770 * 2**20
_OBJECT_STORE_SHARE, _OBJECT_STORE_MOST = 0.3, 200 * 10**9
_GPU_CONTEXT_BYTES = 600 * 2**20
_ASSUMED = (
    "State and history are counted from the tensors there will be; what comes and goes with a step is an estimate. "
    "Time is coarse, and too low where steps are small: products run at their measured rate, the rest at rates of "
    "memory, sorting and operator calls here; a worker has this process's threads; messages take no time."
)


def plan(config: Config, workers: list[int], *, memory_gib: float | None = None, as_json: bool = False) -> None:
    """Print what training would take.

    Args:
        config: The run's configuration.
        workers: Numbers of workers to tell of beside the configured one.
        memory_gib: GiB of the machine (or GPU) to hold it against; None: of this one.
        as_json: Print JSON instead of tables.

    Raises:
        ArtifactError: There is no finished `graph/`.
        MemoryPlanError: The configured training does not fit.
    """
    base = resident_bytes()  # the same libraries as a worker's, before anything is read
    path = artifact_path(config, "graph")
    if not (path / "manifest.json").exists():
        raise ArtifactError(f"{path}: there is no prepared graph to plan for; run `gam-kg prepare` first")
    torch.set_num_threads(threads(config))
    planner = _Planner(config, count_graph(path, config), base, memory_gib)
    found = planner.all(sorted({planner.configured, *workers}))
    if as_json:
        results.file.write(json.dumps(found, indent=2) + "\n")
    else:
        _show(config, found)
    if not found["fits"]:
        raise MemoryPlanError(_refusal(found))


class _Planner:
    """Plans numbers of workers for one configuration and graph."""

    def __init__(self, config: Config, counts: GraphCounts, base: float, memory_gib: float | None) -> None:
        self.config, self.counts = config, counts
        self.configured = max(1, config.train.most_workers)
        self._ray = config.train.most_workers > 0
        self._gpu = config.train.use_gpu
        self._base = base + (_RAY_WORKER_BYTES if self._ray else 0)
        self._one_machine = not os.environ.get("RAY_ADDRESS")
        self._memory = memory_gib * 2**30 if memory_gib else (_gpu_bytes() if self._gpu else machine_bytes())
        around = _GPU_CONTEXT_BYTES if self._gpu else (_RAY_MACHINE_BYTES if self._ray else 0)
        self._usable = USABLE_SHARE * self._memory - around

    def all(self, workers: list[int]) -> dict[str, Any]:
        """Plain values of all that is told."""
        device = "cuda" if self._gpu and torch.cuda.is_available() else "cpu"
        rates = calibrate(WorkerSizes(self.config, self.counts, self.configured), device)
        plans = {number: self._plan(number) for number in workers}
        own = plans[self.configured]
        fits = own.held(on_gpu=self._gpu) <= self._usable
        return {
            "graph": self._graph(),
            "memory_bytes": self._memory,
            "usable_bytes": self._usable,
            "held_against": "GPU" if self._gpu else "machine",
            "object_store_bytes": min(_OBJECT_STORE_MOST, _OBJECT_STORE_SHARE * machine_bytes()) if self._ray else 0,
            "configured_workers": self.configured,
            "workers": {number: self._told(found, rates) for number, found in plans.items()},
            "rates": vars(rates),
            "fits": bool(fits),
            "held_bytes": own.held(on_gpu=self._gpu),
            "knobs": [vars(knob) | {"enough": bool(knob.enough)} for knob in self._knobs()],
            "assumed": _ASSUMED,
        }

    def _plan(self, number: int) -> Plan:
        return make_plan(self.config, self.counts, number, self._base, shared_machine=self._one_machine)

    def _knobs(self) -> list[Knob]:
        return knobs(self.config, self.counts, self._base, self._usable, shared_machine=self._one_machine)

    def _graph(self) -> dict[str, float]:
        counts = self.counts
        return {
            "num_entities": counts.num_entities,
            "num_relations": counts.num_relations,
            "num_facts": int(counts.num_facts.sum()),
            "num_snapshots": len(counts.times),
            "distinct_facts": float(counts.bucket_facts.sum()),
            "share_read": counts.share,
        }

    def _told(self, found: Plan, rates: Rates) -> dict[str, Any]:
        sizes = WorkerSizes(self.config, self.counts, found.world_size)
        flops, seconds, sent = epoch_flops(sizes), epoch_seconds(sizes, rates), step_bytes_sent(sizes)
        steps = int(sizes.steps.sum())
        return {
            "items": [vars(item) for item in found.items],
            "worker_bytes": found.worker_bytes,
            "device_bytes": found.device_bytes,
            "held_bytes": found.held(on_gpu=self._gpu),
            "fits": bool(found.held(on_gpu=self._gpu) <= self._usable),
            "steps": steps,
            "flops_epoch": flops,
            "flops_step": sum(flops[name] for name in flops if name != "validation") / max(1, steps),
            "seconds_epoch": seconds,
            "bytes_sent_step": {name: float(number) for name, number in sent.items()},
            "bytes_sent_epoch": float(sum(sent.values())) * steps,
        }


def _show(config: Config, found: dict[str, Any]) -> None:
    graph, workers = found["graph"], found["workers"]
    read = "all of it read" if graph["share_read"] == 1 else f"{graph['share_read']:.0%} of it read"
    results.print(
        f"{graph['num_facts']:,} facts ({graph['distinct_facts'] / 2:,.0f} distinct), {graph['num_entities']:,} "
        f"entities, {graph['num_snapshots']:,} snapshots; {read}",
        soft_wrap=True,
    )
    header = ["bytes of a worker", *(_numbered(number) for number in workers)]
    items = [[Item(**item) for item in told["items"]] for told in workers.values()]
    names = list(dict.fromkeys(item.name for some in items for item in some))
    by_name = [{item.name: _size(item.num_bytes) for item in some} for some in items]
    rows = [[name, *(some.get(name, "") for some in by_name)] for name in names]
    rows.append(["peak of a worker", *(_size(told["worker_bytes"]) for told in workers.values())])
    against = "the GPU" if found["held_against"] == "GPU" else "a machine"
    rows.append([f"on {against}", *(_size(told["held_bytes"]) for told in workers.values())])
    rows.append(["fits", *("yes" if told["fits"] else "no" for told in workers.values())])
    show_table(f"{config.name}: memory", header, rows)
    show_table(f"{config.name}: an epoch", *_cost_table(workers))
    knob_rows = [
        [knob["override"], _size(knob["saved_bytes"]), "yes" if knob["enough"] else "no", knob["price"]]
        for knob in found["knobs"]
    ]
    show_table("what would save memory, each alone", ["override", "saves", "fits then", "price"], knob_rows)
    results.print(Text(_verdict(found)), soft_wrap=True)
    results.print(Text(found["assumed"]), soft_wrap=True)


def _cost_table(workers: dict[int, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    told = list(workers.values())
    rows = [
        [f"GFLOP: {name}", *(f"{one['flops_epoch'][name] / 1e9:,.0f}" for one in told)]
        for name in told[0]["flops_epoch"]
    ]
    rows.append(["GFLOP a step", *(f"{one['flops_step'] / 1e9:,.2f}" for one in told)])
    rows += [
        [f"s: {name}", *(f"{one['seconds_epoch'][name]:,.1f}" for one in told)] for name in told[0]["seconds_epoch"]
    ]
    rows.append(["s, estimated", *(f"{sum(one['seconds_epoch'].values()):,.0f}" for one in told)])
    rows.append(["steps", *(f"{one['steps']:,}" for one in told)])
    rows.append(["sent a step by each", *(_size(sum(one["bytes_sent_step"].values())) for one in told)])
    rows.append(["sent an epoch by each", *(_size(one["bytes_sent_epoch"]) for one in told)])
    return ["on a worker", *(_numbered(number) for number in workers)], rows


def _verdict(found: dict[str, Any]) -> str:
    against = (
        f"{_size(found['held_bytes'])} of {_size(found['usable_bytes'])} that a {found['held_against']} has to give"
    )
    text = f"{'fits' if found['fits'] else 'does not fit'} on {_numbered(found['configured_workers'])}: {against}"
    if store := found["object_store_bytes"]:
        text += f" (Ray's other processes are taken off; its object store, all but empty then, may take {_size(store)})"
    return text


def _refusal(found: dict[str, Any]) -> str:
    enough = [knob["override"] for knob in found["knobs"] if knob["enough"]]
    most = [knob["override"] for knob in found["knobs"][:3]]
    advice = f"set {' or '.join(enough[:3])}" if enough else f"no knob alone is enough; start with {', '.join(most)}"
    return f"training needs {_size(found['held_bytes'])}, there are {_size(found['usable_bytes'])}; {advice}"


def _numbered(number: int) -> str:
    return f"{number} worker{'s' if number > 1 else ''}"


def _size(number: float) -> str:
    if not number:
        return "0"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if abs(number) >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 2**10:,.1f} KiB"


def resident_bytes() -> int:
    """Memory that this process has now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except OSError:  # not Linux
        return 400 * 2**20
    return pages * os.sysconf("SC_PAGE_SIZE")


def machine_bytes() -> float:
    """Memory of this machine, or of the container that this process is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((Path("/sys/fs/cgroup") / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no such control group, or no limit
            continue
        return min(physical, limit)
    return physical


def _gpu_bytes() -> float:
    if not torch.cuda.is_available():
        raise MemoryPlanError(
            "train.use_gpu=true, but there is no GPU here to hold the plan against; give --memory GIB"
        )
    return torch.cuda.get_device_properties(0).total_memory
