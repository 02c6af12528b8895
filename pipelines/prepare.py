"""The prepare stage: facts in Parquet → `graph/`, with every row either stored or quarantined.

Ray Data reads, validates and shuffles twice: once by (subject, relation, object), to find duplicates and merge facts of
the same snapshot, and once by bucket, after names have become ids. Tasks count and merge the names, in hashed
partitions. This process has the vocabulary and the number of facts of each snapshot in memory, never the facts. Workers
write the buckets into the run's folder, which on a cluster must therefore be shared storage.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import Dataset

from gam_kg.artifacts import Content
from gam_kg.config import Config
from gam_kg.data_config import ColumnsConfig, DataConfig
from gam_kg.errors import DataError
from gam_kg.ingest.entity_features import EntityFeatures, check_columns
from gam_kg.ingest.fact_reader import FactsSummary, Reader, read_date_digits, read_facts, require_short, summarise_facts
from gam_kg.ingest.feature_words import FILE as FEATURES
from gam_kg.ingest.look_alikes import report_look_alikes
from gam_kg.ingest.merging import merge_facts
from gam_kg.ingest.open_facts import FILE as OPEN_FILE
from gam_kg.ingest.quarantine import Quarantine
from gam_kg.ingest.sources import RowGroup, Sources
from gam_kg.ingest.splits import Extremes, choose_boundaries, count_splits, merge_extremes
from gam_kg.ingest.time_axis import TimeAxis, TimestampRange
from gam_kg.ingest.time_notes import Notes, decide_kind, decide_unit, report_zone, require_one_clock, require_used
from gam_kg.ingest.time_types import time_form
from gam_kg.ingest.timestamps import ZONED, TimeKind
from gam_kg.ingest.validation import RENAMED
from gam_kg.ingest.vocabulary import Vocabulary, entity_table, relation_table, vocabulary_hash
from gam_kg.parquet import write_table
from gam_kg.schemas import OPEN_FACTS, SNAPSHOTS
from . import prepare_steps as steps
from .memory import Room
from .prepare_report import summarise, warn_of_quality
from .query_files import read_whole_files
from .ray_session import ray_session, starts_here
from .stages import Stage, Task
from .workflow import GRAPH

_ROWS_A_BLOCK = 250_000
_ROWS_A_PARTITION = 250_000
_SUMMARIES_AT_ONCE = 16
_MOST_TALLIES = 32

logger = logging.getLogger("gam_kg")
Summary = TypeVar("Summary")


@dataclass(frozen=True)
class _Input:
    """The checked input of one run of the stage.

    `kind` is what the schemas say of the timestamps; `features` are those of entities, if there are some.
    """

    config: Config
    reader: Reader
    kind: TimeKind | None
    groups: tuple[RowGroup, ...]
    features: EntityFeatures | None

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self.groups)

    def items(self) -> Dataset:
        blocks = min(len(self.groups), -(-self.num_rows // _ROWS_A_BLOCK))
        return ray.data.from_items([asdict(group) for group in self.groups], override_num_blocks=max(blocks, 1))


@dataclass(frozen=True)
class _Merged:
    """Merged facts (MERGED), and the time axis, the extremes of the splits and the notes of the rows they are from."""

    facts: Dataset
    notes: Notes
    axis: TimeAxis
    extremes: Extremes


def _write(task: Task) -> Content:
    """Vocabularies, features of entities, anchored facts in buckets, and the rows that were quarantined.

    Raises:
        ConfigError: Settings that do not fit the data.
        DataError: The input cannot be read, too many rows are bad, or a split would be empty.
    """
    config, (sources, *features) = task.config, task.sources
    if config.data.import_from is not None:
        # Importers write the columns under their own names.
        config = config.model_copy(update={"data": config.data.model_copy(update={"columns": ColumnsConfig()})})
    data = config.data
    time, groups = sources.check(data.columns, data.open_end)
    kind, form = time_form(data, time)
    # Boundaries win over a split column, whose values then do not matter.
    reader = Reader(sources, data.columns, form, data.normalize_names, data.split.valid_start is None)
    found = _Input(config, reader, kind, groups, _read_features(features, data))
    if not found.num_rows:
        raise DataError(f"data.facts={config.data.facts}: {len(sources.paths)} file(s) without a single row")
    limit = config.prepare.memory_gib
    if limit is not None and not starts_here():
        logger.warning("prepare.memory_gib=%g limits a Ray that is started here; one runs already and is used", limit)
        limit = None
    room = Room.of(limit)
    with ray_session(num_cpus=room.tasks, object_store_memory=room.store):
        content = _make_graph(found, task.folder, room)
    warn_of_quality(content)
    return content


def _read_features(sources: Sequence[Sources], data: DataConfig) -> EntityFeatures | None:
    if not sources:
        return None
    (found,) = sources
    tables = read_whole_files(found, data, partial(check_columns, file=found.names[0]))
    return EntityFeatures.of(found.key, dict(zip(found.names, tables, strict=True)), data.normalize_names)


def _make_graph(found: _Input, staging: Path, room: Room) -> Content:
    """Write all files except the manifest, and return its content."""
    quarantine = Quarantine(staging / Quarantine.NAME, found.config, found.num_rows)
    merged = _merge(found, quarantine)
    totals = _totals(_each_block(merged.facts, steps.summarise_merged))
    all_stored = merged.notes.num_rows == found.num_rows and not totals.duplicates
    quarantine.write([] if all_stored else _quarantined(found, totals.duplicates))
    num_duplicates = sum(map(len, totals.duplicates.values()))
    num_read = merged.notes.num_rows + sum(quarantine.counts.values()) - num_duplicates
    if num_read != found.num_rows:
        raise DataError(
            f"data.facts={found.config.data.facts}: {num_read} rows were read, but the files promise "
            f"{found.num_rows}; a file is damaged, or was changed meanwhile"
        )
    quarantine.check()
    axis, split = merged.axis, found.config.data.split
    boundaries = choose_boundaries(split, axis, totals.timeline, merged.extremes, found.reader.sources.names)
    entities, relations = entity_table(_tally(merged, room)), relation_table(totals.relations)
    names = Vocabulary.from_table(entities), Vocabulary.from_table(relations)
    snapshots, counts = totals.timeline.counts()
    timeline = pa.table([snapshots, counts], schema=SNAPSHOTS)
    for name, table in {"entities": entities, "relations": relations, "snapshots": timeline}.items():
        write_table(table, staging / f"{name}.parquet")
    num_anchored = _write_buckets(merged.facts, names, found.config.prepare.buckets, staging / "anchored")
    if found.config.data.open_end == "holds":
        write_table(_open_facts(merged.facts, names), staging / OPEN_FILE)
    features: Content = {}
    if found.features is not None:
        trained = entities["first_snapshot"].to_numpy() < boundaries[0]
        table, features["entity_features"] = found.features.encode(names[0], trained)
        write_table(table, staging / FEATURES)
    num_facts = int(counts.sum())
    assert num_anchored == 2 * num_facts, f"{num_anchored} anchored facts written, 2 * {num_facts} expected"
    return {
        "num_rows": found.num_rows,
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
        "left_out": found.reader.sources.num_left_out,
        "quarantined": quarantine.counts,
        "merged": totals.merged - num_duplicates,
        "integer_names": merged.notes.integer_names,
        "names_changed": merged.notes.count(RENAMED),
        "look_alikes": {vocabulary.kind: report_look_alikes(vocabulary.names, vocabulary.kind) for vocabulary in names},
        **features,
    }


def _merge(found: _Input, quarantine: Quarantine) -> _Merged:
    """Read, validate and merge; on return the validated facts are freed, for the next step needs the memory."""
    data, files = found.config.data, found.reader.sources.names
    facts = _map(found.items(), partial(read_facts, reader=found.reader)).materialize()
    known = _summaries(facts)
    if not known:
        quarantine.write(_quarantined(found, {}))
        quarantine.refuse_all()
    assert found.kind is not None, "good rows have typed timestamps"
    notes = Notes.merge(summary.notes for summary in known)
    require_one_clock(notes, files)
    report_zone(notes, data.time_zone, found.reader.form)
    kind = decide_kind(found.kind, found.reader.form, notes, files)
    if kind != found.kind:
        facts = _map(facts, read_date_digits).materialize()
        known = _summaries(facts)
    require_used(data.time_zone, kind)
    unit = decide_unit(data.time_unit, kind, notes)
    axis, last = _time_axis(kind, unit, found, known)
    if data.time_zone is None and not notes.count(ZONED):
        axis = replace(axis, zone=None)
    partitions = -(-notes.num_rows // _ROWS_A_PARTITION)
    merged = (
        _map(facts, partial(steps.add_partition, partitions=partitions))
        .groupby("partition")
        .map_groups(
            partial(
                merge_facts,
                axis=axis,
                open_stop=last,
                list_duplicates=found.config.prepare.duplicates == "refuse",
            ),
            batch_format="pyarrow",
        )
        .materialize()
    )
    return _Merged(merged, notes, axis, merge_extremes(summary.extremes for summary in known))


def _summaries(facts: Dataset) -> list[FactsSummary]:
    """Those of all blocks that have facts."""
    return [summary for summary in _each_block(facts, summarise_facts) if summary.timestamps]


def _time_axis(
    kind: TimeKind, unit: int | str, found: _Input, known: list[FactsSummary]
) -> tuple[TimeAxis, int | None]:
    """The time axis, and the last snapshot of the data if facts without an end hold up to it."""
    ranges = [summary.timestamps for summary in known if summary.timestamps]
    axis = TimeAxis.fit(kind, unit, TimestampRange.merge(ranges), found.reader.form)
    holds = found.config.data.open_end == "holds"
    last = int(axis.snapshot(np.array([max(summary.latest for summary in known)]))[0]) if holds else None
    require_short(axis, known, found.reader.sources.names, last)
    return axis, last


def _tally(merged: _Merged, room: Room) -> pa.Table:
    """TALLY of all entities. Tasks merge it, each the names of one hashed partition; here they are concatenated."""
    partitions = min(-(-merged.notes.num_rows // _ROWS_A_PARTITION), _MOST_TALLIES)
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
    read = partial(steps.read_quarantine, reader=found.reader, duplicate_rows=ray.put(duplicates))
    return iter(_map(found.items(), read).iter_batches(batch_size=None, batch_format="pyarrow"))


def _write_buckets(merged: Dataset, names: tuple[Vocabulary, Vocabulary], buckets: int, folder: Path) -> int:
    entities, relations = (ray.put(vocabulary.names) for vocabulary in names)
    written = (
        _map(merged, partial(steps.anchor_facts, entities=entities, relations=relations, buckets=buckets))
        .groupby("bucket")
        .map_groups(partial(steps.write_bucket, folder=folder), batch_format="pyarrow")
    )
    return sum(row["rows"] for row in written.take_all())


def _open_facts(merged: Dataset, names: tuple[Vocabulary, Vocabulary]) -> pa.Table:
    """OPEN_FACTS in order; unlike other facts they are all in memory here, as ids."""
    entities, relations = (ray.put(vocabulary.names) for vocabulary in names)
    encoded = _map(merged, partial(steps.encode_open, entities=entities, relations=relations))
    tables: Iterator[pa.Table] = iter(encoded.iter_batches(batch_size=None, batch_format="pyarrow"))
    together = pa.concat_tables([OPEN_FACTS.empty_table(), *(table.cast(OPEN_FACTS) for table in tables)])
    return together.sort_by([(name, "ascending") for name in OPEN_FACTS.names]).combine_chunks()


def _map(dataset: Dataset, step: Callable[[pa.Table], pa.Table | Iterator[pa.Table]]) -> Dataset:
    return dataset.map_batches(step, batch_size=None, batch_format="pyarrow")


def _each_block(dataset: Dataset, summarise: Callable[[pa.Table], Summary]) -> Iterator[Summary]:
    """Summaries of the blocks of a materialised dataset, in order."""
    task = ray.remote(summarise)
    for summary in [task.remote(block) for block in dataset.to_arrow_refs()]:
        yield ray.get(summary)


prepare = Stage(
    GRAPH,
    write=_write,
    summary=lambda _, content: summarise(content),
    finish=lambda config: (config.run_path / Quarantine.NAME).unlink(missing_ok=True),
)
