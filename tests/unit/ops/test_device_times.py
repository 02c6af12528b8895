"""Times on a GPU; without one, events are made up that the GPU passes when a test says so."""

import time

import pytest
import torch

from gam_kg.distributed.traffic import Traffic
from gam_kg.ops.device_times import DeviceTimes
from gam_kg.training.stopwatch import Stopwatch

CUDA = torch.device("cuda")


class Device:
    """A GPU that runs behind the program: what is recorded takes one second, and is passed by `run` or a wait."""

    def __init__(self) -> None:
        self.recorded, self.passed, self.capturing = 0, 0, False

    def event(self, *, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)

    def run(self) -> None:
        self.passed = self.recorded


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device

    def record(self) -> None:
        self.device.recorded += 1
        self.at = self.device.recorded

    def query(self) -> bool:
        return self.at <= self.device.passed

    def synchronize(self) -> None:
        self.device.passed = max(self.device.passed, self.at)

    def elapsed_time(self, end: "Event") -> float:
        assert end.query()
        return 1000.0 * (end.at - self.at)


@pytest.fixture
def device(monkeypatch) -> Device:
    device = Device()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: device.capturing)
    return device


def test_blocks_are_counted_once_the_gpu_has_passed_them(device) -> None:
    times = DeviceTimes()
    with times.block("score"):
        pass
    device.run()
    with times.block("score"), times.block("loss"):
        pass
    assert times.take() == {"score": 1.0}
    assert device.passed == 2, "nothing has waited"
    device.run()
    assert times.take() == {"score": 3.0, "loss": 1.0}
    assert times.take() == {}


def test_neither_a_stopwatch_nor_traffic_waits(device) -> None:
    watch, traffic = Stopwatch(CUDA), Traffic()
    with watch.phase("score"), traffic.collective("queries", 8, CUDA):
        pass
    assert watch.take() == {}
    assert vars(traffic.take()["queries"]) == {"bytes": 8, "collectives": 1, "seconds": 0.0}
    device.run()
    assert watch.take() == {"score": 3.0}
    assert vars(traffic.take()["queries"]) == {"bytes": 0.0, "collectives": 0, "seconds": 1.0}


def test_a_block_inside_of_a_capture_records_no_event(device) -> None:
    watch, device.capturing = Stopwatch(CUDA), True
    with watch.phase("score"):
        pass
    assert device.recorded == 0
    assert watch.take() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_phases_of_a_gpu_are_times_of_the_gpu() -> None:
    watch, vectors = Stopwatch(CUDA), torch.rand(1024, 1024, device=CUDA)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(2):
        with watch.phase("product"):
            vectors = vectors @ vectors * 1e-3
    torch.cuda.synchronize()
    took, found = time.perf_counter() - started, watch.take()
    assert set(found) == {"product"}
    assert 0 < found["product"] <= took
