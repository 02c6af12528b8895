"""What a training takes on a GPU: times of a snapshot, launches, waits, the share in which the GPU is busy, memory.

    python tests/performance/gpu.py CONFIG [a.b=value ...]            # a run's facts, as configs/icews14.yaml
    python tests/performance/gpu.py --entities 300000 --facts 2000000 --timestamps 400 --candidates sampled
    python tests/performance/gpu.py CONFIG --until-mrr 47             # also from facts to a validation MRR

It needs torch, pandas, pyarrow, pydantic, PyYAML and safetensors, and no Ray. With `--device cpu` it counts the
operators that are dispatched, by phase, and those for which a GPU would wait. docs/gpu.md says how to read what it
prints.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

STARTED = time.perf_counter()

import torch  # noqa: E402
from device_profile import CPUProfile, GPUProfile  # noqa: E402

from gam_kg.config import Config, TrainConfig, load_config  # noqa: E402
from gam_kg.graph.name_words import NameWords  # noqa: E402
from gam_kg.graph.temporal_graph import TemporalGraph  # noqa: E402
from gam_kg.ops.precision import require_precision  # noqa: E402
from gam_kg.parquet import open_writer  # noqa: E402
from gam_kg.synthetic.generator import FACTS, World  # noqa: E402
from gam_kg.synthetic.groups import SyntheticConfig, plan_groups  # noqa: E402
from gam_kg.training.run import batch_processes, batches_ahead, compute_device, threads  # noqa: E402
from gam_kg.training.trainer import Trainer  # noqa: E402
from gam_kg.workflow.imports import import_if_missing  # noqa: E402
from gam_kg.workflow.prepare import prepare_here  # noqa: E402
from gam_kg.workflow.stage import owned  # noqa: E402

GRAPHS = "cuda_graphs"


def configuration(arguments: argparse.Namespace, folder: Path) -> Config:
    """The configuration of what is measured; a generated graph, and a run without a folder, are in `folder`."""
    overrides = [*arguments.overrides, f"train.use_gpu={str(arguments.device == 'cuda').lower()}"]
    overrides += [
        f"train.{name}={value}" for name in ("candidates", "precision", "epochs") if (value := vars(arguments)[name])
    ]
    if arguments.no_graphs and GRAPHS in TrainConfig.model_fields:
        overrides.append(f"train.{GRAPHS}=false")
    if arguments.config is None:
        overrides = [f"data.facts={generated(arguments, folder)}", f"run_dir={folder / 'run'}", *overrides]
    config = load_config(arguments.config, overrides)
    require_precision(config.train.precision, use_gpu=config.train.use_gpu)
    return config


def generated(arguments: argparse.Namespace, folder: Path) -> Path:
    """The folder of a generated graph."""
    sizes = SyntheticConfig(entities=arguments.entities, facts=arguments.facts, snapshots=arguments.timestamps)
    world, facts = World(sizes), folder / "facts"
    facts.mkdir()
    with open_writer(facts / "part-00000.parquet", FACTS) as writer:
        for group in plan_groups(sizes):
            for part in world.generate(group).facts:
                writer.write_table(part.table())
    return facts


def open_trainer(config: Config) -> Trainer:
    """A trainer of the run's graph, which is prepared where it is not there."""
    with owned(config, "prepare"):
        import_if_missing(config)
        path = prepare_here(config)
    graph, manifest = TemporalGraph.load(path)
    words = NameWords.stored(path, manifest, of_names=config.model.name_words, known=graph.trained.tolist())
    ahead, workers = batches_ahead(config), batch_processes(config)
    return Trainer(config, graph, words, device=compute_device(config), read_ahead=ahead, batch_workers=workers)


