"""The generate verb: a synthetic graph in Parquet files that `prepare` reads, and its best-possible MRR.

Ray Data makes the files in parallel. A task makes the groups of relations of one file, one after the other, and returns
what the optimum needs of them; this process sees no fact. Which file a group goes into depends on the settings alone,
so the files are the same however many tasks run at once. When all facts are counted, it is known where the test begins;
then tasks make the groups again for the multi-step optimum, and write nothing.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray.data

from gam_kg.artifacts import Content, Manifest, read_manifest, write_artifact
from gam_kg.data_config import SplitConfig
from gam_kg.errors import ArtifactError, ConfigError
from gam_kg.ingest.splits import Timeline, choose_boundaries
from gam_kg.ingest.time_axis import TimeAxis, TimestampRange
from gam_kg.metrics.horizons import HORIZONS
from gam_kg.parquet import open_writer
from gam_kg.synthetic.generator import FACTS, World
from gam_kg.synthetic.groups import SyntheticConfig, plan_groups
from gam_kg.synthetic.multi_step import Cut
from gam_kg.synthetic.optimum import Optimum
from .progress import progress
from .ray_session import ray_session

KIND = "synthetic"

_FACTS_A_FILE = 250_000


def generate(out: Path, config: SyntheticConfig, *, force: bool = False) -> Manifest:
    """Write a synthetic graph.

    Args:
        out: Folder to write: `part-*.parquet` with subject, relation, object (names) and timestamp (int64), and
            `manifest.json`, whose content has the sizes and the optimum: of `valid` and `test` single-step, and of the
            test `multi_step` by bins of the horizon. It appears only when it is whole.
        config: The settings.
        force: Replace a graph that was generated there before.

    Returns:
        The manifest.

    Raises:
        ConfigError: `out` is there already.
        OutputError: `out` cannot be written.
    """
    out = out.expanduser().absolute()  # tasks have other working directories
    _require_free(out, force=force)
    manifest = Manifest.of(KIND, {}, config.model_dump())
    with ray_session():
        return write_artifact(out, manifest, lambda staging: _write(staging, config))


def summary_lines(out: Path, manifest: Manifest) -> list[str]:
    """The sizes of a written graph in a sentence, and the optimum in a table."""
    content, optimum = manifest.content, manifest.content["optimum"]
    best, rows = optimum["test"]["all"], {"single-step": optimum["test"]} | optimum["multi_step"]
    sizes = [f"{content[f'num_{name}']:,} {name}" for name in ("facts", "entities", "relations", "snapshots")]
    header = ["horizon", "facts", *optimum["test"]]
    table = [
        [name, f"{row['all']['facts']:,}", *(_percent(row.get(role)) for role in header[2:])]
        for name, row in rows.items()
    ]
    widths = [max(len(row[column]) for row in [header, *table]) for column in range(len(header))]
    return [
        f"{', '.join(sizes)} -> {out}",
        f"best-possible test MRR (single-step, time-aware, from timestamp {content['test_start']} on): "
        f"{100 * best['both']:.2f} % ± {100 * best['both_error']:.2f} "
        f"(objects {100 * best['object']:.2f}, subjects {100 * best['subject']:.2f})",
        "single-step, and multi-step by horizon in snapshots, in %:",
        *("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *table]),
    ]


def _percent(found: dict[str, float] | None) -> str:
    return f"{100 * found['both']:.2f}" if found else "-"


def _require_free(out: Path, *, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise ConfigError(
            f"OUT: {out} is there already; name another folder, or replace a generated graph with --force"
        )
    try:
        read_manifest(out, KIND)
    except (ArtifactError, NotADirectoryError):
        # It may be somebody's data.
        raise ConfigError(f"OUT: {out} is there and is no generated graph; --force replaces nothing else") from None


def _write(staging: Path, config: SyntheticConfig) -> Content:
    """Write the files, and return the content of the manifest."""
    optimum, seen = Optimum.empty(config.snapshots), np.zeros(-(-config.entities // 8), np.uint8)
    for row in _each_part(config, _part_writer(config, staging), "generate"):
        optimum = optimum.merge(Optimum.from_bytes(row["sums"], config.snapshots))
        seen |= np.frombuffer(row["seen"], np.uint8)
    valid_start, test_start = _boundaries(optimum)
    multi_step = Optimum.empty(config.snapshots)
    for row in _each_part(config, _part_cutter(config, test_start), "optimum"):
        multi_step = multi_step.merge(Optimum.from_bytes(row["sums"], config.snapshots))
    num_facts = int(optimum.num_facts.sum())
    assert num_facts == config.facts, f"{num_facts} facts written, {config.facts} expected"
    return {
        "num_facts": num_facts,
        "num_entities": int(np.bitwise_count(seen).sum()),
        "num_relations": config.relations,
        "num_snapshots": int((optimum.num_facts > 0).sum()),
        "valid_start": valid_start,
        "test_start": test_start,
        "optimum": {
            "valid": optimum.compute(valid_start, test_start),
            "test": optimum.compute(test_start, config.snapshots),
            "multi_step": _by_horizon(multi_step, test_start),
        },
    }


def _by_horizon(optimum: Optimum, start: int) -> dict[str, dict[str, dict[str, float]]]:
    """The optimum in each bin of the horizon that has facts, where the first hidden snapshot is `start`."""
    edges = pairwise([*HORIZONS.values(), len(optimum.num_facts) + 1])
    found = {
        name: optimum.compute(start + low - 1, start + high - 1)
        for name, (low, high) in zip(HORIZONS, edges, strict=True)
    }
    return {name: values for name, values in found.items() if values}


def _each_part(config: SyntheticConfig, step: Callable[[pa.Table], pa.Table], name: str) -> Iterator[dict[str, bytes]]:
    """What a step returns for each part, with progress."""
    parts = _parts(config)
    items = ray.data.from_items(parts, override_num_blocks=len(parts))
    with progress(name, len(parts), unit="files") as advance:
        for done, row in enumerate(
            items.map_batches(step, batch_size=None, batch_format="pyarrow").iter_rows(), start=1
        ):
            yield row
            advance(done)


def _parts(config: SyntheticConfig) -> list[dict[str, int]]:
    """The groups [start, stop) of each file, which is cut between groups after every so many facts."""
    ends = np.array(list(accumulate(group.num_facts for group in plan_groups(config))))
    cuts = [0, *(np.flatnonzero(np.diff((ends - 1) // _FACTS_A_FILE)) + 1).tolist(), len(ends)]
    return [{"index": index, "start": start, "stop": stop} for index, (start, stop) in enumerate(pairwise(cuts))]


def _part_writer(config: SyntheticConfig, folder: Path) -> Callable[[pa.Table], pa.Table]:
    """A table of one part → its file; returns the sums of its optimum, and which entities it has, a bit each."""

    def step(parts: pa.Table) -> pa.Table:
        (part,), world = parts.to_pylist(), World(config)
        optimum, seen = Optimum.empty(config.snapshots), np.zeros(config.entities, bool)
        with open_writer(folder / f"part-{part['index']:05d}.parquet", FACTS) as writer:
            for group in plan_groups(config)[part["start"] : part["stop"]]:
                made = world.generate(group)
                optimum = optimum.merge(Optimum.of(made, config.snapshots))
                for facts in made.facts:
                    seen[facts.subject] = seen[facts.object] = True
                    writer.write_table(facts.table())
        columns = {"sums": [optimum.sums.tobytes()], "seen": [np.packbits(seen).tobytes()]}
        return pa.table({name: pa.array(value, pa.large_binary()) for name, value in columns.items()})

    return step


def _part_cutter(config: SyntheticConfig, start: int) -> Callable[[pa.Table], pa.Table]:
    """A table of one part → the sums of its multi-step optimum, where the snapshots from `start` on are hidden."""

    def step(parts: pa.Table) -> pa.Table:
        (part,), world = parts.to_pylist(), World(config)
        optimum = Optimum.empty(config.snapshots)
        for group in plan_groups(config)[part["start"] : part["stop"]]:
            optimum = optimum.merge(Optimum.after(Cut(world.generate(group), start, config.noise, config.snapshots)))
        return pa.table({"sums": pa.array([optimum.sums.tobytes()], pa.large_binary())})

    return step


def _boundaries(optimum: Optimum) -> tuple[int, int]:
    """Timestamps at which validation and test begin where `prepare` divides time by its default fractions."""
    timestamps = np.flatnonzero(optimum.num_facts)
    axis = TimeAxis.fit("integer", "auto", TimestampRange.of(timestamps))
    snapshot, count = axis.snapshot(timestamps), optimum.num_facts[timestamps]
    timeline = Timeline.merge([Timeline(snapshot, count), Timeline(snapshot + 1, -count)])
    valid, test = choose_boundaries(SplitConfig(), axis, timeline, {}, [])
    return int(axis.label(valid)), int(axis.label(test))
