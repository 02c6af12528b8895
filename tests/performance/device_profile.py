"""What a device does in some steps: on a GPU by torch's profiler, on a CPU by the operators that are dispatched."""

import json
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from gam_kg.training.stopwatch import Stopwatch

OUTSIDE = "outside of phases"
_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
# Their results have sizes, or are numbers, that the program must know: on a GPU it waits for them.
_WAITING = {
    *("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


def of_trace(events: Iterable[dict[str, Any]], num_steps: int, top: int = 12) -> dict[str, Any]:
    """What a trace of torch's profiler says of some steps; numbers are means of a step.

    Args:
        events: `traceEvents` of an exported trace.
        num_steps: How many steps it is of.
        top: How many kernels to name.
    """
    events = [one for one in events if one.get("ph") == "X"]
    calls = Counter(one["name"] for one in events if one.get("cat") in ("cuda_runtime", "cuda_driver"))
    work = [one for one in events if one.get("cat") in _WORK]
    milliseconds, number = Counter[str](), Counter[str]()
    for one in work:
        milliseconds[one["name"]] += one["dur"] / 1000 / num_steps
        number[one["name"]] += 1 / num_steps

    def a_step(*names: str) -> float:
        return sum(count for name, count in calls.items() if name in names) / num_steps

    launches = [name for name in calls if "LaunchKernel" in name or "LaunchCooperativeKernel" in name]
    waits = [name for name in calls if name.endswith("Synchronize") and name != "cudaDeviceSynchronize"]
    return {
        "busy_ms": busy_microseconds((one["ts"], one["dur"]) for one in work) / 1000 / num_steps,
        "kernel_launches": a_step(*launches),
        "graph_launches": a_step("cudaGraphLaunch"),
        # The profiler itself waits for the device, by cudaDeviceSynchronize; training does not.
        "host_synchronisations": a_step(*waits, "cudaMemcpy"),
        "copies": a_step(*(name for name in calls if "Memcpy" in name)),
        "calls": {name: count / num_steps for name, count in calls.most_common(top)},
        "top_kernels": [[name, number[name], time] for name, time in milliseconds.most_common(top)],
    }


def busy_microseconds(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans (start, length)."""
    busy, end = 0.0, -float("inf")
    for start, length in sorted(spans):
        busy += max(0.0, start + length - max(start, end))
        end = max(end, start + length)
    return busy


class GPUProfile:
    """Profiles a block on a GPU."""

    @contextmanager
    def around(self) -> Generator[None]:
        """Profile the block."""
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            yield
            torch.cuda.synchronize()
        with TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(trace))
            self._events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]

    def found(self, num_steps: int) -> dict[str, Any]:
        """See `of_trace`."""
        return of_trace(self._events, num_steps)


class CPUProfile(TorchDispatchMode):
    """Counts, by phase, the operators that this thread dispatches in a block, and those for which a GPU would wait."""

    def __init__(self) -> None:
        super().__init__()
        self._phase, self._operators, self._waiting = OUTSIDE, Counter[str](), Counter[tuple[str, str]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._operators[self._phase] += 1
        name = func.overloadpacket.__name__
        if name in _WAITING or _is_masked(name, args) or _is_unsized(name, kwargs):
            self._waiting[self._phase, name] += 1
        return func(*args, **kwargs)

    @contextmanager
    def around(self) -> Generator[None]:
        """Count in the block."""
        phase = Stopwatch.phase

        @contextmanager
        def noted(watch: Stopwatch, name: str) -> Generator[None]:
            before, self._phase = self._phase, name
            with phase(watch, name):
                yield
            self._phase = before

        Stopwatch.phase = noted
        try:
            with self:
                yield
        finally:
            Stopwatch.phase = phase

    def found(self, num_steps: int) -> dict[str, Any]:
        """Operators, and those that wait, of a mean step by phase."""
        waiting: dict[str, dict[str, float]] = {}
        for (phase, name), count in self._waiting.most_common():
            waiting.setdefault(phase, {})[name] = count / num_steps
        operators = {phase: count / num_steps for phase, count in self._operators.most_common()}
        return {"operators": operators, "waiting_operators": waiting}


def _is_masked(name: str, args: Any) -> bool:
    """Whether it is an index by a mask, whose number of places the program must know."""
    if name not in _INDEXED:
        return False
    return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1])


def _is_unsized(name: str, kwargs: Any) -> bool:
    return name == "repeat_interleave" and kwargs.get("output_size") is None
