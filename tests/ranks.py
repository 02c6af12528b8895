"""A pool of processes that act as ranks over gloo, on loopback, bounded in time."""

import io
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gam_kg.distributed.communicator import Communicator

MOST_RANKS = 4
SECONDS = 300


class RankPool:
    """Processes started once; each call makes a new process group of as many of them as it asks for."""

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, world_size: int, function: Callable[..., Any], *args: Any, backend: str = "gloo") -> list[Any]:
        """What `function(communicator, *args)` returns on each rank; the function must be importable by its name.

        Raises:
            AssertionError: A rank failed, with its traceback, or did not end in time.
        """
        if not self._processes:
            self._start()
        with tempfile.TemporaryDirectory() as folder:
            for rank, pipe in enumerate(self._pipes[:world_size]):
                pipe.send((backend, f"{folder}/rendezvous", rank, world_size, function, args))
            found: dict[int, Any] = {}
            waiting = {pipe: rank for rank, pipe in enumerate(self._pipes[:world_size])}
            while waiting:
                ready = wait(list(waiting), timeout=SECONDS)
                if not ready:
                    self.close()
                    raise AssertionError(f"ranks {sorted(waiting.values())} did not end in {SECONDS} s")
                for pipe in ready:
                    error, answer = pipe.recv()
                    if error:
                        self.close()
                        raise AssertionError(f"rank {waiting[pipe]} of {world_size} failed:\n{error}")
                    found[waiting.pop(pipe)] = torch.load(io.BytesIO(answer), weights_only=False)
        return [found[rank] for rank in range(world_size)]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for _ in range(MOST_RANKS):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            self._processes.append(process)
            self._pipes.append(ours)


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    while True:
        try:
            backend, store, rank, world_size, function, args = pipe.recv()
        except EOFError:
            return
        try:
            if "nccl" in backend:
                torch.cuda.set_device(rank)
            dist.init_process_group(
                backend,
                init_method=f"file://{store}",
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=SECONDS / 10),
            )
            answer = io.BytesIO()
            torch.save(function(Communicator.current(), *args), answer)
            dist.barrier()
            dist.destroy_process_group()
            pipe.send(("", answer.getvalue()))
        except BaseException:
            pipe.send((traceback.format_exc(), b""))
