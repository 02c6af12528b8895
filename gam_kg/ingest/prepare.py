"""Facts in files → the files of `graph/`, with every row either stored or quarantined.

Rows are read, validated and grouped twice: once by (subject, relation, object), to find duplicates and merge facts of
the same snapshot, and once by bucket, after names have become ids. `Blocks` say where that is done: in this process, or
by the tasks of a pipeline. This process has the vocabulary and the number of facts of each snapshot in memory.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import Content
from gam_kg.config import Config
from gam_kg.data_config import ColumnsConfig, DataConfig
from gam_kg.errors import DataError
from gam_kg.ingest import merged_blocks
from gam_kg.ingest.blocks import Blocks, LocalBlocks
from gam_kg.ingest.entity_features import EntityFeatures, check_columns
from gam_kg.ingest.fact_reader import (
    FactsSummary,
    Reader,
    read_date_digits,
    read_facts,
    read_quarantine,
    require_short,
    summarise_facts,
)
from gam_kg.ingest.feature_words import FILE as FEATURES
from gam_kg.ingest.look_alikes import report_look_alikes
from gam_kg.ingest.merged_blocks import MergedSummary
from gam_kg.ingest.merging import merge_facts
from gam_kg.ingest.open_facts import FILE as OPEN_FILE
from gam_kg.ingest.quarantine import Quarantine
from gam_kg.ingest.sources import RowGroup, Sources
from gam_kg.ingest.splits import Extremes, choose_boundaries, count_splits, merge_extremes
from gam_kg.ingest.time_axis import TimeAxis, TimestampRange
from gam_kg.ingest.time_notes import Notes, decide_kind, decide_unit, report_zone, require_one_clock, require_used
from gam_kg.ingest.time_types import time_form
from gam_kg.ingest.timestamps import ZONED, TimeKind
from gam_kg.ingest.validation import DUPLICATE, RENAMED
from gam_kg.ingest.vocabulary import Vocabulary, entity_table, relation_table, vocabulary_hash
from gam_kg.ingest.whole_files import read_whole_files
from gam_kg.parquet import write_table
from gam_kg.schemas import OPEN_FACTS, SNAPSHOTS

ROWS_A_PARTITION = 250_000
_SUMMARIES_AT_ONCE = 16

AnyBlocks = TypeVar("AnyBlocks", bound=Blocks)


@dataclass(frozen=True)
class FactsInput:
    """The checked input of a graph.

    Attributes:
        config: The configuration; of imported facts, the columns are our own.
        reader: Reads the files.
        kind: What the schemas say of the timestamps.
        groups: The row groups of the files.
        features: Those of entities, if there are some.
    """

    config: Config
    reader: Reader
    kind: TimeKind | None
    groups: tuple[RowGroup, ...]
    features: EntityFeatures | None

    @classmethod
    def check(cls, config: Config, sources: Sequence[Sources]) -> "FactsInput":
        """Look at the schemas of the files of facts and, behind them, of features, without reading the facts.

        Raises:
            ConfigError: Settings that do not fit the files.
            DataError: A file cannot be read or has other columns, or there are no rows.
        """
        facts, *features = sources
        if config.data.import_from is not None:
            # Importers write the columns under their own names.
            config = config.model_copy(update={"data": config.data.model_copy(update={"columns": ColumnsConfig()})})
        data = config.data
        time, groups = facts.check(data.columns, data.open_end)
        kind, form = time_form(data, time)
        # Boundaries win over a split column, whose values then do not matter.
        reader = Reader(facts, data.columns, form, data.normalize_names, data.split.valid_start is None)
        found = cls(config, reader, kind, groups, _read_features(features, data))
        if not found.num_rows:
            raise DataError(f"data.facts={config.data.facts}: {len(facts.paths)} file(s) without a single row")
        return found

    @property
    def num_rows(self) -> int:
        """Rows of all files, as these promise them."""
        return sum(group.num_rows for group in self.groups)

    def local_blocks(self) -> LocalBlocks:
        """The row groups, each to be read in this process."""
        return LocalBlocks([pa.Table.from_pylist([asdict(group)]) for group in self.groups])


@dataclass(frozen=True)
class _Merged(Generic[AnyBlocks]):
    """Merged facts (MERGED), and the time axis, the extremes of the splits and the notes of the rows they are from."""

    facts: AnyBlocks
    notes: Notes
    axis: TimeAxis
    extremes: Extremes


def make_graph(found: FactsInput, groups: Blocks, folder: Path) -> Content:
    """Write all files of a graph except the manifest.

    Args:
        found: The input.
        groups: Its row groups, a row each, where they are to be read.
        folder: Empty folder, which all who write buckets must see.

    Returns:
        The content of the manifest.

    Raises:
        ConfigError: Settings that do not fit the data.
        DataError: The input cannot be read, too many rows are bad, or a split would be empty.
    """
    quarantine = Quarantine(folder / Quarantine.NAME, found.config, found.num_rows)
    merged = _merge(found, groups, quarantine)
    totals = _totals(merged.facts.each(merged_blocks.summarise_merged))
    all_stored = merged.notes.num_rows == found.num_rows and not totals.duplicates
    quarantine.write([] if all_stored else _quarantined(found, groups, totals.duplicates))
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
    entities, relations = entity_table(merged.facts.tally(merged.notes.num_rows)), relation_table(totals.relations)
    names = Vocabulary.from_table(entities), Vocabulary.from_table(relations)
    snapshots, counts = totals.timeline.counts()
    timeline = pa.table([snapshots, counts], schema=SNAPSHOTS)
    for name, table in {"entities": entities, "relations": relations, "snapshots": timeline}.items():
        write_table(table, folder / f"{name}.parquet")
    num_anchored = _write_buckets(merged.facts, names, found.config.prepare.buckets, folder / "anchored")
    if found.config.data.open_end == "holds":
        write_table(_open_facts(merged.facts, names), folder / OPEN_FILE)
    features: Content = {}
    if found.features is not None:
        trained = entities["first_snapshot"].to_numpy() < boundaries[0]
        table, features["entity_features"] = found.features.encode(names[0], trained)
        write_table(table, folder / FEATURES)
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


def _read_features(sources: Sequence[Sources], data: DataConfig) -> EntityFeatures | None:
    if not sources:
        return None
    (found,) = sources
    tables = read_whole_files(found, data, partial(check_columns, file=found.names[0]))
    return EntityFeatures.of(found.key, dict(zip(found.names, tables, strict=True)), data.normalize_names)


def _merge(found: FactsInput, groups: AnyBlocks, quarantine: Quarantine) -> _Merged[AnyBlocks]:
    """Read, validate and merge; on return the validated facts are freed, for the next step needs the memory."""
    data, files = found.config.data, found.reader.sources.names
    facts = groups.map(partial(read_facts, reader=found.reader)).computed()
    known = _summaries(facts)
    if not known:
        quarantine.write(_quarantined(found, groups, {}))
        quarantine.refuse_all()
    assert found.kind is not None, "good rows have typed timestamps"
    notes = Notes.merge(summary.notes for summary in known)
    require_one_clock(notes, files)
    report_zone(notes, data.time_zone, found.reader.form)
    kind = decide_kind(found.kind, found.reader.form, notes, files)
    if kind != found.kind:
        facts = facts.map(read_date_digits).computed()
        known = _summaries(facts)
    require_used(data.time_zone, kind)
    unit = decide_unit(data.time_unit, kind, notes)
    axis, last = _time_axis(kind, unit, found, known)
    if data.time_zone is None and not notes.count(ZONED):
        axis = replace(axis, zone=None)
    partitions = -(-notes.num_rows // ROWS_A_PARTITION)
    list_duplicates = found.config.prepare.duplicates == "refuse"
    merge = partial(merge_facts, axis=axis, open_stop=last, list_duplicates=list_duplicates)
    divided = facts.map(partial(merged_blocks.add_partition, partitions=partitions))
    merged = divided.by("partition", merge).computed()
    return _Merged(merged, notes, axis, merge_extremes(summary.extremes for summary in known))


def _summaries(facts: Blocks) -> list[FactsSummary]:
    """Those of all blocks that have facts."""
    return [summary for summary in facts.each(summarise_facts) if summary.timestamps]


def _time_axis(
    kind: TimeKind, unit: int | str, found: FactsInput, known: list[FactsSummary]
) -> tuple[TimeAxis, int | None]:
    """The time axis, and the last snapshot of the data if facts without an end hold up to it."""
    ranges = [summary.timestamps for summary in known if summary.timestamps]
    axis = TimeAxis.fit(kind, unit, TimestampRange.merge(ranges), found.reader.form)
    holds = found.config.data.open_end == "holds"
    last = int(axis.snapshot(np.array([max(summary.latest for summary in known)]))[0]) if holds else None
    require_short(axis, known, found.reader.sources.names, last)
    return axis, last


def _totals(summaries: Iterator[MergedSummary]) -> MergedSummary:
    """Merge the summaries as they come, so that only a few of them are in memory beside the sums."""
    totals = MergedSummary.merge([])
    while some := list(itertools.islice(summaries, _SUMMARIES_AT_ONCE)):
        totals = MergedSummary.merge([totals, *some])
    return totals


def _quarantined(found: FactsInput, groups: Blocks, duplicates: dict[int, np.ndarray]) -> Iterator[pa.Table]:
    """Bad rows in the order of the input, read from it again: reading good input stores nothing of them."""
    return groups.map(partial(read_quarantine, reader=found.reader), refused={DUPLICATE: duplicates}).tables()


def _write_buckets(merged: Blocks, names: tuple[Vocabulary, Vocabulary], buckets: int, folder: Path) -> int:
    entities, relations = (vocabulary.names for vocabulary in names)
    anchor = partial(merged_blocks.anchor_facts, buckets=buckets)
    anchored = merged.map(anchor, entities=entities, relations=relations)
    written = anchored.by("bucket", partial(merged_blocks.write_bucket, folder=folder)).tables()
    return sum(sum(table["rows"].to_pylist()) for table in written)


def _open_facts(merged: Blocks, names: tuple[Vocabulary, Vocabulary]) -> pa.Table:
    """OPEN_FACTS in order; unlike other facts they are all in memory here, as ids."""
    entities, relations = (vocabulary.names for vocabulary in names)
    encoded = merged.map(merged_blocks.encode_open, entities=entities, relations=relations)
    together = pa.concat_tables([OPEN_FACTS.empty_table(), *(table.cast(OPEN_FACTS) for table in encoded.tables())])
    return together.sort_by([(name, "ascending") for name in OPEN_FACTS.names]).combine_chunks()
