"""`tests/performance/gpu.py`: what it counts, and that it needs no Ray; here on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "performance"
NOT_NEEDED = ("ray", "typer", "torch_geometric", "duckdb", "matplotlib", "pipelines", "gam_kg_pipelines")
TINY = [
    *("--entities", "60", "--facts", "900", "--timestamps", "12", "--epochs", "1", "--until-mrr", "0", "--json"),
    *("model.dim=8", "model.history.dim=4", "train.threads=1"),
]


def measure(device: str) -> dict:
    """What the command prints where nothing is there that it does not need."""
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({NOT_NEEDED}))\n"
        f"sys.path.insert(0, {str(FOLDER)!r}); runpy.run_path({str(FOLDER / 'gpu.py')!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "--device", device, *TINY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def device_profile():
    sys.path.insert(0, str(FOLDER))
    import device_profile

    yield device_profile
    sys.path.remove(str(FOLDER))


def test_on_a_cpu_it_counts_operators_by_phase_and_needs_no_ray() -> None:
    found = measure("cpu")
    assert found["facts"] == 900
    assert set(found["epochs"]) == {"first", "later"}
    assert all(epoch["ms_a_snapshot"] > 0 and epoch["facts_a_second"] > 0 for epoch in found["epochs"].values())
    operators, phases = found["of_a_step"]["operators"], found["epochs"]["later"]["phases_ms"]
    assert {"encode", "score", "loss", "optimizer"} <= set(operators) & set(phases)
    assert found["until_mrr"]["reached"]
    assert len(found["until_mrr"]["mrr_and_seconds"]) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_counts_launches_waits_and_busy_time() -> None:
    found = measure("cuda")
    of_a_step = found["of_a_step"]
    assert of_a_step["kernel_launches"] + of_a_step["graph_launches"] > 0
    assert of_a_step["top_kernels"]
    assert 0 < found["epochs"]["later"]["busy_share"] < 1
    assert found["peak_gib"]["allocated"] > 0


def test_operators_for_which_a_gpu_would_wait_are_counted(device_profile) -> None:
    from gam_kg.training.stopwatch import Stopwatch

    profile, watch, values = device_profile.CPUProfile(), Stopwatch(), torch.tensor([3.0, 0.0, 2.0])
    with profile.around():
        with watch.phase("one"):
            values.sum().item()
            values[values > 0]
            values[torch.tensor([0, 1])] = 1.0
        with watch.phase("two"):
            torch.repeat_interleave(torch.tensor([1, 2]), output_size=3)
            torch.repeat_interleave(torch.tensor([1, 2]))
    assert profile.found(2)["waiting_operators"] == {
        "one": {"_local_scalar_dense": 0.5, "index": 0.5},
        "two": {"repeat_interleave": 0.5},
    }
    assert set(watch.take()) == {"one", "two"}


def test_a_trace_is_counted_by_the_step(device_profile) -> None:
    def event(category: str, name: str, start: float = 0.0, length: float = 1.0) -> dict:
        return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": length}

    events = [
        *[event("cuda_runtime", "cudaLaunchKernel")] * 4,
        *[event("cuda_driver", "cuLaunchKernelEx")] * 2,
        *[event("cuda_runtime", "cudaGraphLaunch")] * 2,
        *[event("cuda_runtime", "cudaMemcpyAsync")] * 6,
        *[event("cuda_runtime", "cudaStreamSynchronize")] * 2,
        event("cuda_runtime", "cudaDeviceSynchronize"),
        event("kernel", "gemm", 0, 3000),
        event("kernel", "gemm", 2000, 2000),
        event("gpu_memcpy", "Memcpy HtoD", 10_000, 1000),
        event("cpu_op", "aten::mm", 0, 90_000),
        {"ph": "M", "name": "process_name"},
    ]
    found = device_profile.of_trace(events, num_steps=2)
    assert found["busy_ms"] == 2.5, "two kernels at once are counted once"
    assert (found["kernel_launches"], found["graph_launches"], found["copies"]) == (3, 1, 3)
    assert found["host_synchronisations"] == 1, "the profiler's own is not counted"
    assert found["top_kernels"] == [["gemm", 1.0, 2.5], ["Memcpy HtoD", 0.5, 0.5]]
