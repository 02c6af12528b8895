"""Ray Train workers: the ranks of a stage, restarted by Ray when one of them is lost."""

import os
import queue
import shutil
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.torch.config import _TorchBackend
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gam_kg.config import Config
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.process_group import bind_beside, join, listen
from gam_kg.errors import ConfigError
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.storage import CACHE
from gam_kg.training.run import threads
from .ranks import OnEvent, OnRun
from .ray_session import ray_session

_POLL_SECONDS = 0.5

Worker = Callable[[dict[str, Any]], None]


def run_workers(
    config: Config, worker: Worker, settings: dict[str, Any], *, storage: Path, on_event: OnEvent
) -> ray.train.Result:
    """Run a function on `train.num_workers` ranks to the end, through losses of workers and nodes.

    Args:
        config: The run's configuration.
        worker: Called on each rank with `settings`, and under "config" and "events" with the configuration as plain
            values and with the queue for its events; `enter` takes them.
        settings: Plain values.
        storage: Folder that all nodes see, for Ray's state and the checkpoints of these workers alone.
        on_event: Receives the events of rank 0, in another thread.

    Raises:
        ConfigError: Ray has too few CPUs or GPUs.
    """
    # How often Ray looks at its workers, 2 s by default: a checkpoint waits for the next look.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    here = config.model_copy(update={"run_dir": str(config.run_path)})  # of a run at a URI the working copy
    train = config.train
    resources = {"CPU": threads(config)} | ({"GPU": 1} if train.use_gpu else {})
    with ray_session():
        check_room(config, resources)
        events = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": _here()})
        trainer = TorchTrainer(
            worker,
            train_loop_config={**settings, "config": here.model_dump(mode="json"), "events": events},
            scaling_config=ScalingConfig(
                num_workers=train.num_workers, use_gpu=train.use_gpu, resources_per_worker=resources
            ),
            torch_config=_RanksConfig(),
            run_config=RunConfig(
                name=storage.name,
                storage_path=str(storage.parent),
                failure_config=FailureConfig(max_failures=train.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        )
        with _forwarding(events, on_event):
            result = trainer.fit()
        events.shutdown()
        return result


def run_on_workers(
    config: Config, work: OnRun, settings: dict[str, Any], description: str, on_event: OnEvent, pending: Path | None
) -> None:
    """Run a function on a finished run on `train.num_workers` ranks; arguments: see `on_ranks`."""
    for leftover in config.run_path.glob(f".{description}-*"):  # of a process that was killed; the run is this one's
        shutil.rmtree(leftover, ignore_errors=True)
    storage = config.run_path / f".{description}-{uuid4().hex[:8]}"
    try:
        settings = {"work": work, "settings": settings, "pending": pending and str(pending)}
        run_workers(config, _on_run_worker, settings, storage=storage, on_event=on_event)
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def enter(settings: dict[str, Any]) -> tuple[Config, Communicator, torch.device, OnEvent]:
    """What a worker starts with: configuration, ranks, device, and a function that sends events to the driver.

    Only rank 0 sends them, and they are lost where the driver is.
    """
    context = ray.train.get_context()
    config = Config.model_validate(settings["config"])
    require_here(config)
    torch.set_num_threads(threads(config))
    communicator = Communicator(context.get_world_rank(), context.get_world_size())

    def on_event(event: object) -> None:
        if communicator.rank == 0:
            try:
                settings["events"].put_nowait(event)
            except (RayActorError, queue.Full):
                return

    device = get_device()
    if device.type == "cuda":
        bind_beside(device)
    return config, communicator, device, on_event


def _on_run_worker(settings: dict[str, Any]) -> None:
    config, communicator, device, on_event = enter(settings)
    pending = settings["pending"] and Path(settings["pending"])
    run = TrainedRun.load(config.run_path, device, communicator, verified=True, pending=pending)
    settings["work"](run, settings["settings"], on_event)


class _RanksConfig(TorchConfig):
    """In place of Ray's process group, whose store listens at all addresses of rank 0's machine."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _RanksBackend


class _RanksBackend(_TorchBackend):
    """Makes the process group anew whenever Ray Train starts workers, at the address that rank 0's node has in Ray."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        address, port, listener = worker_group.execute_single(0, _listen)
        ranks, use_gpu = len(worker_group), worker_group.get_resources_per_worker().get("GPU", 0) > 0
        joining = [
            worker_group.execute_single_async(
                rank, join, address, port, rank, ranks, use_gpu=use_gpu, listener=None if rank else listener
            )
            for rank in range(ranks)
        ]
        ray.get(joining)


def _listen() -> tuple[str, int, int]:
    address = ray.util.get_node_ip_address()
    return address, *listen(address)


@contextmanager
def _forwarding(events: Queue, on_event: OnEvent) -> Generator[None]:
    """While the block runs, and until the queue is empty, pass its events on."""
    stop = threading.Event()

    def forward() -> None:
        while True:
            try:
                event = events.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if stop.is_set():
                    return
            except RayError:  # the queue has gone with Ray, whose own error is raised elsewhere
                return
            else:
                on_event(event)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


def require_here(config: Config) -> None:
    """Refuse to work where the run is not.

    Raises:
        ConfigError: The run folder is not on this machine.
    """
    if not config.run_path.is_dir():
        raise ConfigError(
            f"{config.run_path} is not on this worker's machine, {socket.gethostname()}; set run_dir to a folder that "
            f"all machines share, or for a run at a URI set {CACHE} to one"
        )


def check_room(config: Config, resources: dict[str, int], key: str = "train.num_workers") -> None:
    """Refuse `train.num_workers` workers of which each needs these resources, if Ray has fewer.

    Args:
        config: The configuration.
        resources: Name → how many a worker needs.
        key: The setting that says how many workers there are, for messages.

    Raises:
        ConfigError: There is no room for them.
    """
    workers, available = config.train.num_workers, ray.cluster_resources()
    fewest = workers if isinstance(workers, int) else workers[0]
    for name, each in resources.items():
        if each * fewest > available.get(name, 0):
            raise ConfigError(
                f"{key}={workers} needs {each * fewest} {name}, Ray has {int(available.get(name, 0))}; "
                f"lower {'train.threads or ' if name == 'CPU' else ''}{key}"
                f"{' or set train.use_gpu=false' if name == 'GPU' else ''}"
            )


def _here() -> NodeAffinitySchedulingStrategy:
    """On this node: where the driver is lost, the queue is of no use."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
