"""The prepare stage: facts in Parquet → `graph/`, with every row either stored or quarantined.

Ray Data reads, validates and shuffles twice: once by (subject, relation, object), to find duplicates and merge what
shares a snapshot, and once by bucket, after names have become ids. Names are counted and merged by tasks, in hashed
partitions. This process holds the vocabulary and the number of facts of each snapshot, never the facts. Workers write
the buckets straight into the run's folder, which on a cluster must therefore be shared storage.
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import Dataset

from gam_kg.artifacts import Manifest, stage_key, write_manifest, writing
from gam_kg.config import ColumnsConfig, Config
from gam_kg.data.splits import Extremes, choose_boundaries, count_splits, merge_extremes
from gam_kg.data.time_axis import TimeAxis, TimestampRange
from gam_kg.data.timestamps import TimeKind
from gam_kg.data.vocabulary import Vocabulary, entity_table, relation_table, vocabulary_hash
from gam_kg.errors import DataError
from gam_kg.schemas import SNAPSHOTS
from pipelines import prepare_steps as steps
from pipelines.memory import Room
from pipelines.quarantine import Quarantine
from pipelines.ray_session import ray_session, starts_here
from pipelines.sources import RowGroup, Sources
from pipelines.stages import artifact_path, is_current

# Intervals beyond this are open ends written as a far date, or a time unit too fine for the data.
MAX_SNAPSHOTS_PER_FACT = 100_000

_ROWS_A_BLOCK = 250_000
_ROWS_A_PARTITION = 250_000
_SUMMARIES_HELD = 16
_MOST_TALLIES = 32

logger = logging.getLogger("gam_kg")
Summary = TypeVar("Summary")


@dataclass(frozen=True)
class _Input:
    """The checked input of one run of the stage."""

    config: Config
    sources: Sources
    kind: TimeKind | None
    groups: tuple[RowGroup, ...]

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self.groups)

    @property
    def use_split(self) -> bool:
        """Boundaries win over a split column, whose values then do not matter."""
        return self.config.data.split.valid_start is None

    def items(self) -> Dataset:
        blocks = min(len(self.groups), -(-self.num_rows // _ROWS_A_BLOCK))
        return ray.data.from_items([asdict(group) for group in self.groups], override_num_blocks=max(blocks, 1))


@dataclass(frozen=True)
class _Merged:
    """Merged facts (MERGED), and what was learnt of the `num_good` rows they are from."""

    facts: Dataset
    num_good: int
    axis: TimeAxis
    extremes: Extremes


def prepare(config: Config, *, force: bool = False) -> Path:
    """Make the run's `graph/` from `data.facts`, unless it is there already, made from the same facts and settings.

    Args:
        config: The run's configuration; `data` and `prepare` matter here.
        force: Make it anew in any case.

    Returns:
        The folder of the artifact.

    Raises:
        ConfigError: Settings that do not fit the data.
        DataError: The input cannot be read, too many rows are bad, or a split would be empty.
    """
    path = artifact_path(config, "graph")
    sources = Sources.find(config.data.facts)
    inputs = sources.hashes()
    settings = {
        "data": config.data.model_dump(mode="json", exclude={"facts", "import_from"}),
        "prepare": config.prepare.model_dump(mode="json", exclude={"memory_gib"}),
    }
    key = stage_key("graph", inputs, settings)
    if is_current(path, "graph", key, force=force):
        return path
    if config.data.import_from is not None:
        # Importers write the columns under their own names.
        config = config.model_copy(update={"data": config.data.model_copy(update={"columns": ColumnsConfig()})})
    kind, groups = sources.check(config.data.columns)
    found = _Input(config, sources, kind, groups)
    if not found.num_rows:
        raise DataError(f"data.facts={config.data.facts}: {len(sources.paths)} file(s) without a single row")
    limit = config.prepare.memory_gib
    if limit is not None and not starts_here():
        logger.warning("prepare.memory_gib=%g limits a Ray that is started here; one runs already and is used", limit)
        limit = None
    room = Room.of(limit)
    with ray_session(num_cpus=room.tasks, object_store_memory=room.store), writing(path) as staging:
        content = _make_graph(found, staging, room)
        write_manifest(staging, Manifest("graph", key, inputs, settings, content))
    (config.run_path / Quarantine.NAME).unlink(missing_ok=True)
    if content["num_facts"] < 2 * content["num_snapshots"]:
        logger.warning(
            "%.1f facts a snapshot are few to learn from; a longer data.time_unit may be meant (now %s; a day is 86400 "
            "where timestamps count seconds)",
            content["num_facts"] / content["num_snapshots"],
            content["time"]["unit"],
        )
    logger.info(
        "graph: %(num_facts)d facts, %(num_entities)d entities, %(num_relations)d relations, "
        "%(num_snapshots)d snapshots",
        content,
    )
    return path


def _make_graph(found: _Input, staging: Path, room: Room) -> dict[str, Any]:
    """Write everything but the manifest, and give its content."""
    quarantine = Quarantine(staging / Quarantine.NAME, found.config, found.num_rows)
    merged = _merge(found, quarantine)
    totals = _totals(_each_block(merged.facts, steps.summarise_merged))
    all_stored = merged.num_good == found.num_rows and not totals.duplicates
    quarantine.write([] if all_stored else _quarantined(found, totals.duplicates))
    quarantine.check()
    axis, split = merged.axis, found.config.data.split
    boundaries = choose_boundaries(split, axis, totals.timeline, merged.extremes, found.sources.names)
    entities, relations = entity_table(_tally(merged, room)), relation_table(totals.relations)
    pq.write_table(entities, staging / "entities.parquet", compression="zstd")
    pq.write_table(relations, staging / "relations.parquet", compression="zstd")
    names = Vocabulary.from_table(entities), Vocabulary.from_table(relations)
    num_anchored = _write_buckets(merged.facts, names, found.config.prepare.buckets, staging / "anchored")
    snapshots, counts = totals.timeline.counts()
    timeline = pa.table([snapshots, counts], schema=SNAPSHOTS)
    pq.write_table(timeline, staging / "snapshots.parquet", compression="zstd")
    num_facts = int(counts.sum())
    assert num_anchored == 2 * num_facts, f"{num_anchored} anchored facts written, 2 * {num_facts} expected"
    return {
        "num_facts": num_facts,
        "num_entities": len(entities),
        "num_relations": len(relations),
        "num_snapshots": len(snapshots),
        "first_snapshot": int(snapshots[0]),
        "last_snapshot": int(snapshots[-1]),
        "splits": count_splits(totals.timeline, boundaries),
        "valid_start": boundaries[0],
        "test_start": boundaries[1],
        "time": axis.to_dict(),
        "buckets": found.config.prepare.buckets,
        "vocabulary": vocabulary_hash(*names),
        "quarantined": quarantine.counts,
        "merged_in_snapshot": totals.merged,
    }


def _merge(found: _Input, quarantine: Quarantine) -> _Merged:
    """Read, validate and merge; the validated facts are let go of before the next step needs room."""
    read = steps.read_facts(found.sources, found.config.data.columns, use_split=found.use_split)
    facts = _map(found.items(), read).materialize()
    known = [summary for summary in _each_block(facts, steps.summarise_facts) if summary.timestamps]
    if not known:
        quarantine.write(_quarantined(found, {}))
        quarantine.refuse("not one row of the facts can be used")
    axis = _time_axis(found, known)
    num_good = sum(summary.num_facts for summary in known)
    partitions = -(-num_good // _ROWS_A_PARTITION)
    merged = (
        facts.map_batches(steps.add_partition(partitions), batch_size=None, batch_format="pyarrow")
        .groupby("partition")
        .map_groups(steps.merge_partition(axis), batch_format="pyarrow")
        .materialize()
    )
    return _Merged(merged, num_good, axis, merge_extremes(summary.extremes for summary in known))


def _time_axis(found: _Input, known: list[steps.FactsSummary]) -> TimeAxis:
    assert found.kind is not None, "good rows have typed timestamps"
    ranges = [summary.timestamps for summary in known if summary.timestamps]
    axis = TimeAxis.fit(found.kind, found.config.data.time_unit, TimestampRange.merge(ranges))
    _, start, end, source, row = max(summary.longest for summary in known)
    first, last = axis.snapshot(np.array([start, end])).tolist()
    if last - first >= MAX_SNAPSHOTS_PER_FACT:
        raise DataError(
            f"row {row} of {found.sources.names[source]} holds from {axis.label(first)} to {axis.label(last)}, "
            f"{last - first + 1} snapshots; at most {MAX_SNAPSHOTS_PER_FACT} are allowed. Use a longer data.time_unit "
            f"(now {axis.unit}), or leave the end empty where it is not known"
        )
    return axis


def _tally(merged: _Merged, room: Room) -> pa.Table:
    """TALLY of all entities. Tasks merge it, each the names of one hashed partition; here it is only put together."""
    partitions = min(-(-merged.num_good // _ROWS_A_PARTITION), _MOST_TALLIES)
    task = ray.remote(num_returns=partitions)(steps.tally_block(partitions))
    blocks = [task.remote(block) for block in merged.facts.to_arrow_refs()]
    parts = zip(*blocks, strict=True) if partitions > 1 else [blocks]
    merge = ray.remote(steps.merge_parts)
    tallies: list[pa.Table] = []
    for tally in [merge.remote(*part) for part in parts]:
        tallies.append(ray.get(tally))
        room.check_names(sum(one.nbytes for one in tallies))
    return pa.concat_tables(tallies)


def _totals(summaries: Iterator[steps.MergedSummary]) -> steps.MergedSummary:
    """Merge as the summaries come, so that no more than a few of them are held beside the sums."""
    totals = steps.MergedSummary.merge([])
    while some := list(itertools.islice(summaries, _SUMMARIES_HELD)):
        totals = steps.MergedSummary.merge([totals, *some])
    return totals


def _quarantined(found: _Input, duplicates: dict[int, np.ndarray]) -> Iterator[pa.Table]:
    """Bad rows in the order of the input, read again from it: while all is well nothing is kept of them."""
    rows = ray.put(duplicates)
    read = steps.read_quarantine(found.sources, found.config.data.columns, rows, use_split=found.use_split)
    return iter(_map(found.items(), read).iter_batches(batch_size=None, batch_format="pyarrow"))


def _write_buckets(merged: Dataset, names: tuple[Vocabulary, Vocabulary], buckets: int, folder: Path) -> int:
    entities, relations = (ray.put(vocabulary.names) for vocabulary in names)
    written = (
        _map(merged, steps.anchor_facts(entities, relations, buckets))
        .groupby("bucket")
        .map_groups(steps.write_bucket(folder), batch_format="pyarrow")
    )
    return sum(row["rows"] for row in written.take_all())


def _map(dataset: Dataset, step: steps.TableStep) -> Dataset:
    return dataset.map_batches(step, batch_size=None, batch_format="pyarrow")


def _each_block(dataset: Dataset, summarise: Callable[[pa.Table], Summary]) -> Iterator[Summary]:
    """Summaries of the blocks of a materialised dataset, in order."""
    task = ray.remote(summarise)
    for summary in [task.remote(block) for block in dataset.to_arrow_refs()]:
        yield ray.get(summary)
