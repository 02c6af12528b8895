"""Training steps against their matrix products alone, in one run on one rank with one thread.

    python tests/performance/step_bound.py CONFIG [a.b=value ...] [--first 0] [--snapshots 304]

The run of CONFIG has a prepared `graph/`. The same snapshots are trained on three times: once to note all products of
forward and backward with their shapes, strides and types; then as in a first epoch and as in a later one, for which
batches are cached. After each measured snapshot its products are done alone, twice, on buffers of their
own, and the second time counts. All times are CPU time of the one thread, so that other processes count for less.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

import torch
from steps import build_trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gam_kg.config import load_config
from gam_kg.training import stopwatch
from gam_kg.training.batch_cache import BatchCache
from gam_kg.training.trainer import Trainer

WARM_UP = 2
REPEATED = ("mm", "addmm", "addmm_", "bmm", "mv")
OTHERS = ("baddbmm", "addmv", "convolution", "convolution_backward")  # none in the default model

Product = tuple[Any, tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]]


class NotedProducts(TorchDispatchMode):
    """Notes the matrix products that are done; `taken` gives them."""

    def __init__(self) -> None:
        super().__init__()
        self._noted: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in OTHERS, f"cannot repeat {name}"
        if name in REPEATED:
            operands = tuple((tuple(x.shape), x.stride(), x.dtype) for x in args if isinstance(x, Tensor))
            self._noted.append((getattr(torch.ops.aten, name.rstrip("_")), operands))
        return func(*args, **(kwargs or {}))

    def taken(self) -> list[Product]:
        noted, self._noted = self._noted, []
        return noted


class Repeated:
    """Does products again, each on operands and into an output of its own."""

    def __init__(self) -> None:
        self._buffers: dict[Product, tuple[list[Tensor], Tensor]] = {}

    def seconds(self, products: list[Product]) -> float:
        """What they take when all operands have been touched just before."""
        for _ in range(2):
            started = process_time()
            for product in products:
                operands, out = self._operands(product)
                product[0].out(*operands, out=out)
            taken = process_time() - started
        self._buffers.clear()
        return taken

    def _operands(self, product: Product) -> tuple[list[Tensor], Tensor]:
        if product not in self._buffers:
            operands = []
            for shape, stride, dtype in product[1]:
                size = 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
                operands.append(torch.randn(max(1, size)).to(dtype).as_strided(shape, stride))
            self._buffers[product] = operands, product[0](*operands)
        return self._buffers[product]


def walk(trainer: Trainer, first: int, snapshots: int) -> Iterator[dict[str, Any] | None]:
    """Train snapshots; their CPU seconds and phases, None for those of the warm-up."""
    trainer.position.index, trainer.memory = max(0, first - WARM_UP), trainer.model.empty_memory()
    steps = trainer.run()
    for _ in range(first - trainer.position.index + snapshots):
        started = process_time()
        snapshot = next(steps).snapshot
        assert snapshot is not None
        seconds, done = process_time() - started, trainer.position.index
        yield {"seconds": seconds, "phases": snapshot["phases"]} if done > first else None


def measured(trainer: Trainer, products: list[list[Product]], first: int) -> dict[str, Any]:
    """Means over snapshots, ms."""
    steps, alone, phases, repeated = [], [], defaultdict(float), Repeated()
    measured_steps = (step for step in walk(trainer, first, len(products)) if step is not None)
    for step, noted in zip(measured_steps, products, strict=True):
        steps.append(step["seconds"])
        alone.append(repeated.seconds(noted))
        for name, seconds in step["phases"].items():
            phases[name] += 1000 * seconds / len(products)
    step, bound = (1000 * sum(seconds) / len(products) for seconds in (steps, alone))
    return {
        "ms_a_snapshot": round(step, 1),
        "its_products_alone_ms": round(bound, 1),
        "ratio": round(step / bound, 2),
        "phases_ms": {name: round(value, 1) for name, value in phases.items()},
    }


def main() -> None:
    """Measure and print a line of JSON an epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--snapshots", type=int, default=304)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stopwatch.perf_counter = process_time
    trainer = build_trainer(load_config(arguments.config, arguments.overrides))
    snapshots = min(arguments.snapshots, len(trainer.times) - arguments.first)
    products = []
    with NotedProducts() as noted:
        for step in walk(trainer, arguments.first, snapshots):
            found = noted.taken()
            products += [] if step is None else [found]
    trainer._batches._cache = BatchCache(trainer.communicator)
    for epoch in ("first epoch", "later epoch"):
        means = measured(trainer, products, arguments.first)
        sys.stdout.write(json.dumps({"epoch": epoch, "snapshots": snapshots, **means}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