def walk(
    trainer: Trainer,
    first: int,
    number: int,
    warm_up: int,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, Any]:
    """Train on some snapshots, after some others that are not measured; means of a snapshot."""
    trainer.position.index = max(0, first - warm_up)
    # In place: steps that are recorded as CUDA graphs read the memory where it is.
    for values, empty in zip(vars(trainer.memory).values(), vars(trainer.model.empty_memory()).values(), strict=True):
        values.copy_(empty)
    # Not of `run`, which ends the processes that make batches, and with them the batches that they have cached.
    with closing(trainer.rest_of_epoch()) as events:
        while trainer.position.index < first:
            next(events)
        wait()
        with around():
            started, step = time.perf_counter(), trainer.position.step
            taken = [next(events).snapshot for _ in range(number)]
            wait()
            seconds = time.perf_counter() - started
    phases = {name: 0.0 for one in taken for name in one["phases"]}
    for name in phases:
        phases[name] = sum(1000 * one["phases"].get(name, 0.0) for one in taken) / number
    return {
        "ms_a_snapshot": 1000 * seconds / number,
        "facts_a_second": sum(one["answers"] for one in taken) / 2 / seconds,
        "steps_a_snapshot": (trainer.position.step - step) / number,
        "phases_ms": dict(sorted(phases.items(), key=lambda item: -item[1])),
    }


