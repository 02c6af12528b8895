"""Time of the exact best of many vectors, beside reading the vectors once and multiplying with them once.

    OMP_NUM_THREADS=2 python tests/performance/top_k.py [--vectors 1000000] [--dim 200] [--top-k 10]

All are measured in turns, in one process; the least of the repeats counts.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gam_kg.metrics.product_scores import ProductScores
from gam_kg.nn.vectors import unit

_NONE = torch.zeros(0, dtype=torch.int64)


def least(repeats: int, *measured: Callable[[], object]) -> list[float]:
    """Milliseconds that each took at least, all measured in turns."""
    found = [float("inf")] * len(measured)
    for _ in range(repeats):
        for place, function in enumerate(measured):
            began = time.perf_counter()
            function()
            found[place] = min(found[place], 1000 * (time.perf_counter() - began))
    return found


def product(query: Tensor, vectors: Tensor) -> None:
    """All products, some vectors at a time, as all of them together have no room."""
    for some in vectors.split(65_536):
        query @ some.T


def main() -> None:
    """Print a table of times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("vectors", 1_000_000), ("dim", 200), ("top-k", 10), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    vectors = unit(torch.randn(chosen.vectors, chosen.dim, generator=generator))
    lines = [
        f"{chosen.vectors:,} x {chosen.dim} float32, top {chosen.top_k}, {torch.get_num_threads()} threads",
        f"{'queries':>8}{'read, ms':>10}{'product, ms':>13}{'top k, ms':>11}{'/ read':>8}{'/ product':>11}",
    ]
    for number in (1, 16, 256):
        query = torch.randn(number, chosen.dim, generator=generator)
        scores = ProductScores(query, vectors, _NONE, _NONE, torch.zeros(0))
        read, multiplied, found = least(
            chosen.repeats,
            vectors.sum,
            lambda query=query: product(query, vectors),
            lambda scores=scores: scores.best(chosen.top_k),
        )
        ratios = f"{found / read:>8.2f}{found / multiplied:>11.2f}"
        lines.append(f"{number:>8}{read:>10.0f}{multiplied:>13.0f}{found:>11.0f}{ratios}")
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
