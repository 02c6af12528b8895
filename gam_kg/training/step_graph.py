"""Optimizer steps that are recorded once and replayed: a GPU computes a step faster than its kernels are launched."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gam_kg.ops.packing import Packing
from gam_kg.training.step_batch import StepBatch, to_device

MOST_RECORDINGS = 16
"""Recordings of steps in memory at once; the one whose last use is longest ago goes first."""

Work = Callable[[], None]

logger = logging.getLogger("gam_kg")


class Recorder(Protocol):
    """Records work on a device. Work reads and writes memory in place, and returns nothing."""

    def rehearse(self, work: Work) -> None:
        """Do work that will be recorded next, so that all that is made once for it is made before."""

    def record(self, work: Work) -> Work:
        """Do work, and return how to do it again, with the numbers that the memory has by then."""


class CUDARecorder:
    """Records CUDA graphs, which share one pool of memory: nothing in it is read after the graph that wrote it.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, work: Work) -> None:
        """See `Recorder`."""
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            work()
        outside.wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile, which the other modes forbid.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        graph.replay()
        return graph.replay


@dataclass
class _Recording:
    """The recording of a step over one buffer.

    Attributes:
        buffer: Where its batch is packed, uint8 (num_bytes,).
        batch: The batch, views of the buffer.
        replay: None while it is not yet recorded.
    """

    buffer: Tensor
    batch: StepBatch
    replay: Work | None = None


class StepGraphs:
    """Does optimizer steps; those whose batches agree in all sizes are recorded once and then replayed.

    The first batch of new sizes is a rehearsal, and the second is recorded; both are steps like any other. If recording
    fails, it warns once, and does all further steps without recordings.

    Args:
        step: The step, see `OptimizerStep`.
        device: Where it computes.
        recorder: None: nothing is recorded.
    """

    def __init__(
        self, step: Callable[[StepBatch], None], device: torch.device, recorder: Recorder | None = None
    ) -> None:
        self._step, self._device, self._recorder = step, device, recorder
        self._recordings: dict[Packing[StepBatch], _Recording] = {}

    def __call__(self, batch: StepBatch) -> None:
        """Do the step of a batch that is on the CPU."""
        if self._recorder is None:
            self._step(to_device(batch, self._device))
            return
        packing = Packing.of(batch)
        recording = self._recordings.pop(packing, None)
        is_new = recording is None
        if recording is None:
            buffer = torch.empty(packing.num_bytes, dtype=torch.uint8, device=self._device)
            recording = _Recording(buffer, packing.unpack(buffer))
        self._recordings[packing] = recording
        if len(self._recordings) > MOST_RECORDINGS:
            del self._recordings[next(iter(self._recordings))]
        packing.send(batch, recording.buffer)

        def work() -> None:
            self._step(recording.batch)

        if recording.replay is not None:
            recording.replay()
        elif is_new:
            self._recorder.rehearse(work)
        else:
            self._record(recording, work)

    def forget(self) -> None:
        """Drop all recordings, whose memory may then be elsewhere."""
        self._recordings.clear()

    def _record(self, recording: _Recording, work: Work) -> None:
        assert self._recorder is not None
        try:
            recording.replay = self._recorder.record(work)
        except RuntimeError as error:
            logger.warning("steps run without CUDA graphs, and take longer, since recording one failed: %s", error)
            self._recorder = None
            self.forget()
            work()