def wait() -> None:
    """Wait until the GPU has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def until_mrr(config: Config, goal: float) -> dict[str, Any]:
    """Prepare and train anew until the validation MRR is at least `goal` (percent), or training ends."""
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        trainer = open_trainer(config.changed({"run_dir": folder + "/run"}))
        prepared, epochs = time.perf_counter() - started, []
        with closing(trainer.run()) as events:
            for event in events:
                if event.metrics is not None:
                    epochs.append([100 * event.metrics["valid_mrr"], time.perf_counter() - started])
                    if epochs[-1][0] >= goal:
                        break
        return {"goal": goal, "reached": epochs[-1][0] >= goal, "prepare_seconds": prepared, "mrr_and_seconds": epochs}


def measured(config: Config, arguments: argparse.Namespace) -> dict[str, Any]:
    """All that is printed, as plain values."""
    on_gpu = arguments.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer = open_trainer(config)
    last = len(trainer.times)
    first = min(last // 3 if arguments.first is None else arguments.first, last - 1)
    number = min(arguments.snapshots or (last if on_gpu else 4), last - first)
    warm_up = 10 if on_gpu else 2
    epochs = {name: walk(trainer, first, number, warm_up) for name in ("first", "later")}
    profiler, few = (GPUProfile() if on_gpu else CPUProfile()), min(number, 10)
    of_profile = walk(trainer, first, few, warm_up, profiler.around)
    found = profiler.found(round(few * of_profile["steps_a_snapshot"]))
    if trainer._workers is not None:
        trainer._workers.close()
    if on_gpu:
        busy = found["busy_ms"] * of_profile["steps_a_snapshot"]
        for epoch in epochs.values():
            epoch["busy_share"] = busy / epoch["ms_a_snapshot"]
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "cpus": len(os.sched_getaffinity(0)),
        "entities": trainer.graph.num_entities,
        "facts": int(trainer.graph.num_facts.sum()),
        "train": config.train.model_dump(
            mode="json", include={"candidates", "precision", GRAPHS, "read_ahead", "batch_workers"}
        ),
        "first_snapshot": first,
        "snapshots": number,
        "seconds_of_imports": IMPORTED,
        "epochs": epochs,
        "of_a_step": found,
        "peak_gib": {
            "allocated": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
            "reserved": torch.cuda.max_memory_reserved() / 2**30 if on_gpu else None,
            "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        },
    }


def lines(found: dict[str, Any]) -> list[str]:
    """What was found, for a reader."""
    first, later = found["epochs"]["first"], found["epochs"]["later"]
    rows = [("", "first epoch", "later")]
    for title, name, form in (
        ("ms a snapshot", "ms_a_snapshot", "{:.1f}"),
        ("facts a second", "facts_a_second", "{:,.0f}"),
        ("share of the time in which the GPU is busy", "busy_share", "{:.0%}"),
        ("steps a snapshot", "steps_a_snapshot", "{:.2f}"),
    ):
        if name in first:
            rows.append((title, form.format(first[name]), form.format(later[name])))
    rows += [
        (f"  phase: {name}, ms", f"{first['phases_ms'].get(name, 0):.2f}", f"{value:.2f}")
        for name, value in later["phases_ms"].items()
    ]
    rows.append(("in a step of a later epoch:", "", ""))
    for name, value in found["of_a_step"].items():
        if isinstance(value, dict):
            rows += [(f"  {name}: {key}", "", _cell(one)) for key, one in value.items()]
        elif isinstance(value, list):
            rows += [(f"  {number:.1f} x {kernel[:80]}", "", f"{time:.3f} ms") for kernel, number, time in value]
        else:
            rows.append((f"  {name}", "", f"{value:.2f}"))
    rows += [(f"peak memory, {name}, GiB", "", f"{value:.2f}") for name, value in found["peak_gib"].items() if value]
    if goal := found.get("until_mrr"):
        rows.append(
            (f"prepare, before training to validation MRR {goal['goal']}, s", "", f"{goal['prepare_seconds']:.1f}")
        )
        rows += [
            (f"  validation MRR {mrr:.2f} after, s", "", f"{seconds:.1f}") for mrr, seconds in goal["mrr_and_seconds"]
        ]
    width = max(len(row[0]) for row in rows)
    head = (
        f"{found['device']}, torch {found['torch']}, {found['cpus']} CPUs: {found['entities']:,} entities, "
        f"{found['facts']:,} facts, {found['train']}; {found['snapshots']} snapshots, "
        f"from number {found['first_snapshot']} on"
    )
    return [head, *(f"{row[0]:<{width}} {row[1]:>12} {row[2]:>12}".rstrip() for row in rows)]


def _cell(value: Any) -> str:
    return (
        ", ".join(f"{name} {number:.1f}" for name, number in value.items())
        if isinstance(value, dict)
        else f"{value:.1f}"
    )


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("config", nargs="?", help="YAML file; none: a graph is generated")
    found.add_argument("overrides", nargs="*", help="a.b=value")
    found.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    found.add_argument("--entities", type=int, default=20_000, help="of a generated graph")
    found.add_argument("--facts", type=int, default=200_000, help="of a generated graph")
    found.add_argument("--timestamps", type=int, default=100, help="of a generated graph")
    found.add_argument("--first", type=int, help="first measured snapshot; a third of the way")
    found.add_argument(
        "--snapshots", type=int, default=0, help="how many; 0: to the end of the epoch on a GPU, 4 on a CPU"
    )
    found.add_argument("--candidates", choices=("one_vs_all", "sampled"))
    found.add_argument("--precision", choices=("float32", "tf32", "bf16"))
    found.add_argument("--epochs", type=int, help="of a training with --until-mrr, at most")
    found.add_argument("--no-graphs", action="store_true", help="without CUDA graphs")
    found.add_argument(
        "--until-mrr", type=float, metavar="PERCENT", help="also prepare and train to this validation MRR"
    )
    found.add_argument("--json", action="store_true")
    return found


def main() -> None:
    """Measure and print."""
    arguments = parser().parse_intermixed_args()
    if arguments.config is not None and "=" in arguments.config:
        arguments.config, arguments.overrides = None, [arguments.config, *arguments.overrides]
    with TemporaryDirectory() as folder:
        config = configuration(arguments, Path(folder))
        torch.set_num_threads(threads(config))
        found = measured(config, arguments)
        if arguments.until_mrr is not None:
            found["until_mrr"] = until_mrr(config, arguments.until_mrr)
    sys.stdout.write((json.dumps(found) if arguments.json else "\n".join(lines(found))) + "\n")


IMPORTED = time.perf_counter() - STARTED

if __name__ == "__main__":
    main()
