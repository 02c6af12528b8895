"""The plan verb: what training will take, computed from the prepared `graph/` before any training."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from rich.text import Text

from gam_kg.artifacts import read_manifest
from gam_kg.config import Config
from gam_kg.errors import MemoryPlanError
from gam_kg.mirror import readable_run
from gam_kg.plan.counts import GraphCounts, count_graph
from gam_kg.plan.gpus import gpu_bytes
from gam_kg.plan.plan import Planner
from gam_kg.run_config import require_same_settings
from gam_kg.run_folder import graph_to_train
from gam_kg.training.run import threads
from gam_kg.workflow.inputs import notices
from .progress import results
from .report import show_table

logger = logging.getLogger("gam_kg")
_USABLE_SHARE = 0.95  # Ray stops a worker when more of the machine's memory is used
# A worker's imports of Ray Train; and driver, services and helpers of a Ray beside one worker, measured on two cores.
_RAY_WORKER_BYTES, _RAY_MACHINE_BYTES = 50 * 2**20, 1770 * 2**20
_OBJECT_STORE_SHARE, _OBJECT_STORE_MOST = 0.3, 200 * 10**9
_GPU_CONTEXT_BYTES = 600 * 2**20
_ASSUMED = (
    "State and history are counted from the tensors there will be; what a step takes beside them is an estimate. "
    "Operations are those of matrix products, counted in real steps on a part of the graph and scaled. Time is not "
    "estimated: train.epochs=1 shows it."
)


def plan(
    config: Config,
    workers: list[int],
    *,
    memory_gib: float | None = None,
    gpu: str | None = None,
    as_json: bool = False,
) -> None:
    """Print what training would take.

    Args:
        config: The run's configuration.
        workers: Numbers of workers to plan beside the configured one.
        memory_gib: GiB of the machine, or GPU; None: of this one.
        gpu: Plan for workers with a GPU of this name, one of `GPUS`; None: as `train.use_gpu` says.
        as_json: Print JSON instead of tables.

    Raises:
        ArtifactError: There is no finished `graph/`.
        ConfigError: Settings, or facts, differ from those that it was made with.
        MemoryPlanError: The configured training does not fit.
    """
    if gpu is not None:
        config = config.changed({"train.use_gpu": True})
    base = resident_bytes()  # the same libraries as a worker's, before anything is read
    if config.run_dir is not None:
        readable_run(config.run_dir, "run_dir", "graph", "graph.next")
    path = graph_to_train(config.run_path)
    graph = read_manifest(path, "graph")
    require_same_settings("plan", config, {path: graph})
    for notice in notices(config, graph):
        logger.warning("warning: %s", notice)
    torch.set_num_threads(threads(config))
    memory = gpu_bytes(gpu) if gpu else memory_gib and memory_gib * 2**30
    found = _plan(config, count_graph(path), workers, base, memory)
    if gpu is not None:
        found["memory_of"] = f"GPU ({gpu.upper()})"
    if as_json:
        results.file.write(json.dumps(found, indent=2) + "\n")
    else:
        _show(config, found)
    if not found["fits"]:
        raise MemoryPlanError(_refusal(found))


def _plan(config: Config, counts: GraphCounts, workers: list[int], base: float, memory: float | None) -> dict[str, Any]:
    """All that is printed, as plain values."""
    configured, gpu, ray = max(1, config.train.most_workers), config.train.use_gpu, config.train.most_workers > 0
    memory = memory or (_gpu_here() if gpu else machine_bytes())
    usable = _USABLE_SHARE * memory - (_GPU_CONTEXT_BYTES if gpu else _RAY_MACHINE_BYTES * ray)
    planner = Planner(config, counts, base + _RAY_WORKER_BYTES * ray, shared_machine=not os.environ.get("RAY_ADDRESS"))
    plans = {number: planner.plan(number) for number in sorted({configured, *workers})}
    for found in plans.values():
        found["fits"] = bool(found["required_bytes"] <= usable)
        found["gpu_fits"] = {use: bool(size <= usable) for use, size in found["gpu_bytes"].items()}
    required = plans[configured]["required_bytes"]
    return {
        "graph": {
            "num_entities": counts.num_entities,
            "num_relations": counts.num_relations,
            "num_facts": int(counts.num_facts.sum()),
            "num_snapshots": len(counts.num_facts),
            "distinct_facts": float(counts.bucket_facts.sum()),
            "share_read": float(counts.share),
        },
        "memory_of": "GPU" if gpu else "machine",
        "memory_bytes": memory,
        "usable_bytes": usable,
        "object_store_bytes": min(_OBJECT_STORE_MOST, _OBJECT_STORE_SHARE * machine_bytes()) * (ray and not gpu),
        "configured_workers": configured,
        "workers": plans,
        "fits": plans[configured]["fits"],
        "required_bytes": required,
        "knobs": [knob._asdict() | {"enough": bool(required - knob.saved_bytes <= usable)} for knob in planner.knobs()],
        "assumed": _ASSUMED,
    }


def _show(config: Config, found: dict[str, Any]) -> None:
    graph, workers = found["graph"], found["workers"]
    read = "all of it read" if graph["share_read"] == 1 else f"{graph['share_read']:.0%} of it read"
    results.print(
        f"{graph['num_facts']:,} facts ({graph['distinct_facts'] / 2:,.0f} distinct), {graph['num_entities']:,} "
        f"entities, {graph['num_snapshots']:,} snapshots; {read}",
        soft_wrap=True,
    )
    titles = [_numbered(number) for number in workers]
    for name, header, column in (("memory", "bytes of a worker", _memory), ("an epoch", "on a worker", _epoch)):
        columns = [column(worker) for worker in workers.values()]
        rows = [[row, *(cells[row] for cells in columns)] for row in columns[0]]
        show_table(f"{config.name}: {name}", [header, *titles], rows)
    header = ["override", "saves", "fits then", "price"]
    rows = [[one["override"], _size(one["saved_bytes"]), _yes(one["enough"]), one["price"]] for one in found["knobs"]]
    show_table("what would save memory, each alone", header, rows)
    results.print(Text(_verdict(found)), soft_wrap=True)
    results.print(Text(found["assumed"]), soft_wrap=True)


def _memory(worker: dict[str, Any]) -> dict[str, str]:
    """Cells of the table of memory."""
    sizes = {item["name"]: item["num_bytes"] for item in worker["items"]}
    sizes |= {"peak of a worker": worker["worker_bytes"], "on a machine, or GPU": worker["required_bytes"]}
    cells = {name: _size(number) for name, number in sizes.items()}
    for use, fits in worker["gpu_fits"].items():
        cells[f"on a GPU: {use}"] = f"{_size(worker['gpu_bytes'][use])}, {'fits' if fits else 'does not fit'}"
    return cells | {"fits": _yes(worker["fits"])}


def _epoch(worker: dict[str, Any]) -> dict[str, str]:
    """Cells of the table of an epoch."""
    return {f"GFLOP: {name}": f"{number / 1e9:,.0f}" for name, number in worker["flops_epoch"].items()} | {
        "GFLOP per step": f"{worker['flops_step'] / 1e9:,.2f}",
        "steps": f"{worker['steps']:,}",
        "sent per step by each": _size(sum(worker["bytes_sent_step"].values())),
        "sent per epoch by each": _size(worker["bytes_sent_epoch"]),
    }


def _verdict(found: dict[str, Any]) -> str:
    sizes = (
        f"{_size(found['required_bytes'])} of {_size(found['usable_bytes'])} that a {found['memory_of']} has to give"
    )
    text = f"{'fits' if found['fits'] else 'does not fit'} on {_numbered(found['configured_workers'])}: {sizes}"
    if store := found["object_store_bytes"]:
        text += f" (Ray's other processes are taken off; its object store, all but empty then, may take {_size(store)})"
    return text


def _refusal(found: dict[str, Any]) -> str:
    enough = [knob["override"] for knob in found["knobs"] if knob["enough"]]
    most = [knob["override"] for knob in found["knobs"][:3]]
    advice = f"set {' or '.join(enough[:3])}" if enough else f"no knob alone is enough; start with {', '.join(most)}"
    return f"training needs {_size(found['required_bytes'])}, there are {_size(found['usable_bytes'])}; {advice}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _numbered(number: int) -> str:
    return f"{number} worker{'s' if number > 1 else ''}"


def _size(number: float) -> str:
    if not number:
        return "0"
    unit, size = next((pair for pair in (("GiB", 2**30), ("MiB", 2**20)) if abs(number) >= pair[1]), ("KiB", 2**10))
    return f"{number / size:,.1f} {unit}"


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


def _gpu_here() -> float:
    if not torch.cuda.is_available():
        raise MemoryPlanError(
            "train.use_gpu=true, but there is no GPU here whose memory to plan with; give --gpu NAME, as H100, or "
            "--memory GIB"
        )
    return torch.cuda.get_device_properties(0).total_memory
