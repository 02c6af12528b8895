"""The prepare stage: facts in Parquet → `graph/`, with every row either stored or quarantined.

Ray Data reads, validates and shuffles twice: once by (subject, relation, object), to find duplicates and merge facts of
the same snapshot, and once by bucket, after names have become ids. Tasks count and merge the names, in hashed
partitions. This process has the vocabulary and the number of facts of each snapshot in memory, never the facts. Workers
write the buckets into the run's folder, which on a cluster must therefore be shared storage.
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import Dataset

from gam_kg.artifacts import Content
from gam_kg.config import ColumnsConfig, Config
from gam_kg.errors import DataError
from gam_kg.ingest.merging import merge_facts
from gam_kg.ingest.splits import Extremes, choose_boundaries, count_splits, merge_extremes
from gam_kg.ingest.time_axis import TimeAxis, TimestampRange
from gam_kg.ingest.timestamps import TimeKind
from gam_kg.ingest.vocabulary import Vocabulary, entity_table, relation_table, vocabulary_hash
from gam_kg.parquet import write_table
from gam_kg.schemas import SNAPSHOTS
from pipelines import prepare_steps as steps
from pipelines.memory import Room
from pipelines.quarantine import Quarantine
from pipelines.ray_session import ray_session, starts_here
from pipelines.sources import RowGroup, Sources
from pipelines.stages import Stage, Task

# Intervals beyond this are open ends written as a far date, or a time unit too fine for the data.
MAX_SNAPSHOTS_PER_FACT = 100_000

_ROWS_A_BLOCK = 250_000
_ROWS_A_PARTITION = 250_000
_SUMMARIES_AT_ONCE = 16
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
    def options(self) -> dict[str, Any]:
        """How tasks read it; boundaries win over a split column, whose values then do not matter."""
        data = self.config.data
        return {"sources": self.sources, "columns": data.columns, "use_split": data.split.valid_start is None}

    def items(self) -> Dataset:
        blocks = min(len(self.groups), -(-self.num_rows // _ROWS_A_BLOCK))
        return ray.data.from_items([asdict(group) for group in self.groups], override_num_blocks=max(blocks, 1))


@dataclass(frozen=True)
class _Merged:
    """Merged facts (MERGED), and the time axis and the extremes of the splits of the `num_good` rows they are from."""

    facts: Dataset
    num_good: int
    axis: TimeAxis
    extremes: Extremes


def _write(task: Task) -> Content:
    """Vocabularies, anchored facts in buckets, and the rows that were quarantined.

    Raises:
        ConfigError: Settings that do not fit the data.
        DataError: The input cannot be read, too many rows are bad, or a split would be empty.
    """
    config, sources = task.config, task.sources
    assert sources is not None, "prepare reads files"
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
    with ray_session(num_cpus=room.tasks, object_store_memory=room.store):
        content = _make_graph(found, task.folder, room)
    if content["num_facts"] < 2 * content["num_snapshots"]:
        logger.warning(
            "%.1f facts a snapshot are few to learn from; a longer data.time_unit may be meant (now %s; a day is 86400 "
            "where timestamps count seconds)",
            content["num_facts"] / content["num_snapshots"],
            content["time"]["unit"],
        )
    return content


def _make_graph(found: _Input, staging: Path, room: Room) -> Content:
    """Write all files except the manifest, and return its content."""
    quarantine = Quarantine(staging / Quarantine.NAME, found.config, found.num_rows)
    merged = _merge(found, quarantine)
    totals = _totals(_each_block(merged.facts, steps.summarise_merged))
    all_stored = merged.num_good == found.num_rows and not totals.duplicates
    quarantine.write([] if all_stored else _quarantined(found, totals.duplicates))
    quarantine.check()
    axis, split = merged.axis, found.config.data.split
    boundaries = choose_boundaries(split, axis, totals.timeline, merged.extremes, found.sources.names)
    entities, relations = entity_table(_tally(merged, room)), relation_table(totals.relations)
    names = Vocabulary.from_table(entities), Vocabulary.from_table(relations)
    snapshots, counts = totals.timeline.counts()
    timeline = pa.table([snapshots, counts], schema=SNAPSHOTS)
    for name, table in {"entities": entities, "relations": relations, "snapshots": timeline}.items():
        write_table(table, staging / f"{name}.parquet")
    num_anchored = _write_buckets(merged.facts, names, found.config.prepare.buckets, staging / "anchored")
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
        "time": asdict(axis),
        "buckets": found.config.prepare.buckets,
        "vocabulary": vocabulary_hash(*names),
        "quarantined": quarantine.counts,
        "merged_in_snapshot": totals.merged,
    }


def _merge(found: _Input, quarantine: Quarantine) -> _Merged:
    """Read, validate and merge; on return the validated facts are freed, for the next step needs the memory."""
    facts = _map(found.items(), partial(steps.read_facts, **found.options)).materialize()
    known = [summary for summary in _each_block(facts, steps.summarise_facts) if summary.timestamps]
    if not known:
        quarantine.write(_quarantined(found, {}))
        quarantine.refuse("not one row of the facts can be used")
    axis = _time_axis(found, known)
    num_good = sum(summary.num_facts for summary in known)
    partitions = -(-num_good // _ROWS_A_PARTITION)
    merged = (
        _map(facts, partial(steps.add_partition, partitions=partitions))
        .groupby("partition")
        .map_groups(partial(merge_facts, axis=axis), batch_format="pyarrow")
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
            f"row {row} of {found.sources.names[source]} is valid from {axis.label(first)} to {axis.label(last)}, "
            f"{last - first + 1} snapshots; at most {MAX_SNAPSHOTS_PER_FACT} are allowed. Use a longer data.time_unit "
            f"(now {axis.unit}), or leave the end empty where it is not known"
        )
    return axis


def _tally(merged: _Merged, room: Room) -> pa.Table:
    """TALLY of all entities. Tasks merge it, each the names of one hashed partition; here they are concatenated."""
    partitions = min(-(-merged.num_good // _ROWS_A_PARTITION), _MOST_TALLIES)
    task = ray.remote(num_returns=partitions)(steps.tally_block)
    blocks = [task.remote(block, partitions) for block in merged.facts.to_arrow_refs()]
    parts = zip(*blocks, strict=True) if partitions > 1 else [blocks]
    merge = ray.remote(steps.merge_parts)
    tallies: list[pa.Table] = []
    for tally in [merge.remote(*part) for part in parts]:
        tallies.append(ray.get(tally))
        room.check_names(sum(one.nbytes for one in tallies))
    return pa.concat_tables(tallies)


def _totals(summaries: Iterator[steps.MergedSummary]) -> steps.MergedSummary:
    """Merge the summaries as they come, so that only a few of them are in memory beside the sums."""
    totals = steps.MergedSummary.merge([])
    while some := list(itertools.islice(summaries, _SUMMARIES_AT_ONCE)):
        totals = steps.MergedSummary.merge([totals, *some])
    return totals


def _quarantined(found: _Input, duplicates: dict[int, np.ndarray]) -> Iterator[pa.Table]:
    """Bad rows in the order of the input, read from it again: reading good input stores nothing of them."""
    read = partial(steps.read_quarantine, **found.options, duplicate_rows=ray.put(duplicates))
    return iter(_map(found.items(), read).iter_batches(batch_size=None, batch_format="pyarrow"))


def _write_buckets(merged: Dataset, names: tuple[Vocabulary, Vocabulary], buckets: int, folder: Path) -> int:
    entities, relations = (ray.put(vocabulary.names) for vocabulary in names)
    written = (
        _map(merged, partial(steps.anchor_facts, entities=entities, relations=relations, buckets=buckets))
        .groupby("bucket")
        .map_groups(partial(steps.write_bucket, folder=folder), batch_format="pyarrow")
    )
    return sum(row["rows"] for row in written.take_all())


def _map(dataset: Dataset, step: Callable[[pa.Table], pa.Table | Iterator[pa.Table]]) -> Dataset:
    return dataset.map_batches(step, batch_size=None, batch_format="pyarrow")


def _each_block(dataset: Dataset, summarise: Callable[[pa.Table], Summary]) -> Iterator[Summary]:
    """Summaries of the blocks of a materialised dataset, in order."""
    task = ray.remote(summarise)
    for summary in [task.remote(block) for block in dataset.to_arrow_refs()]:
        yield ray.get(summary)


def _settings(config: Config) -> dict[str, Any]:
    return {
        "data": config.data.model_dump(mode="json", exclude={"facts", "import_from"}),
        "prepare": config.prepare.model_dump(mode="json", exclude={"memory_gib"}),
    }


def _summary(_: Path, content: Content) -> str:
    return ", ".join(f"{content[f'num_{name}']} {name}" for name in ("facts", "entities", "relations", "snapshots"))


prepare = Stage(
    "graph",
    reads=(),
    files=lambda config: Sources.find(config.data.facts),
    settings=_settings,
    write=_write,
    summary=_summary,
    finish=lambda config: (config.run_path / Quarantine.NAME).unlink(missing_ok=True),
)
