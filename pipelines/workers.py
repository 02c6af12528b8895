"""Ray Train workers: the ranks of a stage, restarted by Ray when one of them is lost."""

import os
import queue
import shutil
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import ray.train
import torch
from ray.exceptions import RayActorError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gam_kg.config import Config
from gam_kg.distributed.topology import Topology
from gam_kg.errors import ConfigError
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.train.session import threads
from pipelines.progress import progress
from pipelines.ray_session import ray_session
from pipelines.stages import open_run

POLL_SECONDS = 0.5
# How long a collective waits for the other ranks before its worker counts as failed.
_COLLECTIVE_SECONDS = 1800

Worker = Callable[[dict[str, Any]], None]
Follow = Callable[[Callable[[], Any]], AbstractContextManager[None]]
Tell = Callable[[Any], None]
OnRun = Callable[[TrainedRun, dict[str, Any], Tell], None]


def run_workers(
    config: Config, worker: Worker, settings: dict[str, Any], *, storage: Path, follow: Follow
) -> ray.train.Result:
    """Run a function on `train.num_workers` ranks to the end, through losses of workers and nodes.

    Args:
        config: The run's configuration.
        worker: Called on each rank with `settings`, and under "config" and "told" with the configuration as plain
            values and with the queue to tell of progress.
        settings: What it needs beside these.
        storage: Folder that all nodes see, where Ray keeps the state and the checkpoints of this very work.
        follow: Shows, while the workers run, what the getter it is given gets from the queue.

    Raises:
        ConfigError: Ray has too few CPUs or GPUs.
    """
    # How often Ray looks at its workers, 2 s by default: a checkpoint waits for the next look.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    with ray_session():
        resources = {"CPU": threads(config)}
        if config.train.use_gpu:
            resources["GPU"] = 1
        _check_room(config, resources)
        told = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": _here()})
        trainer = TorchTrainer(
            worker,
            train_loop_config={**settings, "config": config.model_dump(mode="json"), "told": told},
            scaling_config=ScalingConfig(
                num_workers=config.train.num_workers,
                use_gpu=config.train.use_gpu,
                resources_per_worker=resources,
            ),
            torch_config=TorchConfig(timeout_s=_COLLECTIVE_SECONDS),
            run_config=RunConfig(
                name=storage.name,
                storage_path=str(storage.parent),
                failure_config=FailureConfig(max_failures=config.train.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
                worker_runtime_env={"env_vars": _worker_environment()},
            ),
        )
        with follow(lambda: told.get(timeout=POLL_SECONDS)):
            result = trainer.fit()
        told.shutdown()
        return result


def on_ranks(config: Config, work: OnRun, settings: dict[str, Any], description: str) -> None:
    """Run a function on a finished run: on `train.num_workers` ranks if they are several, else in this process.

    Args:
        config: The run's configuration.
        work: Called on each rank with the run as the rank has it, `settings`, and a way to tell of progress.
        settings: Plain values.
        description: What is being done.
    """
    if config.train.most_workers <= 1:
        with progress(description, 1) as advance:
            work(open_run(config), settings, lambda told: advance(told[0], total=told[1]))
        return
    storage = config.run_path / f".{description}-{uuid4().hex[:8]}"
    try:
        run_workers(
            config,
            _on_run_worker,
            {"work": work, "settings": settings},
            storage=storage,
            follow=lambda get: _follow(get, description),
        )
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _on_run_worker(settings: dict[str, Any]) -> None:
    config, topology, device, tell = enter(settings)
    run = TrainedRun.load(config.run_path, device, topology)
    settings["work"](run, settings["settings"], tell)


@contextmanager
def _follow(get: Callable[[], tuple[int, int]], description: str) -> Generator[None]:
    stop = threading.Event()

    def show() -> None:
        with progress(description, 1) as advance:
            while True:
                try:
                    done, total = get()
                except queue.Empty:
                    if stop.is_set():
                        return
                else:
                    advance(done, total=total)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


def enter(settings: dict[str, Any]) -> tuple[Config, Topology, torch.device, Callable[[object], None]]:
    """What a worker starts with: configuration, ranks, device, and a way to tell the driver of progress.

    Progress is told by rank 0, and is lost where the driver is.
    """
    context = ray.train.get_context()
    config = Config.model_validate(settings["config"])
    torch.set_num_threads(threads(config))
    topology = Topology(context.get_world_rank(), context.get_world_size())

    def tell(progress: object) -> None:
        if topology.rank == 0:
            try:
                settings["told"].put_nowait(progress)
            except (RayActorError, queue.Full):
                return

    return config, topology, get_device(), tell


def _check_room(config: Config, resources: dict[str, int]) -> None:
    wanted, available = config.train.num_workers, ray.cluster_resources()
    fewest = wanted if isinstance(wanted, int) else wanted[0]
    for name, each in resources.items():
        if each * fewest > available.get(name, 0):
            raise ConfigError(
                f"train.num_workers={wanted} wants {each * fewest} {name}, Ray has {int(available.get(name, 0))}; "
                f"lower {'train.threads or ' if name == 'CPU' else ''}train.num_workers"
                f"{' or set train.use_gpu=false' if name == 'GPU' else ''}"
            )


def _here() -> NodeAffinitySchedulingStrategy:
    """On this node, which must live on anyway: where the queue is lost, so is the driver."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _worker_environment() -> dict[str, str]:
    """On a Ray that is on loopback alone, ranks are too."""
    local = all(node["NodeManagerAddress"] == "127.0.0.1" for node in ray.nodes() if node["Alive"])
    interfaces = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    return {"GLOO_SOCKET_IFNAME": interfaces[0]} if local and interfaces else {}
