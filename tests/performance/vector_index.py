"""Recall and speed of vector indexes beside exact search.

    OMP_NUM_THREADS=2 python tests/performance/vector_index.py [--run RUN] [--vectors 1000000] [--dim 200] [--kinds ...]

Vectors are those of the latest version of RUN's embeddings, or random ones around as many centres as the root of their
number, with a cosine of 0.7 to their centre. A line a kind: seconds to build and CPU seconds of it (reading, learning,
adding, measuring and writing), the size of the file, recall@10 of 1,000 queries that the build has not seen, and
milliseconds a query, one at a time and 256 together: the fastest of several calls, since the machine may have other
work. `exact` is the matrix product with all vectors; `read` is the time to read the matrix once, which bounds one exact
query from below.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from stored_vectors import clustered, write_version

from gam_kg.config import IndexConfig
from gam_kg.inference.faiss_index import exact
from gam_kg.inference.vector_index import VectorIndex, build_index
from gam_kg.inference.vector_source import VectorSource, find_version

QUERIES = 1000
TOGETHER = 256
NEAREST = 10


def milliseconds(function: Callable[[], object], times: int) -> float:
    """The least time of some calls."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        found.append(1000 * (time.perf_counter() - start))
    return min(found)


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    """Share of the expected ids that were found."""
    pairs = zip(found.tolist(), expected.tolist(), strict=True)
    return float(np.mean([len({*one} & {*other}) / len(other) for one, other in pairs]))


def show(*cells: str) -> None:
    """A row of the table."""
    sys.stdout.write("| " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


def timed(search: Callable[[np.ndarray], object], queries: np.ndarray) -> tuple[str, str]:
    """Milliseconds of one query, and of each of `TOGETHER`."""
    one, many = milliseconds(lambda: search(queries[:1]), 20), milliseconds(lambda: search(queries[:TOGETHER]), 5)
    return f"{one:.2f}", f"{many / TOGETHER:.3f}"


def main() -> None:
    """Measure all kinds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--kinds", nargs="*", default=["flat", "ivf_pq", "hnsw"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        if arguments.run is None:
            vectors = clustered(arguments.vectors, arguments.dim)
        else:
            with VectorSource.open(arguments.run, find_version(arguments.run)) as source:
                vectors = source.load()
        # Close to vectors that are there, as new entities would be, and not among them.
        generator = np.random.default_rng(5)
        near = vectors[generator.integers(0, len(vectors), QUERIES)]
        queries = near + 0.3 * clustered(QUERIES, vectors.shape[1], QUERIES, seed=6)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        expected, _ = exact(vectors, queries, NEAREST)
        matrix = torch.from_numpy(vectors)
        show("kind", "build, s", "CPU, s", "size, MB", "recall@10", "one query, ms", f"each of {TOGETHER}, ms")
        show(*["---"] * 7)
        show("read", "", "", "", "", f"{milliseconds(lambda: matrix.sum(), 10):.1f}", "")
        show(
            "exact",
            "",
            "",
            f"{vectors.nbytes / 1e6:.0f}",
            "1",
            *timed(lambda batch: exact(vectors, batch, 10), queries),
        )
        write_version(run, vectors)
        for kind in arguments.kinds:
            start, before = time.perf_counter(), time.process_time()
            made = build_index(run, find_version(run), IndexConfig(kind=kind))
            seconds, busy = time.perf_counter() - start, time.process_time() - before
            index = VectorIndex.load(run)
            size = made.files["index.faiss"]["bytes"] / 1e6
            found, _ = index.search(queries, NEAREST)
            settings = [
                f"{key} {made.content[key]}" for key in ("probes", "rerank", "ef_search") if key in made.content
            ]
            name = ", ".join([kind, *settings])
            rows = f"{seconds:.0f}", f"{busy:.0f}", f"{size:.0f}", f"{recall(found, expected):.3f}"
            show(name, *rows, *timed(lambda batch, index=index: index.search(batch, NEAREST), queries))


if __name__ == "__main__":
    main()
